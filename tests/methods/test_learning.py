"""Every method learns from real digits, repeats itself under a seed, and stops training when the budget says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import Budget, Dataset, DivergenceError, Group, Method, Session, Snapshot, TargetSpec
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.matchnet import MatchNet
from pudnet_bench.methods.meta_baseline import MetaBaseline
from pudnet_bench.methods.meta_training import train_until_converged, validation_accuracy
from pudnet_bench.methods.pretrained import Pretrained
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.scratch import Adam
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.sources.content import Source

TARGET = TargetSpec("convnet3", (1, 8, 8))


def accuracy(snapshot: Snapshot, group: Group) -> float:
    return float((snapshot.classifier(group.test.images).argmax(1) == group.test.labels).float().mean())


@pytest.fixture(scope="module")
def distracting() -> FamilyImages:
    """Classes differ in the first channel alone; the two others are as loud and say nothing.

    Digits are too easy to tell whether meta-training works: an untrained ConvNet-3 has 85 to 95% on unseen ones.
    """
    rng = np.random.default_rng(0)
    classes, per_class = 26, 60
    labels = np.repeat(np.arange(classes), per_class)
    signal = rng.standard_normal((classes, 1, 2, 2))[labels]
    coarse = np.concatenate((signal, rng.standard_normal((len(labels), 2, 2, 2))), 1)
    values = coarse.repeat(4, -1).repeat(4, -2) + 0.3 * rng.standard_normal((len(labels), 3, 8, 8))
    pixels = np.clip(128 + 30 * values, 0, 255).astype(np.uint8)
    source = Source("distracting", pixels, labels, tuple(str(c) for c in range(classes)), "")
    family = Family("distracting", "Distracting-set", "distracting", 20, 6, 2, 60, 4, 100)
    return FamilyImages(family, source, torch.device("cpu"))


def meta_trained(make: Callable[..., Method], images: FamilyImages, groups: int) -> Method:
    torch.manual_seed(0)
    method = make(TargetSpec("convnet3", images.image_shape), images.family.training_classes)
    if groups:
        method.meta_train(TrainingStream(images, seed=0), Session(Budget(groups, 20, 3)))
    return method


def unseen_accuracies(method: Method, images: FamilyImages, n: int = 10) -> list[float]:
    groups = [images.group("unseen", 0, index) for index in range(n)]
    return [accuracy(snapshot, group) for group in groups for snapshot in method.fit(group.fit)]


@pytest.mark.parametrize("make", [PudNet, ProtoNet, Pretrained, MatchNet, MetaBaseline])
def test_meta_trained_methods_classify_unseen_digits(make: type[Method], digits: FamilyImages) -> None:
    accuracies = unseen_accuracies(meta_trained(make, digits, 25), digits)
    assert len(accuracies) == 10  # one snapshot per group
    assert sum(accuracies) / 10 > 0.65  # chance is 0.5


@pytest.mark.parametrize("make", [PudNet, ProtoNet, Pretrained, MatchNet, MetaBaseline])
def test_meta_training_teaches_what_to_look_at_in_unseen_classes(make: type[Method], distracting: FamilyImages) -> None:
    before = sum(unseen_accuracies(meta_trained(make, distracting, 0), distracting)) / 10
    after = sum(unseen_accuracies(meta_trained(make, distracting, 40), distracting)) / 10
    assert after > 0.9
    assert 1 - after < (1 - before) / 2


@pytest.mark.parametrize("make", [PudNet, ProtoNet, Pretrained, MatchNet, MetaBaseline])
def test_meta_training_lowers_the_loss_it_reports(make: type[Method], digits: FamilyImages) -> None:
    session = Session(Budget(30, 10, 3))
    torch.manual_seed(0)
    make(TARGET, 6).meta_train(TrainingStream(digits, seed=0), session)
    assert [row["groups"] for row in session.curve] == [10, 20, 30]
    assert session.curve[-1]["loss"] < session.curve[0]["loss"]


@pytest.mark.parametrize("make", [PudNet, ProtoNet, Pretrained, MatchNet, MetaBaseline])
def test_meta_training_repeats_itself_under_a_seed_and_learns_the_groups_it_is_given(
    make, digits: FamilyImages
) -> None:
    def state_after(stream_seed: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        method = make(TARGET, 6)
        method.meta_train(TrainingStream(digits, stream_seed), Session(Budget(5, 20, 3)))
        return method.state_dict()

    first, again, other = state_after(0), state_after(0), state_after(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("make", [Adam, GC])
def test_training_from_scratch_learns_one_group_and_hands_over_three_snapshots(make, digits: FamilyImages) -> None:
    group = digits.group("unseen", 0, 0)

    def run() -> list[tuple[str, float, float]]:
        torch.manual_seed(0)
        return [(s.name, s.epochs, accuracy(s, group)) for s in make(TARGET, 6).fit(group.fit)]

    snapshots = run()
    assert [(name, epochs) for name, epochs, _ in snapshots] == [("1 epochs", 1), ("30 epochs", 30), ("50 epochs", 50)]
    assert snapshots[1][2] > 0.9
    assert snapshots[2][2] > 0.9
    assert run() == snapshots


def test_gc_is_not_adam(digits: FamilyImages) -> None:
    group, logits = digits.group("unseen", 0, 0), []
    for make in (Adam, GC):
        torch.manual_seed(0)
        (snapshot,) = make(TARGET, 6, epochs=(2,)).fit(group.fit)
        logits.append(snapshot.classifier(group.test.images))
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_looking_at_a_snapshot_does_not_change_the_training_that_goes_on(digits: FamilyImages) -> None:
    group = digits.group("unseen", 0, 0)

    def last_logits(epochs: tuple[int, ...]) -> Tensor:
        torch.manual_seed(0)
        for snapshot in Adam(TARGET, 6, epochs=epochs).fit(group.fit):
            logits = snapshot.classifier(group.test.images)
        return logits

    assert torch.equal(last_logits((1, 2, 4)), last_logits((4,)))


def test_a_last_batch_of_one_image_is_no_obstacle(make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8), ways=3, per_class=11)  # 33 images: one batch of 32 and one image
    (snapshot,) = Adam(TARGET, 6, epochs=(1,)).fit(dataset)
    logits = snapshot.classifier(dataset.images)
    assert logits.shape == (33, 3)
    assert torch.isfinite(logits).all()


# --- the loop of meta-training ---


def from_one(first: int, stride: int) -> Iterator[int]:
    return itertools.count(first + 1, stride)


class Threshold(Method):
    """Says class 1 where the only pixel is above `self.module.bias`: its validation accuracy is known in advance."""

    name = "threshold"

    def __init__(self) -> None:
        super().__init__(TargetSpec("none", (1, 1, 1)), 2)
        self.module = nn.BatchNorm1d(1)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.module.eval()
        yield Snapshot(
            lambda images: torch.stack((self.module.bias - images.flatten(), images.flatten() - self.module.bias), 1)
        )


class Stream:
    """Validation groups whose test pixels are 0 (class 0) and 1..10 (class 1); nothing to train on is needed."""

    def __init__(self, validation: int) -> None:
        pixels = torch.arange(11.0).reshape(-1, 1, 1, 1)
        data = Dataset(pixels, (pixels.flatten() > 0).long(), 2)
        self.groups = [Group(index, data, data) for index in range(validation)]

    def validation_groups(self) -> Iterator[Group]:
        return iter(self.groups)


def train_with_thresholds(
    thresholds: Callable[[int], float], budget: Budget, validation: int = 2
) -> tuple[Threshold, Session, list[bool]]:
    """Step i sets the threshold to `thresholds(i)`; also says whether the module was in training mode at each step."""
    method, session, modes = Threshold(), Session(budget), []

    def losses(i: int) -> dict[str, Tensor]:
        modes.append(method.module.training)
        method.module.bias.data.fill_(thresholds(i))
        return {"loss": 0 * method.module.bias.sum() + i}

    optimizer = torch.optim.SGD(method.module.parameters())
    train_until_converged(method, method.module, optimizer, from_one, losses, Stream(validation), session)  # type: ignore[arg-type]
    return method, session, modes


def test_validation_accuracy_is_the_mean_over_groups() -> None:
    method = Threshold()
    method.module.bias.data.fill_(4.5)  # pixels 1 to 4 are taken for class 0
    assert validation_accuracy(method, Stream(3).groups) == pytest.approx(7 / 11)


def test_training_stops_when_patience_is_spent_and_the_best_state_returns() -> None:
    # The threshold comes down to 0.5 (all right) at step 6 and goes up again: checks at 2, 4, 6 gain, 8, 10, 12 do not.
    method, session, modes = train_with_thresholds(lambda i: 0.5 + abs(i - 6), Budget(100, check_every=2, patience=3))
    assert len(modes) == 12
    assert all(modes)
    assert session.chosen_groups == 6
    assert method.module.bias.item() == 0.5
    checks = {int(row["groups"]): row["validation_accuracy"] for row in session.curve if "validation_accuracy" in row}
    assert list(checks) == [2, 4, 6, 8, 10, 12]
    assert checks[6] == 1.0
    assert checks[4] == checks[8] == pytest.approx(9 / 11)


def test_an_equal_accuracy_is_not_a_better_one() -> None:
    method, session, modes = train_with_thresholds(lambda i: 0.5 + i / 1000, Budget(100, check_every=5, patience=2))
    assert len(modes) == 15
    assert session.chosen_groups == 5
    assert method.module.bias.item() == pytest.approx(0.505)


def test_patience_counts_checks_in_a_row() -> None:
    # One bad check between two gains does not end the training.
    gains = {2: 5.5, 4: 6.5, 6: 4.5, 8: 6.5, 10: 3.5, 12: 6.5, 14: 6.5}
    _, session, modes = train_with_thresholds(lambda i: gains.get(i, 9.5), Budget(100, check_every=2, patience=2))
    assert (len(modes), session.chosen_groups) == (14, 10)


def test_the_last_group_is_checked_even_between_checks() -> None:
    method, session, modes = train_with_thresholds(lambda i: 10.5 - i, Budget(7, check_every=5, patience=3))
    assert (len(modes), session.chosen_groups, method.module.bias.item()) == (7, 7, 3.5)


def test_without_validation_all_groups_are_trained_on_and_the_last_state_stays() -> None:
    method, session, modes = train_with_thresholds(
        lambda i: float(i), Budget(23, check_every=2, patience=1), validation=0
    )
    assert (len(modes), session.chosen_groups, method.module.bias.item()) == (23, 23, 23.0)
    assert [row["groups"] for row in session.curve] == [10, 20, 23]
    assert not any("validation_accuracy" in row for row in session.curve)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(bad: float) -> None:
    method, session = Threshold(), Session(Budget(100, 50, 3))

    def losses(i: int) -> dict[str, Tensor]:
        return {"loss": 0 * method.module.bias.sum() + (bad if i >= 15 else 1.0)}

    optimizer = torch.optim.SGD(method.module.parameters())
    with pytest.raises(DivergenceError, match=r"loss is .*(nan|inf) after 20 groups"):
        train_until_converged(method, method.module, optimizer, from_one, losses, Stream(1), session)  # type: ignore[arg-type]
    assert [row["groups"] for row in session.curve] == [10, 20]


def test_what_is_watched_is_what_is_recorded() -> None:
    seen: list[dict[str, float]] = []
    session = Session(Budget(1, 1, 1), on_report=lambda groups, metrics: seen.append({"groups": groups, **metrics}))
    session.report(3, {"loss": 0.5})
    assert seen == session.curve == [{"groups": 3, "loss": 0.5}]


def test_pudnet_chooses_its_length_on_held_out_digits(digits: FamilyImages) -> None:
    torch.manual_seed(0)
    method, session = PudNet(TARGET, 6), Session(Budget(20, 5, 2))
    stream = TrainingStream(digits, seed=0, validation=3)
    method.meta_train(stream, session)
    checks = {row["groups"]: row["validation_accuracy"] for row in session.curve if "validation_accuracy" in row}
    assert session.chosen_groups == max(checks, key=lambda groups: checks[groups])  # the first of the best
    assert validation_accuracy(method, list(stream.validation_groups())) == pytest.approx(checks[session.chosen_groups])
