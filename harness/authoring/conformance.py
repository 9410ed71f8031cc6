"""Whether a method keeps the contract of ``methods/base.py``: small checks on embedded digits, one outcome each.

The checks ask what the harness relies on when it times, stores, resumes and shares; they train for a few groups and say
nothing of how good a method is. Computed in float32, so that the same numbers can be asked for bit for bit.
"""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from pudnet_bench.harness.measuring.clock import Clock, timed
from pudnet_bench.harness.measuring.device import Precision
from pudnet_bench.methods import registry, targets
from pudnet_bench.methods.base import (
    Budget,
    Checkpoint,
    Classifier,
    Dataset,
    Method,
    MethodError,
    Session,
    Snapshot,
    TargetSpec,
)
from pudnet_bench.suites.declaration import pick
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.sources.loading import load

SEED = 1
GROUPS, CHECK_EVERY, VALIDATION_GROUPS = 4, 2, 1  # of a meta-training: enough for two checks and two milestones
FITS = 5  # whose median is the time of a fit
ONE_BY_ONE = 5  # test images classified alone; halves and another order stand for the rest

State = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """What came of a check, and why; of one that is ok, what was seen ("" for nothing worth a word)."""

    state: State
    reason: str = ""
    error: Exception | None = None


OK = CheckResult("ok")


def failed(reason: str) -> CheckResult:
    """The method breaks the contract; ``reason`` says how, and what to do."""
    return CheckResult("failed", reason)


def skipped(reason: str) -> CheckResult:
    """The check does not apply, or cannot be made here."""
    return CheckResult("skipped", reason)


class _Stopped(KeyboardInterrupt):
    """Ends a meta-training from within ``session.save``, as Ctrl-C and a cluster's warning do."""


@dataclass(frozen=True)
class Subject:
    """A method under test: its class, its options, the target, and the images of a family, on a CPU.

    What several checks need (a meta-trained state) is computed once, on first use.
    """

    method: type[Method]
    target: str
    images: FamilyImages
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = Precision.FP32

    def make(self) -> Method:
        """A fresh instance, as random as torch's generator. Raises whatever its ``__init__`` does."""
        spec = TargetSpec(self.target, self.images.image_shape)
        method = self.method(spec, self.images.family.training_classes, **self.options)
        if self.precision == "bf16":
            method.autocast = partial(torch.autocast, self.images.device.type, torch.bfloat16)
        method.to(self.images.device)
        return method

    @cached_property
    def base(self) -> Subject | None:
        """The subject that this one builds on (``Method.starts_from``)."""
        built_on = self.method.starts_from(self.options)
        if built_on is None:
            return None
        name, options = built_on
        return replace(self, method=registry.find(name), options=options)

    @property
    def learns(self) -> bool:
        return self.method.meta_trains()

    def ready(self) -> Method:
        """An instance that can fit: with the state that a short meta-training leaves, as the harness restores it."""
        state = self.stored if self.learns else {}
        torch.manual_seed(SEED + 1)  # what is not in the state must not agree by chance
        method = self.make()
        if self.learns:
            method.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        elif self.base is not None:
            method.start_from(self.base.ready())
        return method

    def train(self, session: Session, validation_groups: int = VALIDATION_GROUPS) -> Method:
        """An instance meta-trained from the start, or from ``session.saved``."""
        base = self.base.ready() if self.base is not None else None
        torch.manual_seed(SEED)
        method = self.make()
        if base is not None:
            method.start_from(base)
        method.meta_train(TrainingStream(self.images, SEED, validation_groups), session)
        return method

    @cached_property
    def trained(self) -> tuple[Method, int]:
        """An instance meta-trained for a few groups, and how often it asked whether to save."""
        asked = 0

        def due() -> bool:
            nonlocal asked
            asked += 1
            return False

        method = self.train(Session(budget(), due=due, seed=SEED))
        return method, asked

    @cached_property
    def trained_on_all(self) -> Method:
        """An instance meta-trained for a few groups without validation: the last state is the one that counts."""
        return self.train(Session(budget(), seed=SEED), validation_groups=0)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """The state after that meta-training, through the format of artifacts."""
        state = self.trained[0].state_dict()
        return safetensors.torch.load(
            safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
        )

    @property
    def datasets(self) -> tuple[Dataset, Dataset]:
        """The images to fit and those to test of an unseen group; new tensors, which a method may have changed before."""
        group = self.images.group("unseen", SEED, 0)
        return group.fit, group.test

    def dataset(self, ways: int, images: int) -> tuple[Dataset, Dataset]:
        """Fit and test images of a group of another size, of the training classes, of which there are more."""
        other = copy(self.images)
        other.family = replace(other.family, ways=ways, images=images, test_images=images)
        group = other.group("training", SEED, 0)
        return group.fit, group.test


def budget() -> Budget:
    return Budget(GROUPS, CHECK_EVERY, patience=GROUPS)


def logits_of(method: Method, fit: Dataset, test: Dataset, seed: int = SEED) -> list[Tensor]:
    """The logits [n, n_classes] on all of ``test`` of each snapshot, taken while it is valid."""
    torch.manual_seed(seed)
    return [snapshot.classifier(test.images).detach().clone() for snapshot in method.fit(fit)]


def difference(a: Tensor, b: Tensor) -> str:
    """In words how two tensors of logits differ beyond rounding; "" where they do not."""
    if a.shape != b.shape:
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    scale = max(1.0, float(a.abs().max())) if a.numel() else 1.0
    apart = float((a - b).abs().max()) if a.numel() else 0.0
    return "" if apart <= 1e-4 * scale else f"logits differ by up to {apart:.3g}"  # not (apart > ...): nan differs too


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """The first name under which two states differ in any bit; "" where they are the same."""
    if a.keys() != b.keys():
        return min(a.keys() ^ b.keys())
    return next((name for name in a if not _same(a[name], b[name])), "")


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _all_same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


def not_tensors(state: Mapping[Any, Any]) -> str:
    """What of ``state`` is no tensor under a name, in words; "" where all is."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return f"state_dict holds {type(value).__name__} under {name!r}; tensors only, under names"
    return ""


NOT_LEARNING = skipped("no meta-training of its own")


# --- The checks, in the order of the report ---------------------------------------------------------------------------


def can_be_made(subject: Subject) -> CheckResult:
    """``Method(target, n_training_classes, **options)`` and ``to(device)`` work."""
    method = subject.make()
    if not isinstance(getattr(method, "n_training_classes", None), int):
        return failed("__init__ must call super().__init__(target, n_training_classes)")
    return CheckResult("ok", f"its rows are named '{method.name}'")


def learns_a_state(subject: Subject) -> CheckResult:
    """A short meta-training leaves a ``state_dict`` that is not empty and of tensors only."""
    if not subject.learns:
        return NOT_LEARNING
    if wrong := not_tensors(subject.make().state_dict()):  # asked first: the training itself copies states
        return failed(wrong)
    method, _ = subject.trained
    state = method.state_dict()
    if wrong := not_tensors(state):
        return failed(wrong)
    if not state:
        return failed("meta_train learned, and state_dict is empty: implement state_dict and load_state_dict")
    lost = next((name for name, value in state.items() if not torch.isfinite(value.float()).all()), "")
    if lost:
        return failed(f"after {GROUPS} groups '{lost}' of state_dict is not finite; train with smaller steps")
    _ = subject.stored  # it can be written, too
    return CheckResult("ok", f"{len(state)} tensors after {GROUPS} groups")


def trains_the_same_twice(subject: Subject) -> CheckResult:
    """The same seed leaves the same state, bit for bit."""
    if not subject.learns:
        return NOT_LEARNING
    again = subject.train(Session(budget(), seed=SEED)).state_dict()
    name = differing(subject.trained[0].state_dict(), again)
    if name:
        return failed(
            f"two meta-trainings from one seed differ in '{name}'; draw random numbers from torch's global generator only"
        )
    return OK


def state_round_trip(subject: Subject) -> CheckResult:
    """A fresh instance with the stored state has the same logits as the one that was trained."""
    if not subject.learns:
        return NOT_LEARNING
    before = logits_of(subject.trained[0], *subject.datasets)
    after = logits_of(subject.ready(), *subject.datasets)
    if len(before) != len(after):
        return failed(
            f"{len(before)} snapshots before load_state_dict into a fresh instance, and {len(after)} after it"
        )
    for a, b in zip(before, after, strict=True):
        if apart := difference(a, b):
            return failed(
                f"{apart} after load_state_dict into a fresh instance; put all that was learned into state_dict"
            )
    return OK


def resumes(subject: Subject) -> CheckResult:
    """A meta-training stopped after its first step, or before its last, ends bit for bit as one that was not."""
    if not subject.learns:
        return NOT_LEARNING
    validated, asked = subject.trained
    if asked < 2:
        return skipped("it never asks session.due, so a stopped meta-training starts again from the beginning")
    # Without validation every step shows in the end; with it, the best state so far must be saved, too.
    for whole, validation_groups, stop in (
        (subject.trained_on_all, 0, 1),
        (subject.trained_on_all, 0, asked - 1),
        (validated, VALIDATION_GROUPS, asked - 1),
    ):
        progress = stopped_after(subject, stop, validation_groups)
        if progress is None:
            return failed("session.due said yes, and session.save was not called with the progress")
        if wrong := not_tensors(progress.tensors):
            return failed(wrong.replace("state_dict holds", "session.save was given"))
        # As the harness keeps it: numbers as JSON, tensors in a file that forgets their layout in memory.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in progress.tensors.items()}
        saved = Checkpoint(json.loads(json.dumps(progress.numbers)), tensors)
        resumed = subject.train(Session(budget(), saved=saved, seed=SEED), validation_groups)
        if name := differing(whole.state_dict(), resumed.state_dict()):
            return failed(
                f"stopped after step {stop} of {asked} and resumed, it ends with another '{name}'; save all that the next "
                "step depends on, random state included, and go on from session.saved"
            )
    return CheckResult("ok", "stopped after the first step, and before the last")


def stopped_after(subject: Subject, stop: int, validation_groups: int) -> Checkpoint | None:
    """The progress that is saved when the harness asks for it at the ``stop``-th question; None where none is saved."""
    asked = 0
    kept: list[Checkpoint] = []

    def due() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop

    def save(progress: Checkpoint) -> None:
        # Copied at once, as the harness does: the tensors are those that training goes on with.
        kept.append(replace(progress, tensors={k: _copied(v) for k, v in progress.tensors.items()}))
        raise _Stopped

    with suppress(_Stopped):
        subject.train(Session(budget(), due=due, save=save, seed=SEED), validation_groups)
    return kept[0] if kept else None


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def keeps_milestones(subject: Subject) -> CheckResult:
    """``session.keep`` is called with a state of tensors at each milestone, the last being what is left in the end."""
    if not subject.learns:
        return NOT_LEARNING
    milestones = (GROUPS // 2, GROUPS)
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(groups_seen: int, state: dict[str, Tensor]) -> None:
        kept[groups_seen] = {name: _copied(value) for name, value in state.items()}

    method = subject.train(Session(budget(), milestones=milestones, keep=keep, seed=SEED), validation_groups=0)
    if tuple(sorted(kept)) != milestones:
        called = f"after {', '.join(map(str, sorted(kept)))} groups" if kept else "never"
        return failed(
            f"session.keep must be called after {' and '.join(map(str, milestones))} groups (session.milestones), and was "
            f"called {called}; methods.meta_training.train_until_converged does it"
        )
    wrong = next(filter(None, map(not_tensors, kept.values())), "")
    if wrong:
        return failed(wrong.replace("state_dict holds", "session.keep was given"))
    name = differing(kept[GROUPS], method.state_dict())
    if name:
        return failed(f"the state kept after the last group differs from the one at the end in '{name}'")
    return OK


def fits_the_same_twice(subject: Subject) -> CheckResult:
    """The same seed gives the same logits bit for bit, whatever was fitted before."""
    method = subject.ready()
    first = logits_of(method, *subject.datasets)
    if not _all_same(first, logits_of(method, *subject.datasets)):
        if _all_same(first, logits_of(subject.ready(), *subject.datasets)):
            return failed(
                "a second fit of one instance has other logits than the first; fit must not change the method"
            )
        return failed(
            "two fits with one seed have other logits; draw random numbers from torch's global generator only"
        )
    other = subject.images.group("unseen", SEED, 1)
    logits_of(method, other.fit, other.test)
    if not _all_same(first, logits_of(method, *subject.datasets)):
        return failed("a group's logits depend on the group fitted before; fit must not change the method")
    return OK


def logits_are_sound(subject: Subject) -> CheckResult:
    """At least one snapshot, and from each finite logits of shape [n, n_classes]."""
    fit, test = subject.datasets
    found = logits_of(subject.ready(), fit, test)
    if not found:
        return failed("fit yielded no snapshot; it must yield at least one")
    for logits in found:
        wrong = unsound(logits, test)
        if wrong:
            return failed(wrong)
    return OK


def unsound(logits: Tensor, test: Dataset) -> str:
    """What is wrong with the logits of ``test``, in words; "" where nothing is."""
    wanted = (len(test), test.n_classes)
    if tuple(logits.shape) != wanted:
        return (
            f"logits of shape {tuple(logits.shape)} for {wanted[0]} images of {wanted[1]} classes; it must be {wanted}"
        )
    if not torch.isfinite(logits).all():
        return f"{int((~torch.isfinite(logits)).sum())} of {logits.numel()} logits are not finite"
    return ""


def does_not_peek(subject: Subject) -> CheckResult:
    """An image's logits depend neither on the other test images nor on their order, nor on what was classified before."""
    fit, test = subject.datasets
    torch.manual_seed(SEED)
    for snapshot in subject.ready().fit(fit):
        wrong = peeking(snapshot.classifier, test.images)
        if wrong:
            return failed(f"{wrong}; BatchNorm and its like must be in evaluation mode when test images are classified")
    return OK


@torch.no_grad()
def peeking(classifier: Classifier, images: Tensor) -> str:
    """How the logits of an image depend on its company, in words; "" where they do not."""
    together = classifier(images).clone()
    half = len(images) // 2
    halves = torch.cat([classifier(part) for part in (images[:half], images[half:])])
    if apart := difference(together, halves):
        return f"{apart} when test images come in two halves"
    alone = torch.cat([classifier(image.unsqueeze(0)) for image in images[:ONE_BY_ONE]])
    if apart := difference(together[:ONE_BY_ONE], alone):
        return f"{apart} when a test image comes alone"
    if apart := difference(together.flip(0), classifier(images.flip(0))):
        return f"{apart} when test images come in another order"
    if apart := difference(together, classifier(images)):
        return f"{apart} when test images are classified a second time"
    return ""


def leaves_all_as_it_was(subject: Subject) -> CheckResult:
    """``fit`` and its classifiers change neither images nor labels nor torch's global settings."""
    fit, test = subject.datasets
    before = settings()
    torch.manual_seed(SEED)
    try:
        for snapshot in subject.ready().fit(fit):
            if changed := changes(before, settings()):
                return failed(f"fit hands over a snapshot with {changed}; put it back before the yield")
            snapshot.classifier(test.images)
            if changed := changes(before, settings()):
                return failed(f"the classifier leaves {changed}; put it back before it returns")
        if changed := changes(before, settings()):
            return failed(f"fit ends with {changed}; put it back")
    finally:
        torch.set_grad_enabled(before["torch.is_grad_enabled()"])
        torch.set_default_dtype(before["torch.get_default_dtype()"])
        torch.set_num_threads(before["torch.get_num_threads()"])
    for name, now, then in zip(("fit", "test"), (fit, test), subject.datasets, strict=True):
        for what in ("images", "labels"):
            if not torch.equal(getattr(now, what), getattr(then, what)):
                return failed(f"the {what} of the {name} dataset were changed; work on a copy")
    return OK


def settings() -> dict[str, Any]:
    """What of torch is global and would reach every other method."""
    return {
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {now[name]}, which was {before[name]}" for name in before if now[name] != before[name])


def snapshots_hold(subject: Subject) -> CheckResult:
    """Snapshots have distinct names and answer the same until ``fit`` is resumed, whatever is computed meanwhile."""
    fit, test = subject.datasets
    names = []
    torch.manual_seed(SEED)
    for snapshot in subject.ready().fit(fit):
        if not isinstance(snapshot, Snapshot):
            return failed(f"fit yields {type(snapshot).__name__}; it must yield methods.base.Snapshot")
        names.append(snapshot.name)
        with torch.no_grad():
            first = snapshot.classifier(test.images).clone()
            snapshot.classifier(fit.images)
            again = snapshot.classifier(test.images)
        if apart := difference(first, again):
            return failed(f"snapshot '{snapshot.name}': {apart} when it is asked again before fit is resumed")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return failed(f"{names.count(twice[0])} snapshots are named '{twice[0]}'; give each a name of its own")
    return CheckResult("ok", ", ".join(names) if len(names) > 1 else "")


def takes_other_groups(subject: Subject) -> CheckResult:
    """Groups of 5 ways, of few images and of classes of unequal size: sound logits, or a MethodError that says why not."""
    fit, test = subject.datasets
    of_first = int((fit.labels == 0).sum())
    keep = torch.cat((torch.arange(12), torch.arange(of_first, len(fit))))
    unequal = Dataset(fit.images[keep], fit.labels[keep], fit.n_classes), test
    notes = []
    for what, (known, asked) in {
        "5 classes": subject.dataset(5, 100),
        "10 images a class": subject.dataset(2, 20),
        "classes of unequal size": unequal,
    }.items():
        try:
            found = logits_of(subject.ready(), known, asked)
        except MethodError as error:
            notes.append(f"{what}: refused, {error}")
            continue
        except Exception as error:
            error.add_note(f"with a group of {what}")
            raise
        wrong = next(filter(None, (unsound(logits, asked) for logits in found)), "")
        if wrong:
            return failed(f"with {what}: {wrong}; or raise MethodError")
    return CheckResult("ok", "; ".join(notes))


def computes_in_bfloat16(subject: Subject) -> CheckResult:
    """Under the autocast that the harness hands to methods on a GPU, and on CPUs that have instructions for it."""
    other = replace(subject, precision=Precision.BF16)
    found = logits_of(other.ready(), *subject.datasets)
    return failed(wrong) if (wrong := next(filter(None, (unsound(x, subject.datasets[1]) for x in found)), "")) else OK


def runs_on_cuda(subject: Subject) -> CheckResult:
    """``to`` moves all that ``fit`` needs: on a GPU the logits are there and finite."""
    if not torch.cuda.is_available():
        return skipped("torch sees no CUDA device here")
    device = torch.device("cuda", torch.cuda.current_device())
    method = subject.ready()
    method.to(device)
    fit, test = (Dataset(d.images.to(device), d.labels.to(device), d.n_classes) for d in subject.datasets)
    for logits in logits_of(method, fit, test):
        if not logits.is_cuda:
            return failed(f"logits are on {logits.device}; `to` must move what the method holds")
        if wrong := unsound(logits, test):
            return failed(wrong)
    return CheckResult("ok", torch.cuda.get_device_name(device))


def speed(subject: Subject) -> CheckResult:
    """How long ``fit`` takes, beside one forward pass of the target on the same images. Never fails for being slow."""
    fit, _ = subject.datasets
    method, clock = subject.ready(), Clock(fit.images.device)
    times = []
    for _repeat in range(1 + (1 if method.iterative else FITS)):
        torch.manual_seed(SEED)
        passed = [elapsed.seconds for _, elapsed in timed(iter(method.fit(fit)), clock)]
        if not passed:
            return skipped("fit yields no snapshot")
        times.append(passed[-1])
    own = median(times[1:])  # the first warms up
    bare = forward_seconds(subject, fit)
    return CheckResult(
        "ok",
        f"fit {own * 1e3:.2f} ms; one pass of {len(fit)} images through {subject.target} {bare * 1e3:.2f} ms "
        f"({own / bare:.1f} times)",
    )


@torch.no_grad()
def forward_seconds(subject: Subject, fit: Dataset) -> float:
    """Seconds of a forward pass of the bare target on the fit images: the least that any user of its features takes."""
    network = targets.build(TargetSpec(subject.target, subject.images.image_shape)).to(fit.images.device).eval()
    clock, times = Clock(fit.images.device), []
    for _ in range(1 + FITS):
        clock.start()
        network(fit.images)
        times.append(clock.stop().seconds)
    return median(times[1:])


Check = Callable[[Subject], CheckResult]
FIRST = "can be made, and has a name"
SECOND = "meta-training leaves tensors"
CHECKS: dict[str, Check] = {
    FIRST: can_be_made,
    SECOND: learns_a_state,
    "meta-training is reproducible": trains_the_same_twice,
    "meta-training can be resumed": resumes,
    "milestones are kept": keeps_milestones,
    "logits have their shape and are finite": logits_are_sound,
    "the state is all that was learned": state_round_trip,
    "test images are classified one by one": does_not_peek,
    "fit is reproducible": fits_the_same_twice,
    "nothing else is changed": leaves_all_as_it_was,
    "snapshots have names, and hold": snapshots_hold,
    "groups of other sizes": takes_other_groups,
    "in bfloat16": computes_in_bfloat16,
    "on a GPU": runs_on_cuda,
    "speed": speed,
}


def outcome_of(check: Check, subject: Subject) -> CheckResult:
    """The outcome of ``check``; an exception from the method is a failure that says where it came from."""
    try:
        return check(subject)
    except Exception as error:  # a method can fail in any way; the report goes on to the next check
        return CheckResult("failed", _told(error, subject.method), error)


def conformance(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> Iterator[tuple[str, CheckResult]]:
    """The title and outcome of each check, as they come. What cannot be made or trained is asked nothing more."""
    unusable = ""
    for title, check in checks.items():
        outcome = skipped(unusable) if unusable else outcome_of(check, subject)
        if outcome.state == "failed" and title == FIRST:
            unusable = "it cannot be made"
        if outcome.state == "failed" and title == SECOND:
            unusable = "its meta-training failed"
        yield title, outcome


def subject_of(method: type[Method], target: str, options: Mapping[str, Any], cache_dir: Path) -> Subject:
    """``method`` on embedded digits, decoded into ``cache_dir``.

    Raises SuiteError for an unknown target, and MethodError where the method refuses this target or these options.
    """
    pick("target", target, targets.TARGETS)
    family = FAMILIES["digits"]
    source = load(family.source, data_dir=None, cache_dir=cache_dir)
    subject = Subject(method, target, FamilyImages(family, source, torch.device("cpu")), options)
    try:
        subject.make()
    except Exception as error:  # any that is not answered here the first check tells of
        if isinstance(error, MethodError):
            raise
        if isinstance(error, TypeError) and options:
            raise MethodError(f"method '{method.name}' does not take the options {dict(options)}: {error}") from error
    return subject


def report(subject: Subject, say: Callable[[str], None], debug: bool = False) -> int:
    """Say a line for each check, and how many came out how; returns how many failed. ``debug`` adds tracebacks."""
    began = time.monotonic()
    say(f"{subject.method.name} on {subject.images.family.name}, {subject.target}, {subject.images.device}")
    states: list[State] = []
    for title, outcome in conformance(subject):
        states.append(outcome.state)
        say(f"  {outcome.state:<7}  {title}{f': {outcome.reason}' if outcome.reason else ''}")
        if debug and outcome.error is not None:
            say("".join(traceback.format_exception(outcome.error)).rstrip())
    counts = [f"{states.count(state)} {state}" for state in ("ok", "failed", "skipped")]
    say(f"{', '.join(counts)}, in {time.monotonic() - began:.1f} s")
    return states.count("failed")


def _told(error: Exception, method: type[Method]) -> str:
    """One line: the kind of error, its message, and the last line of the method's own file that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == inspect.getfile(method)]
    message = " ".join(str(error).split()) or "no message"
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {message}{notes}{where}"
