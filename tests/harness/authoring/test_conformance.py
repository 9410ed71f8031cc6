"""`check`: every method of the project keeps the contract, and each way of breaking it is caught by the check meant for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from click.testing import Result
from torch import Tensor, nn

from pudnet_bench.harness.authoring.checks import CHECKS, logits_difference
from pudnet_bench.harness.authoring.conformance import run_check, run_checks
from pudnet_bench.harness.authoring.subject import Subject
from pudnet_bench.methods import registry
from pudnet_bench.methods.base import Dataset, Episode, GroupStream, Method, MethodError, Session, Snapshot, TargetSpec
from pudnet_bench.methods.meta_training import train_until_converged
from pudnet_bench.methods.metric import euclidean_logits, prototypes
from pudnet_bench.suites.groups import FamilyImages

CommandLine = Callable[..., Result]
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"epochs": (1, 2)} for name in ("adam", "gc", "finetune")},
    "musml": {"n_subspaces": 2, "inner_steps": 2},
}
NO_GPU = {"GPU"} if not torch.cuda.is_available() else set()
LEARNING = {
    "meta-training leaves a state of tensors",
    "meta-training is reproducible",
    "meta-training can be resumed",
    "milestones are saved",
    "the state is complete",
}


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_method_keeps_the_contract(name: str, digits_images: FamilyImages, imagenet_weights: str) -> None:
    options, target = SHORT.get(name, {}), "convnet3"
    if name == "pretrained-imagenet":
        options, target = {"weights": imagenet_weights, "image_size": 32}, "resnet18"
    method = registry.find(name)
    outcomes = dict(run_checks(Subject(method, target, digits_images, options)))
    assert list(outcomes) == list(CHECKS)
    assert not {title: o.reason for title, o in outcomes.items() if o.state == "failed"}
    skipped = {title for title, o in outcomes.items() if o.state == "skipped"}
    assert skipped == NO_GPU | (set() if method.meta_trains() else LEARNING)


class Sound(Method):
    """A small method that keeps the contract: class means of one normalised linear layer, a little noise, two snapshots."""

    name = "sound"

    def __init__(self, target: TargetSpec, n_training_classes: int) -> None:
        super().__init__(target, n_training_classes)
        self.module = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16))

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.module(images.flatten(1))
        return features

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-3)

        def losses(episode: Episode) -> dict[str, Tensor]:
            support, query = episode.support, episode.query
            means = prototypes(self.features(support.images), support.labels, support.n_classes)
            logits = euclidean_logits(F.dropout(self.features(query.images), 0.1), means)
            return {"loss": F.cross_entropy(logits, query.labels)}

        train_until_converged(self, self.module, optimizer, groups.episodes, losses, groups, session)

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.module.eval()
        means = prototypes(self.features(dataset.images), dataset.labels, dataset.n_classes)
        for epoch in (1, 2):
            means = means + 0.01 * torch.randn_like(means)
            yield self.snapshot(means, f"{epoch} epochs")

    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            return euclidean_logits(self.features(images), means)

        return Snapshot(classify, name)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)

    def to(self, device: torch.device) -> None:
        self.module.to(device)


class Wordless(Sound):
    def __init__(self, target: TargetSpec, n_training_classes: int) -> None:
        raise ValueError("nothing works")


class NoSuper(Sound):
    def __init__(self, target: TargetSpec, n_training_classes: int) -> None:
        self.module = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16))


class NotOnlyTensors(Sound):
    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "steps": 3}  # type: ignore[dict-item]


class LearnsNothing(Sound):
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class SharedMemory(Sound):
    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        return {**state, "again": state["0.weight"]}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict({name: value for name, value in state.items() if name != "again"})


class Blows(Sound):
    def meta_train(self, groups: GroupStream, session: Session) -> None:
        session.report(1, {"loss": float("nan")})


class OwnGenerator(Sound):
    """Its training draws from a generator that nobody seeds."""

    generator = np.random.default_rng(0)

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        super().meta_train(groups, session)
        with torch.no_grad():
            self.module[0].bias.add_(float(self.generator.random()))  # type: ignore[operator, union-attr]


class Forgets(Sound):
    """Half of what it learned is not in the state."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in super().state_dict().items() if name.startswith("1.")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state, strict=False)


class OwnLoop(Sound):
    """A loop that knows neither saving nor milestones."""

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        session.checkpoint_due, session.milestones = lambda: False, ()
        super().meta_train(groups, session)


class NeverAsks(Sound):
    """Meets its milestones and leaves saving alone."""

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        session.checkpoint_due = lambda: False
        super().meta_train(groups, session)


class StartsAgain(Sound):
    """Saves, and does not go on from what was saved: its second half is the first half again."""

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        if session.checkpoint is not None:
            session.budget = type(session.budget)(session.budget.max_groups - 1, 2, 4)
            session.checkpoint = None
        super().meta_train(groups, session)


class NotSeeded(Sound):
    generator = torch.Generator().manual_seed(0)

    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        return super().snapshot(means + torch.randn(means.shape, generator=self.generator), name)


class Remembers(Sound):
    """Each fit moves the method."""

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        yield from super().fit(dataset)
        with torch.no_grad():
            self.module[0].weight.add_(0.01)  # type: ignore[operator, union-attr]


class OneTooMany(Sound):
    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        return super().snapshot(torch.cat((means, means[:1])), name)


class NoSnapshot(Method):
    name = "no-snapshot"

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        yield from ()


class NotFinite(Sound):
    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        return super().snapshot(means / 0, name)


class Undecided(Sound):
    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        return super().snapshot(means[:1].expand_as(means), name)


class Exits(Sound):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        raise SystemExit("no licence")


class Peeks(Sound):
    """BatchNorm in training mode when test images are classified."""

    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        classify = super().snapshot(means, name).classifier

        def in_training_mode(images: Tensor) -> Tensor:
            self.module[1].train()
            logits = classify(images)
            self.module[1].eval()
            return logits

        return Snapshot(in_training_mode, name)


class CountsOn(Sound):
    """An image's logits depend on its place among the test images."""

    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        classify = super().snapshot(means, name).classifier
        return Snapshot(lambda images: classify(images) + torch.arange(len(images)).unsqueeze(1).fmod(7), name)


class ChangesImages(Sound):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        dataset.images.add_(1)
        yield from super().fit(dataset)
        dataset.images.sub_(1).mul_(0.5)


class ChangesLabels(Sound):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        yield from super().fit(dataset)
        dataset.labels.zero_()


class ChangesTestImages(Sound):
    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        classify = super().snapshot(means, name).classifier
        return Snapshot(lambda images: classify(images.mul_(1.001)), name)


class NoMoreGradients(Sound):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        torch.set_grad_enabled(False)
        yield from super().fit(dataset)


class SameName(Sound):
    def snapshot(self, means: Tensor, name: str) -> Snapshot:
        return super().snapshot(means, "epochs")


class ForTwo(Sound):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        if dataset.n_classes != 2:
            raise ValueError("two classes, please")
        yield from super().fit(dataset)


class RefusesFive(ForTwo):
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        if dataset.n_classes != 2:
            raise MethodError("refuses-five takes two classes")
        yield from super().fit(dataset)


BROKEN: dict[type[Method], tuple[str, str]] = {
    Wordless: ("can be constructed and has a name", r"ValueError: nothing works \(.*test_conformance\.py, line \d+\)"),
    NoSuper: ("can be constructed and has a name", r"must call super\(\)\.__init__"),
    NotOnlyTensors: ("meta-training leaves a state of tensors", "int under 'steps'; tensors only"),
    LearnsNothing: ("meta-training leaves a state of tensors", "state_dict is empty"),
    SharedMemory: ("meta-training leaves a state of tensors", "share memory"),
    Blows: ("meta-training leaves a state of tensors", "DivergenceError: .* loss is nan"),
    OwnGenerator: ("meta-training is reproducible", r"0\.bias differs between two meta-trainings"),
    Forgets: ("the state is complete", "after load_state_dict into a fresh instance"),
    StartsAgain: ("meta-training can be resumed", "ends differently if interrupted"),
    OwnLoop: ("milestones are saved", "called never; .*train_until_converged"),
    NoSnapshot: ("logits are finite and of the right shape", "no snapshot"),
    OneTooMany: ("logits are finite and of the right shape", r"shape \(100, 3\) for 100 images of 2 classes"),
    NotFinite: ("logits are finite and of the right shape", "200 of 200 logits are not finite"),
    Undecided: ("logits are finite and of the right shape", "each of 100 images has equal logits for all 2 classes"),
    Exits: ("logits are finite and of the right shape", "SystemExit: no licence"),
    NotSeeded: ("fit is reproducible", "global generator"),
    Remembers: ("fit is reproducible", "a second fit of one instance gives other logits"),
    Peeks: ("test images are classified independently", "two halves"),
    CountsOn: ("test images are classified independently", "differ"),
    ChangesImages: ("fit has no side effects", "the images of the fit dataset"),
    ChangesLabels: ("fit has no side effects", "the labels of the fit dataset"),
    ChangesTestImages: ("fit has no side effects", "the images of the test dataset"),
    NoMoreGradients: ("fit has no side effects", "is_grad_enabled.. is False, not True when fit yields"),
    SameName: ("snapshots are named and stable", "2 snapshots are named 'epochs'"),
    ForTwo: ("groups of other sizes", "two classes, please with a group of 5 classes"),
}


def test_a_method_that_keeps_the_contract_passes(digits_images: FamilyImages) -> None:
    outcomes = dict(run_checks(Subject(Sound, "convnet3", digits_images)))
    assert {title for title, o in outcomes.items() if o.state != "ok"} == NO_GPU, outcomes
    assert outcomes["snapshots are named and stable"].reason == "1 epochs, 2 epochs"


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_each_fault_is_caught_by_its_check(method: type[Method], digits_images: FamilyImages) -> None:
    images = digits_images
    title, said = BROKEN[method]
    outcome = run_check(CHECKS[title], Subject(method, "convnet3", images))
    assert outcome.state == "failed"
    assert re.search(said, outcome.reason), outcome.reason
    assert torch.is_grad_enabled()  # whatever the method did


@pytest.mark.parametrize("method", [Peeks, NotFinite, OneTooMany, SameName, ChangesLabels, Forgets, OwnGenerator])
def test_a_fault_is_not_blamed_on_what_comes_before_it(method: type[Method], digits_images: FamilyImages) -> None:
    outcomes = dict(run_checks(Subject(method, "convnet3", digits_images)))
    first = next(title for title, outcome in outcomes.items() if outcome.state == "failed")
    assert first == BROKEN[method][0]


def test_what_cannot_be_trained_is_asked_nothing_more(digits_images: FamilyImages) -> None:
    states = [outcome.state for _, outcome in run_checks(Subject(Blows, "convnet3", digits_images))]
    assert states == ["ok", "failed", *["skipped"] * (len(CHECKS) - 2)]


def test_a_training_that_never_asks_to_be_saved_is_skipped_with_the_reason(digits_images: FamilyImages) -> None:
    outcomes = dict(run_checks(Subject(NeverAsks, "convnet3", digits_images)))
    assert "failed" not in {outcome.state for outcome in outcomes.values()}
    resumed = outcomes["meta-training can be resumed"]
    assert (resumed.state, "never calls session.checkpoint_due" in resumed.reason) == ("skipped", True)


def test_a_refusal_in_words_is_no_fault(digits_images: FamilyImages) -> None:
    outcome = run_check(CHECKS["groups of other sizes"], Subject(RefusesFive, "convnet3", digits_images))
    assert outcome.state == "ok"
    assert outcome.reason == "5 classes: refused, refuses-five takes two classes"


def test_logits_differ_by_more_than_rounding() -> None:
    ones = torch.ones(3, 2)
    assert logits_difference(ones, ones + 1e-6) == ""
    assert logits_difference(100 * ones, 100 * ones + 1e-3) == ""
    assert "0.01" in logits_difference(ones, ones + 0.01)
    assert "nan" in logits_difference(ones, ones * torch.nan)
    assert "(3, 2) and (3, 3)" in logits_difference(ones, torch.ones(3, 3))


# --- the command ------------------------------------------------------------------------------------------------------


def test_check_says_a_line_for_each_check(command_line: CommandLine) -> None:
    done = command_line("check", "protonet")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "protonet on digits, convnet3, cpu"
    for line, title in zip(lines[1:-1], CHECKS, strict=True):
        assert line.split(maxsplit=1)[0] in ("ok", "skipped")
        assert line.split(maxsplit=1)[1].startswith(title)
    assert "fit " in lines[-2]
    assert lines[-1].startswith(f"{len(CHECKS) - len(NO_GPU)} ok, 0 failed, {len(NO_GPU)} skipped, in ")


def test_a_failed_check_is_exit_code_1(command_line: CommandLine, method_file: Callable[..., str]) -> None:
    done = command_line("check", method_file("raise ValueError('not yet')\nyield"))
    assert done.exit_code == 1, done.output
    assert "failed   logits are finite and of the right shape: ValueError: not yet (own.py, line " in done.stdout
    assert "Traceback" not in done.output
    assert "Traceback" in command_line("check", method_file("raise ValueError('not yet')\nyield"), "--debug").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py:Mine"], "nowhere.py' does not exist"),
        (["nowhere.py"], "check takes FILE.py:Class, and 'nowhere.py' names no class"),
        (["protonte"], "unknown method 'protonte'; did you mean 'protonet'?"),
        (["protonet", "--target", "convnet"], "unknown target 'convnet'; did you mean 'convnet3'?"),
        (["protonet", "--option", "ways"], "--option takes NAME=VALUE, not 'ways'"),
        (["protonet", "--option", "ways=3"], "method 'protonet' does not take the options {'ways': 3}"),
        (["pretrained-imagenet"], "needs a target that timm has weights for"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_cannot_be_checked_is_exit_code_2(arguments: list[str], said: str, command_line: CommandLine) -> None:
    done = command_line("check", *arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_file_that_fails_to_import_is_exit_code_2(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("import not_there\n")
    done = command_line("check", "failing.py:Mine")
    assert done.exit_code == 2
    assert "fails to import: ModuleNotFoundError" in done.stderr


def test_options_reach_the_method(command_line: CommandLine) -> None:
    done = command_line("check", "adam", "--option", "epochs=(1,)")
    assert done.exit_code == 0, done.output
    assert "snapshots are named and stable\n" in done.stdout  # of one snapshot there is nothing to tell
