"""Running cells: obtain the artifact, warm up, then time and test group after group; nothing measured is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.clock import Clock, PeakMemory, timed
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.energy import EnergyMeter, metered
from pudnet_bench.harness.measuring.flops import UNKNOWN, FlopCount, count
from pudnet_bench.harness.planning.plan import Cell
from pudnet_bench.harness.training.artifacts import Artifact, ArtifactSpec, ArtifactStore, Trained, Watch, meta_train
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import ALONE, Classifier, Dataset, Method, MethodError, Ranks
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.groups import FamilyImages

SHARD_SECONDS = 20.0  # at most so much measuring is lost to a kill
WARM_UPS = 3
THROW_AWAY = 10**9  # index of the training group that warm-up uses; no measured group is a training group
EVALUATION_PIXELS = 2_000_000  # classified at a time, so that memory does not grow with the test set
ImagesOf = Callable[[str], FamilyImages]
"""The images of the family of that name, on the device; loaded on first use."""


@dataclass(frozen=True)
class RunContext:
    """What cells are worked on with: images on the device, artifacts, the device, what the person sees, a way to stop.

    ``together(cell)`` gives the processes that share the cell's meta-training with this one, while it lasts.
    """

    images_of: ImagesOf
    store: ArtifactStore
    compute: Compute
    display: Display
    stop_signal: StopSignal = field(default_factory=StopSignal)
    together: Callable[[Cell], AbstractContextManager[Ranks]] = lambda cell: nullcontext(ALONE)


@dataclass(frozen=True)
class ReadyCell:
    """A cell with all that measuring takes: what its method has learned is loaded, and it is warmed up."""

    cell: Cell
    method: Method
    artifact: Artifact | None
    images: FamilyImages
    compute: Compute
    flops: FlopCount = UNKNOWN

    @cached_property
    def gauges(self) -> tuple[Clock, PeakMemory, EnergyMeter]:
        device = self.compute.device
        return Clock(device), PeakMemory(device), EnergyMeter(device)

    @cached_property
    def parameters(self) -> int:
        """How many numbers were learned before any unseen group."""
        return learned_parameters(self.artifact.state if self.artifact else self.method.state_dict())


def run_cell(cell: Cell, run: Run, context: RunContext, groups: range | None = None) -> None:
    """Measure what is missing of ``cell`` (of ``groups``, or of all), and mark it finished once no group is missing.

    An interrupt or a failure keeps whole groups measured.
    """
    all_missing = missing_groups(cell, run)
    missing = [index for index in all_missing if groups is None or index in groups]
    if not missing and is_complete(cell, run):
        return
    method, artifact = prepare(cell, context)
    images = context.images_of(cell.family.name)
    if artifact is not None:
        run.save_curve(cell.key, artifact.curve)
    flops = UNKNOWN
    if missing:
        flops = warm_up(method, images, cell.seed, lambda text: context.display.say(f"{cell.title}: {text}"))
    ready = ReadyCell(cell, method, artifact, images, context.compute, flops)
    measure_groups(ready, run, context, missing, cell.groups - len(all_missing))


def measure_groups(ready: ReadyCell, run: Run, context: RunContext, missing: Sequence[int], done: int = 0) -> None:
    """Measure the groups ``missing``, of which ``done`` others are there, and keep them in ``run``."""
    cell = ready.cell
    with _Unwritten(run, cell.key) as unwritten, context.display.task(cell.title, cell.groups, "groups") as task:
        task.update(done)
        for measured, index in enumerate(missing, done + 1):
            if context.stop_signal.requested:
                break
            rows, network = measure_group(ready, index)
            if cell.keeps_parameters:
                run.save_parameters(cell.key, index, network)
            unwritten.add(rows)
            task.update(measured, f"accuracy {rows[-1]['accuracy']:.2%}, {rows[-1]['seconds']:.3g} s")
        else:
            unwritten.complete(cell.groups)
    context.stop_signal.exit_if_requested()


def missing_groups(cell: Cell, run: Run) -> list[int]:
    """Groups of the cell that are to be measured; a group whose parameters are lost counts as one, where they are kept."""
    done = run.groups_done(cell.key)
    return [
        index
        for index in range(cell.groups)
        if index not in done or (cell.keeps_parameters and not run.has_parameters(cell.key, index))
    ]


def is_complete(cell: Cell, run: Run) -> bool:
    """Whether all is there, once no group is missing: the finished file, and the curve of a meta-training."""
    return run.finished(cell.key) and (cell.artifact is None or run.curve(cell.key) is not None)


def measure_group(ready: ReadyCell, index: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One row per snapshot of the method on unseen group ``index``. The clock runs inside ``fit`` alone.

    With ``cell.keeps_parameters`` also, float32: "parameters" [d] of the last snapshot's network, and "mean_image"
    [c * h * w] of the fit images. Raises MethodError where a method yields no snapshot, or none with a network.
    """
    cell, artifact, compute = ready.cell, ready.artifact, ready.compute
    clock, memory, meter = ready.gauges
    clock.start()
    group = ready.images.group("unseen", cell.seed, index)
    data = clock.stop()
    seed_draws(cell.seed * 1_000_003 + index, compute.device)  # an outcome must not depend on which groups ran before
    memory.reset()
    rows = []
    # The meter is read outside of what the clock times.
    for (snapshot, elapsed), joules in metered(timed(iter(ready.method.fit(group.fit)), clock), meter):
        peak = memory.read()
        clock.start()
        accuracy = test_accuracy(snapshot.classifier, group.test)
        evaluation = clock.stop()
        fit_flops, test_flops = ready.flops.of(snapshot, len(group.fit))
        rows.append(
            {
                "cell": cell.key,
                "suite": cell.suite,
                "method": cell.variant.name,
                "family": cell.family.name,
                "target": cell.target.name,
                "seed": cell.seed,
                "group": index,
                "snapshot": snapshot.name,
                "accuracy": accuracy,
                "seconds": elapsed.seconds,
                "wall_seconds": elapsed.wall_seconds,
                "evaluation_seconds": evaluation.seconds,
                "data_seconds": data.seconds,
                "peak_memory_bytes": peak,
                "n_fit": len(group.fit),
                "n_test": len(group.test),
                "n_classes": group.fit.n_classes,
                "device": compute.name,
                "artifact": artifact.key if artifact else "",
                "meta_train_seconds": artifact.seconds if artifact else float("nan"),
                "training_groups": float(artifact.groups if artifact else "nan"),
                "epochs": float(snapshot.epochs),
                "fit_flops": fit_flops,
                "test_flops": test_flops,
                "parameters": float(ready.parameters),
                "energy_joules": joules,
                "precision": compute.precision,
                "threads": torch.get_num_threads(),
            }
        )
    if not rows:
        raise MethodError(f"method '{cell.variant.name}' yielded no snapshot; fit must yield at least one")
    if not cell.keeps_parameters:
        return rows, {}
    if snapshot.network is None:
        raise MethodError(
            f"method '{cell.variant.name}' shows no network (Snapshot.network), and {cell.suite} studies it"
        )
    parameters = torch.cat([parameter.detach().flatten() for parameter in snapshot.network.parameters()])
    mean_image = group.fit.images.mean(0).flatten()
    return rows, {"parameters": parameters.float().cpu().numpy(), "mean_image": mean_image.cpu().numpy()}


def seed_draws(seed: int, device: torch.device) -> None:
    """What ``torch.manual_seed`` does to the generators that a method on ``device`` draws from, in a hundredth of the time.

    It also seeds every other device there might be, and on a machine without them writes down where it was called from.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@torch.no_grad()
def test_accuracy(classifier: Classifier, test: Dataset) -> float:
    """Share (0..1) of test images whose largest logit is that of their class. Raises MethodError on logits of a wrong shape.

    Where the device's memory is too small it is tried once more, with half as many images at a time.
    """
    at_once = max(1, EVALUATION_PIXELS // test.images.shape[2:].numel())
    try:
        return _share_right(classifier, test, at_once)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _share_right(classifier, test, max(1, min(at_once, len(test)) // 2))


def _share_right(classifier: Classifier, test: Dataset, at_once: int) -> float:
    parts: Iterable[tuple[Tensor, Tensor]] = [(test.images, test.labels)]
    if len(test) > at_once:
        parts = zip(test.images.split(at_once), test.labels.split(at_once), strict=True)
    right = []
    for images, labels in parts:
        logits = classifier(images)
        if tuple(logits.shape) != (len(images), test.n_classes):
            raise MethodError(
                f"a classifier gave logits of shape {tuple(logits.shape)} for {len(images)} images of "
                f"{test.n_classes} classes"
            )
        right.append((logits.argmax(-1) == labels).sum())
    return int(sum(right)) / len(test)


def warm_up(
    method: Method, images: FamilyImages, seed: int, say: Callable[[str], None] = lambda text: None
) -> FlopCount:
    """Let caches, kernels and allocators settle on a throw-away group of the same shape, which is not measured.

    The first fit is the one whose FLOPs are counted. Where the count fails the method is warmed up without it, ``say`` is
    told why, and nothing is known of its FLOPs.
    """
    # Halves of other classes have another size.
    alike = images.split.training and images.family.images
    group = images.group("training" if alike else "unseen", seed, THROW_AWAY)
    fits = 1 if method.iterative else WARM_UPS
    try:
        flops, failure = count(method, group, test_accuracy), ""
        fits -= 1
    except Exception as error:  # the method's own fault, too: the plain fits that follow say so
        flops, failure = UNKNOWN, f"{type(error).__name__}: {error}"
    for _ in range(fits):
        fitting = iter(method.fit(group.fit))
        first = next(fitting, None)
        if first is not None:  # the measured fit says what is wrong with a method that yields nothing
            test_accuracy(first.classifier, group.test)
        del fitting
    if failure:
        say(f"FLOPs are not counted ({failure.splitlines()[0]})")
    return flops


def learned_parameters(state: Mapping[str, Tensor]) -> int:
    """How many numbers a state holds; what counts batches is not learned, and not a floating-point number."""
    return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def prepare(cell: Cell, context: RunContext) -> tuple[Method, Artifact | None]:
    """The cell's method, ready to fit, and the artifact behind it: its own, or that of the method it builds on."""
    artifact = obtain_artifact(cell, context)
    method = _ready(cell, context.compute)
    if artifact is not None:
        method.load_state_dict({name: tensor.to(context.compute.device) for name, tensor in artifact.state.items()})
    elif cell.base is not None:
        base, artifact = prepare(cell.base, context)
        method.start_from(base)
    return method, artifact


def obtain_artifact(cell: Cell, context: RunContext) -> Artifact | None:
    """The cell's artifact: from the store, or trained now and stored. None for a method without meta-training.

    A training with milestones stores an artifact at each as it is reached.
    """
    spec = cell.artifact
    if spec is None:
        return None
    found = context.store.load(spec)
    if found is not None:
        return found
    unfinished = context.store.unfinished(cell.training_key)
    title = f"meta-training {cell.method.name} · {cell.trained_on.name} · {cell.target.name}"
    with unfinished.alone(lambda: context.display.say(f"{title}: another process trains it; waiting")):
        found = context.store.load(spec)
        if found is not None:
            return found
        artifact = _trained(cell, spec, title, context)
        unfinished.remove()
    return artifact


def accompany(cell: Cell, context: RunContext, ranks: Ranks) -> None:
    """Share the cell's meta-training as one of ``ranks`` that is not the first, which keeps what comes out."""
    base = context.store.load(cell.base.artifact) if cell.base and cell.base.artifact else None
    _meta_train(cell, context, ranks, base, lambda *_: None, lambda *_: None)


def _trained(cell: Cell, spec: ArtifactSpec, title: str, context: RunContext) -> Artifact:
    """The artifact, trained now, from where an earlier process was stopped, and stored."""
    training = cell.training
    base = obtain_artifact(cell.base, context) if cell.base else None
    with context.display.task(title, training.budget.max_groups, "groups") as task, context.together(cell) as ranks:
        latest: dict[str, float] = {}

        def watch(phase: str, seen: int, at_most: int, metrics: dict[str, float]) -> None:
            latest.update(metrics)
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in latest.items())
            task.total = at_most
            if task.progress is not None and task.id is not None:
                task.progress.update(task.id, total=at_most)
            task.update(seen, f"{phase}: {shown}")

        def keep(groups_seen: int, trained: Trained) -> None:
            context.store.save(cell.artifact_after(groups_seen), trained)

        trained = _meta_train(cell, context, ranks, base, watch, keep)
    artifact = context.store.load(spec) if training.milestones else context.store.save(spec, trained)
    if artifact is None:
        raise MethodError(
            f"method '{cell.variant.name}' kept no state after {cell.training_groups} groups; meta_train must call "
            "session.keep at session.milestones (methods.meta_training.train_until_converged does)"
        )
    accuracies = trained.told["validation_accuracy_by_fold"]
    context.display.say(
        f"{title}: {trained.told['groups']} groups, {artifact.seconds:.0f} s"
        + (f", validation accuracy {', '.join(f'{a:.2%}' for a in accuracies if a is not None)}" if accuracies else "")
    )
    return artifact


def _meta_train(
    cell: Cell,
    context: RunContext,
    ranks: Ranks,
    base: Artifact | None,
    watch: Watch,
    keep: Callable[[int, Trained], None],
) -> Trained:
    base_cell = cell.base
    return meta_train(
        lambda: _ready(cell, context.compute),
        context.images_of(cell.trained_on.name),
        cell.training,
        context.compute,
        watch,
        base,
        (lambda: _ready(base_cell, context.compute)) if base_cell else None,
        keep,
        context.store.unfinished(cell.training_key),
        context.stop_signal,
        ranks,
    )


def _ready(cell: Cell, compute: Compute) -> Method:
    method = cell.make_method()
    method.autocast = compute.autocast
    method.to(compute.device)
    return method


class _Unwritten:
    """Rows of whole groups on their way to the disk: a shard every few seconds, and when the block ends in any way."""

    def __init__(self, run: Run, key: str) -> None:
        self.run, self.key = run, key
        self.rows: list[dict[str, Any]] = []
        self.written = time.monotonic()

    def __enter__(self) -> _Unwritten:
        return self

    def __exit__(self, *_: object) -> None:
        if self.rows:
            self.run.write_shard(self.key, self.rows)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Take the rows of a group."""
        self.rows.extend(rows)
        if time.monotonic() - self.written >= SHARD_SECONDS:
            self.run.write_shard(self.key, self.rows)
            self.rows.clear()
            self.written = time.monotonic()

    def complete(self, groups: int) -> None:
        """Finish the cell, unless another process has yet to measure some of its ``groups``."""
        with self.run.locked(self.key):
            self.run.complete(self.key, self.rows, groups)
        self.rows.clear()
