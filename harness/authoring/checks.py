"""The conformance checks: what the harness relies on when it times, stores, resumes and shares a method.

Each check takes a `Subject`, may return a remark, and raises `CheckFailure` or `CheckSkipped`. They train for a few
groups, whatever the accuracy, and compute in float32, so that results can be compared bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pudnet_bench.harness.authoring.subject import GROUPS, SEED, VALIDATION_GROUPS, Subject, logits_of, short_session
from pudnet_bench.harness.measuring.clock import Clock, timed
from pudnet_bench.harness.measuring.contract import (
    fitting,
    repeated_name,
    unstorable,
    value_counts,
    wrong_shape,
    wrong_values,
)
from pudnet_bench.harness.measuring.device import Precision
from pudnet_bench.harness.measuring.isolation import described_changes, restored_settings
from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Checkpoint, Classifier, Dataset, MethodError, TargetSpec

TIMED_FITS = 5  # whose median is the time of a fit
SINGLE_IMAGES = 5  # test images classified alone; halves and another order stand for the rest


class CheckFailure(Exception):  # noqa: N818 - the outcome of a check, not an error of the program
    """The method violates the contract; the message says how, and how to mend it."""


class CheckSkipped(Exception):  # noqa: N818
    """The check does not apply, or cannot be made on this machine."""


class _Interrupted(KeyboardInterrupt):
    """Ends a meta-training from within `session.save_checkpoint`, like Ctrl-C or a cluster's warning."""


def fail_if(problem: str, continuation: str = "") -> None:
    """Raise `CheckFailure` with `problem` and the rest of the sentence, unless `problem` is empty."""
    if problem:
        raise CheckFailure(problem + continuation)


def logits_difference(a: Tensor, b: Tensor) -> str:
    """Describe how two tensors of logits differ by more than rounding."""
    if a.shape != b.shape:
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    scale = max(1.0, float(a.abs().max())) if a.numel() else 1.0
    largest = float((a - b).abs().max()) if a.numel() else 0.0
    return "" if largest <= 1e-4 * scale else f"logits differ by up to {largest:.3g}"  # phrased so that NaN differs


def differing_tensor(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """Return the first name under which two states differ in any bit."""
    if a.keys() != b.keys():
        return min(a.keys() ^ b.keys())
    return next((name for name in a if not _identical(a[name], b[name])), "")


def _identical(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _all_identical(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(map(_identical, a, b))


def invalid_logits(found: Sequence[Tensor], test: Dataset) -> str:
    """Describe what is wrong with the logits that snapshots gave for `test`."""
    size = len(test), test.n_classes
    for logits in found:
        if problem := wrong_shape(logits, *size) or wrong_values(value_counts(logits).tolist(), *size):
            return problem
    return ""


def _require_meta_training(subject: Subject) -> None:
    if not subject.meta_trains:
        raise CheckSkipped("no meta-training of its own")


def constructs(subject: Subject) -> str:
    """`Method(target, n_training_classes, **options)` and `to(device)` work."""
    with restored_settings() as changed:
        method = subject.make()
        fail_if(described_changes(changed()), " after __init__; restore it")
    if not isinstance(getattr(method, "n_training_classes", None), int):
        raise CheckFailure("__init__ must call super().__init__(target, n_training_classes)")
    return f"its rows are named '{method.name}'"


def learns_a_state(subject: Subject) -> str:
    """A short meta-training leaves a `state_dict` that is not empty and holds finite tensors only."""
    _require_meta_training(subject)
    fail_if(unstorable(subject.make().state_dict()))  # first: the training itself copies states
    state = subject.trained[0].state_dict()
    fail_if(unstorable(state))
    if not state:
        raise CheckFailure("meta_train learned, but state_dict is empty: implement state_dict and load_state_dict")
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckFailure(f"after {GROUPS} groups '{name}' of state_dict is not finite; train with smaller steps")
    _ = subject.stored_state  # it can be written, too
    return f"{len(state)} tensors after {GROUPS} groups"


def training_is_reproducible(subject: Subject) -> None:
    """The same seed leaves the same state, bit for bit."""
    _require_meta_training(subject)
    name = differing_tensor(subject.trained[0].state_dict(), subject.train(short_session()).state_dict())
    remedy = "draw random numbers from torch's global generator only"
    fail_if(name, f" differs between two meta-trainings from one seed; {remedy}")


def training_resumes(subject: Subject) -> str:
    """A meta-training interrupted after its first step, or before its last, ends bit for bit like an uninterrupted one."""
    _require_meta_training(subject)
    validated, steps = subject.trained
    if steps < 2:
        raise CheckSkipped("it never calls session.checkpoint_due, so an interrupted meta-training starts over")
    # Without validation every step shows in the end; with it, the best state so far must be saved, too.
    cases = (
        (subject.trained_on_all, 0, 1),
        (subject.trained_on_all, 0, steps - 1),
        (validated, VALIDATION_GROUPS, steps - 1),
    )
    for uninterrupted, validation_groups, step in cases:
        saved = checkpoint_after(subject, step, validation_groups)
        if saved is None:
            raise CheckFailure("session.checkpoint_due() was true, but session.save_checkpoint was not called")
        fail_if(unstorable(saved.tensors, "session.save_checkpoint was given"))
        # As in a file: numbers as JSON, tensors on the CPU without their memory layout.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in saved.tensors.items()}
        restored = Checkpoint(json.loads(json.dumps(saved.numbers)), tensors)
        resumed = subject.train(short_session(checkpoint=restored), validation_groups)
        fail_if(
            differing_tensor(uninterrupted.state_dict(), resumed.state_dict()),
            f" ends differently if interrupted after step {step} of {steps} and resumed; save everything that the next step "
            "depends on, random state included, and resume from session.checkpoint",
        )
    return "interrupted after the first step, and before the last"


def checkpoint_after(subject: Subject, step: int, validation_groups: int) -> Checkpoint | None:
    """Return what the method saves when `checkpoint_due` is first true after `step` steps; None if it saves nothing."""
    calls = 0
    saved: list[Checkpoint] = []

    def checkpoint_due() -> bool:
        nonlocal calls
        calls += 1
        return calls == step

    def save_checkpoint(checkpoint: Checkpoint) -> None:
        saved.append(replace(checkpoint, tensors=_copied(checkpoint.tensors)))  # training changes them afterwards
        raise _Interrupted

    with suppress(_Interrupted):
        subject.train(short_session(checkpoint_due=checkpoint_due, save_checkpoint=save_checkpoint), validation_groups)
    return saved[0] if saved else None


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def saves_milestones(subject: Subject) -> None:
    """`session.save_milestone` is called with a state at each milestone, and the last one is the final state."""
    _require_meta_training(subject)
    milestones = (GROUPS // 2, GROUPS)
    saved: dict[int, dict[str, Tensor]] = {}

    def save_milestone(groups_seen: int, state: dict[str, Tensor]) -> None:
        saved[groups_seen] = _copied(state)

    session = short_session(milestones=milestones, save_milestone=save_milestone)
    method = subject.train(session, validation_groups=0)
    if tuple(sorted(saved)) != milestones:
        called = f"after {', '.join(map(str, sorted(saved)))} groups" if saved else "never"
        raise CheckFailure(
            f"session.save_milestone must be called after {' and '.join(map(str, milestones))} groups (session.milestones), "
            f"but was called {called}; methods.meta_training.train_until_converged does it"
        )
    for state in saved.values():
        fail_if(unstorable(state, "session.save_milestone was given"))
    name = differing_tensor(saved[GROUPS], method.state_dict())
    fail_if(name, " differs between the last milestone and the final state")


def logits_are_valid(subject: Subject) -> None:
    """`fit` yields at least one snapshot, and each gives finite logits [n, n_classes] that tell classes apart."""
    fit, test = subject.datasets
    found = logits_of(subject.ready(), fit, test)
    if not found:
        raise CheckFailure("fit yielded no snapshot; it must yield at least one")
    fail_if(invalid_logits(found, test))


def state_is_complete(subject: Subject) -> None:
    """A fresh instance with the stored state gives the same logits as the trained one."""
    _require_meta_training(subject)
    before, after = (logits_of(method, *subject.datasets) for method in (subject.trained[0], subject.ready()))
    where = "after load_state_dict into a fresh instance"
    if len(before) != len(after):
        raise CheckFailure(f"{len(before)} snapshots from the trained instance, but {len(after)} {where}")
    for a, b in zip(before, after, strict=True):
        fail_if(logits_difference(a, b), f" {where}; put all that was learned into state_dict")


def images_are_independent(subject: Subject) -> None:
    """An image's logits depend neither on the other test images, nor on their order, nor on earlier calls."""
    fit, test = subject.datasets
    torch.manual_seed(SEED)
    for snapshot in fitting(subject.ready(), fit):
        _require_independence(snapshot.classifier, test.images)


@torch.no_grad()
def _require_independence(classifier: Classifier, images: Tensor) -> None:
    together, half = classifier(images).clone(), len(images) // 2
    for company, expected, parts in (
        ("come in two halves", together, (images[:half], images[half:])),
        ("come alone", together[:SINGLE_IMAGES], images[:SINGLE_IMAGES].split(1)),
        ("come in another order", together.flip(0), (images.flip(0),)),
        ("are classified a second time", together, (images,)),
    ):
        difference = logits_difference(expected, torch.cat([classifier(part) for part in parts]))
        fail_if(difference, f" when test images {company}; BatchNorm and its like must be in evaluation mode then")


def fit_is_reproducible(subject: Subject) -> None:
    """The same seed gives the same logits bit for bit, whatever was fitted before."""
    method = subject.ready()
    first = logits_of(method, *subject.datasets)
    if not _all_identical(first, logits_of(method, *subject.datasets)):
        if _all_identical(first, logits_of(subject.ready(), *subject.datasets)):
            raise CheckFailure("a second fit of one instance gives other logits; fit must not change the method")
        remedy = "draw random numbers from torch's global generator only"
        raise CheckFailure(f"two fits with one seed give other logits; {remedy}")
    other = subject.images.group("unseen", SEED, 1)
    logits_of(method, other.fit, other.test)
    if not _all_identical(first, logits_of(method, *subject.datasets)):
        raise CheckFailure("a group's logits depend on the group fitted before; fit must not change the method")


def fit_has_no_side_effects(subject: Subject) -> None:
    """`fit` and its classifiers change neither images nor labels nor torch's global settings."""
    fit, test = subject.datasets
    with restored_settings() as changed:
        torch.manual_seed(SEED)
        for snapshot in fitting(subject.ready(), fit):
            fail_if(described_changes(changed()), " when fit yields a snapshot; restore it before the yield")
            snapshot.classifier(test.images)
            fail_if(described_changes(changed()), " when the classifier returns; restore it before")
        fail_if(described_changes(changed()), " when fit ends; restore it")
    for name, now, then in zip(("fit", "test"), (fit, test), subject.datasets, strict=True):
        for what in ("images", "labels"):
            if not torch.equal(getattr(now, what), getattr(then, what)):
                raise CheckFailure(f"the {what} of the {name} dataset were changed; work on a copy")


def snapshots_are_stable(subject: Subject) -> str:
    """Snapshots have distinct names and do not change until `fit` is resumed, whatever is classified meanwhile."""
    fit, test = subject.datasets
    names: list[str] = []
    torch.manual_seed(SEED)
    for snapshot in fitting(subject.ready(), fit):
        names.append(snapshot.name)
        with torch.no_grad():
            first = snapshot.classifier(test.images).clone()
            snapshot.classifier(fit.images)
            again = snapshot.classifier(test.images)
        difference = logits_difference(first, again)
        fail_if(difference, f" when snapshot '{snapshot.name}' is called again before fit is resumed")
    fail_if(repeated_name(names))
    return ", ".join(names) if len(names) > 1 else ""


def takes_other_groups(subject: Subject) -> str:
    """Groups of 5 ways, of few images and of unequal classes get valid logits, or a MethodError that says why not."""
    fit, test = subject.datasets
    first_class = int((fit.labels == 0).sum())
    chosen = torch.cat((torch.arange(12), torch.arange(first_class, len(fit))))
    unequal = Dataset(fit.images[chosen], fit.labels[chosen], fit.n_classes), test
    groups = {"5 classes": subject.dataset(5, 100), "10 images a class": subject.dataset(2, 20)}
    remarks = []
    for what, (known, asked) in {**groups, "classes of unequal size": unequal}.items():
        try:
            found = logits_of(subject.ready(), known, asked)
        except MethodError as error:
            remarks.append(f"{what}: refused, {error}")
            continue
        except Exception as error:
            error.add_note(f"with a group of {what}")
            raise
        fail_if(invalid_logits(found, asked), f", with a group of {what}; or raise MethodError")
    return "; ".join(remarks)


def runs_in_bfloat16(subject: Subject) -> None:
    """Logits are valid under the autocast that the harness sets on GPUs, and on CPUs that have instructions for it."""
    fit, test = subject.datasets
    fail_if(invalid_logits(logits_of(replace(subject, precision=Precision.BF16).ready(), fit, test), test))


def runs_on_gpu(subject: Subject) -> str:
    """`to` moves all that `fit` needs: logits are valid and on the GPU."""
    if not torch.cuda.is_available():
        raise CheckSkipped("torch sees no CUDA device here")
    device = torch.device("cuda", torch.cuda.current_device())
    method = subject.ready()
    method.to(device)
    fit, test = (Dataset(d.images.to(device), d.labels.to(device), d.n_classes) for d in subject.datasets)
    found = logits_of(method, fit, test)
    if elsewhere := [logits.device for logits in found if not logits.is_cuda]:
        raise CheckFailure(f"logits are on {elsewhere[0]}; `to` must move what the method holds")
    fail_if(invalid_logits(found, test))
    return torch.cuda.get_device_name(device)


def speed(subject: Subject) -> str:
    """Compare the time of `fit` with a forward pass of the target on the same images; never fails for slowness."""
    fit, _ = subject.datasets
    method, clock = subject.ready(), Clock(fit.images.device)
    network = targets.build(TargetSpec(subject.target, subject.images.image_shape)).to(fit.images.device).eval()

    def fit_seconds() -> float:
        torch.manual_seed(SEED)
        seconds = [elapsed.seconds for _, elapsed in timed(fitting(method, fit), clock)]
        if not seconds:
            raise CheckSkipped("fit yields no snapshot")
        return seconds[-1]

    @torch.no_grad()
    def forward_seconds() -> float:
        clock.start()
        network(fit.images)
        return clock.stop().seconds

    # The first call warms up.
    own = median([fit_seconds() for _ in range(1 + (1 if method.iterative else TIMED_FITS))][1:])
    bare = median([forward_seconds() for _ in range(1 + TIMED_FITS)][1:])
    forward = f"one pass of {len(fit)} images through {subject.target} {bare * 1e3:.2f} ms"
    return f"fit {own * 1e3:.2f} ms; {forward} ({own / bare:.1f} times)"


Check = Callable[[Subject], str | None]

CHECKS: dict[str, Check] = {
    "can be constructed and has a name": constructs,
    "meta-training leaves a state of tensors": learns_a_state,
    "meta-training is reproducible": training_is_reproducible,
    "meta-training can be resumed": training_resumes,
    "milestones are saved": saves_milestones,
    "logits are finite and of the right shape": logits_are_valid,
    "the state is complete": state_is_complete,
    "test images are classified independently": images_are_independent,
    "fit is reproducible": fit_is_reproducible,
    "fit has no side effects": fit_has_no_side_effects,
    "snapshots are named and stable": snapshots_are_stable,
    "groups of other sizes": takes_other_groups,
    "bfloat16": runs_in_bfloat16,
    "GPU": runs_on_gpu,
    "speed": speed,
}
"""The checks by title, in the order of the report."""
