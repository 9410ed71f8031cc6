"""Run a cell: obtain its artifact, warm up, then time and test one group after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.clock import Clock, timed
from pudnet_bench.harness.measuring.contract import (
    fitting,
    not_a_snapshot,
    repeated_name,
    value_counts,
    wrong_shape,
    wrong_values,
)
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.energy import EnergyMeter, metered
from pudnet_bench.harness.measuring.fit_memory import FitMemory
from pudnet_bench.harness.measuring.flops import UNKNOWN, FlopCount, count
from pudnet_bench.harness.planning.plan import Cell
from pudnet_bench.harness.training.artifacts import Artifact, ArtifactSpec, ArtifactStore, Trained
from pudnet_bench.harness.training.meta_train import TrainingJob, meta_train
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import SINGLE_PROCESS, Classifier, Dataset, Method, MethodError, Ranks, Snapshot
from pudnet_bench.methods.control import Control
from pudnet_bench.results.store.run import Progress, Run
from pudnet_bench.suites.class_splits import SplitImages, UnseenGroup
from pudnet_bench.suites.mixed_images import MixedImages
from pudnet_bench.suites.other_groups import other_group, other_source_group

SHARD_SECONDS = 20.0  # the most measuring that a kill can lose
WARM_UPS = 3
WARM_UP_GROUP = 10**9  # index of the group that warm-up uses, never measured
EVALUATION_PIXELS = 2_000_000  # classified at a time, so that memory does not grow with the test set


@dataclass(frozen=True)
class RunContext:
    """What all cells of a process share.

    Attributes:
        images_of: The images of a family on the device, by its name and class split; loaded on first use.
        together: Given a cell, the processes that share its meta-training with this one, while the block lasts.
    """

    images_of: Callable[[str, int], SplitImages]
    store: ArtifactStore
    compute: Compute
    display: Display
    stop_signal: StopSignal = field(default_factory=StopSignal)
    together: Callable[[Cell], AbstractContextManager[Ranks]] = lambda cell: nullcontext(SINGLE_PROCESS)


@dataclass(frozen=True)
class ReadyCell:
    """A cell that is ready to measure: learned weights loaded, method warmed up."""

    cell: Cell
    method: Method
    artifact: Artifact | None
    images: SplitImages
    compute: Compute
    flops: FlopCount = UNKNOWN
    mixed: MixedImages | None = None
    fit_memory: FitMemory | None = None

    def other(self, group: UnseenGroup) -> UnseenGroup:
        """The group that a control is shown beside `group`. Raises MethodError for another source where there is none."""
        if not getattr(self.method, "other_source", False):
            return other_group(self.images, self.cell.seed, group)
        if self.mixed is None:
            raise MethodError(f"'{self.cell.variant.name}' needs a family of several sources, such as mixed")
        return other_source_group(self.mixed, self.cell.family.name, self.cell.seed, group)

    @cached_property
    def gauges(self) -> tuple[Clock, FitMemory, EnergyMeter]:
        device = self.compute.device
        return Clock(device), self.fit_memory or FitMemory(device), EnergyMeter(device)

    @cached_property
    def parameters(self) -> int:
        """Number of values learned before any unseen group; counters of batches are integers and do not count."""
        state = self.artifact.state if self.artifact else self.method.state_dict()
        return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def run_cell(cell: Cell, run: Run, context: RunContext, groups: range | None = None) -> None:
    """Measure the missing groups of `cell` (of `groups`, or of all), and mark it finished once none is missing.

    An interrupt or a failure loses no whole group.
    """
    progress = run.progress_of(cell.key)
    all_missing = missing_groups(cell, run, progress)
    missing = [index for index in all_missing if groups is None or index in groups]
    if not missing and is_complete(cell, run, progress):
        return
    method, artifact = prepare(cell, context)
    images = context.images_of(cell.family.name, cell.split)
    if artifact is not None:
        run.save_curve(cell.key, artifact.curve)
    flops, memory = UNKNOWN, FitMemory(context.compute.device)
    if missing:
        log = context.display.log
        flops = warm_up(method, images, cell.seed, lambda text: log(f"{cell.title}: {text}"), memory)
    trained_on = context.images_of(cell.trained_on.name, cell.split) if isinstance(method, Control) else None
    mixed = trained_on if isinstance(trained_on, MixedImages) else None
    ready = ReadyCell(cell, method, artifact, images, context.compute, flops, mixed, memory)
    measure_groups(ready, run, context, missing, cell.groups - len(all_missing))


def measure_groups(ready: ReadyCell, run: Run, context: RunContext, missing: Sequence[int], done: int = 0) -> None:
    """Measure the groups `missing` into `run`; `done` others are measured already."""
    cell = ready.cell
    rows: list[dict[str, Any]] = []  # of whole groups that are not on disk yet
    written = time.monotonic()
    with context.display.task(cell.title, cell.groups, "groups") as task:
        task.update(done)
        try:
            for measured, index in enumerate(missing, done + 1):
                if context.stop_signal.requested:
                    break
                measurement, network = measure_group(ready, index)
                if cell.keeps_parameters:
                    run.save_parameters(cell.key, index, network)
                rows += measurement
                if time.monotonic() - written >= SHARD_SECONDS:
                    run.write_shard(cell.key, rows)
                    rows, written = [], time.monotonic()
                last = measurement[-1]
                task.update(measured, f"accuracy {last['accuracy']:.2%}, {last['seconds']:.3g} s")
            else:
                with run.locked(cell.key):  # another process may have yet to measure some of the groups
                    run.complete(cell.key, rows, cell.groups)
                rows = []
        finally:
            if rows:
                run.write_shard(cell.key, rows)
    context.stop_signal.exit_if_requested()


def missing_groups(cell: Cell, run: Run, progress: Progress) -> list[int]:
    """Groups of the cell still to be measured, those whose stored parameters are lost included."""
    done = set(progress.groups.tolist())
    if cell.keeps_parameters:
        done = {index for index in done if run.has_parameters(cell.key, index)}
    return [index for index in range(cell.groups) if index not in done]


def is_complete(cell: Cell, run: Run, progress: Progress) -> bool:
    """Whether a cell without missing groups has its finished file and the curve of its meta-training."""
    return progress.finished and (cell.artifact is None or run.curve(cell.key) is not None)


def measure_group(ready: ReadyCell, index: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Measure the method on unseen group `index`. The clock runs only inside `fit`.

    Returns:
        One row per snapshot and, with `cell.keeps_parameters`, float32 arrays: "parameters" [d] of the last snapshot's
        network and "mean_image" [c * h * w] of the fit images.

    Raises:
        MethodError: The method yields no snapshot, two of one name, what is none, logits that are none (`contract`), or no
            network where parameters are stored.
    """
    cell, artifact, compute = ready.cell, ready.artifact, ready.compute
    clock, memory, meter = ready.gauges
    clock.start()
    group = ready.images.unseen(cell.seed, index)
    data = clock.stop()
    if isinstance(ready.method, Control):
        ready.method.show_other(ready.other(group).fit)
    # A result must not depend on which groups ran before. `torch.manual_seed` takes a hundred times as long: it seeds
    # every other device too, and without CUDA records the caller's stack.
    seed = cell.seed * 1_000_003 + index
    torch.default_generator.manual_seed(seed)
    if compute.device.type == "cuda":
        torch.cuda.manual_seed(seed)
    memory.begin()
    rows: list[dict[str, Any]] = []
    where = f"method '{cell.variant.name}', group {index}"
    # The energy meter is read outside the timed region.
    for (snapshot, elapsed), joules in metered(timed(fitting(ready.method, group.fit), clock), meter):
        peak = memory.until(len(rows))
        _refuse(where, not_a_snapshot(snapshot))
        clock.start()
        accuracy = test_accuracy(snapshot.classifier, group.test, where)
        evaluation = clock.stop()
        fit_flops, test_flops = ready.flops.of(snapshot, len(group.fit))
        rows.append({
            "cell": cell.key, "suite": cell.suite, "method": cell.variant.name, "family": cell.family.name,
            "target": cell.target.name, "seed": cell.seed, "group": index, "snapshot": snapshot.name,
            "accuracy": accuracy, "seconds": elapsed.seconds, "wall_seconds": elapsed.wall_seconds,
            "evaluation_seconds": evaluation.seconds, "data_seconds": data.seconds, "peak_memory_bytes": peak,
            "n_fit": len(group.fit), "n_test": len(group.test), "n_classes": group.fit.n_classes,
            "device": compute.name, "artifact": artifact.key if artifact else "",
            "meta_train_seconds": artifact.seconds if artifact else float("nan"),
            "training_groups": float(artifact.groups if artifact else "nan"), "epochs": float(snapshot.epochs),
            "fit_flops": fit_flops, "test_flops": test_flops, "parameters": float(ready.parameters),
            "energy_joules": joules, "precision": str(compute.precision), "threads": torch.get_num_threads(),
            "split": cell.split, "classes": " ".join(map(str, group.classes)),
        })  # fmt: skip
    if not rows:
        raise MethodError(f"method '{cell.variant.name}' yielded no snapshot; fit must yield at least one")
    _refuse(where, repeated_name([row["snapshot"] for row in rows]))
    return rows, _network_arrays(cell, snapshot, group.fit) if cell.keeps_parameters else {}


def _network_arrays(cell: Cell, snapshot: Snapshot, fit: Dataset) -> dict[str, np.ndarray]:
    if snapshot.network is None:
        raise MethodError(f"method '{cell.variant.name}' yields no Snapshot.network, and {cell.suite} studies it")
    parameters = torch.cat([parameter.detach().flatten() for parameter in snapshot.network.parameters()])
    return {"parameters": parameters.float().cpu().numpy(), "mean_image": fit.images.mean(0).flatten().cpu().numpy()}


def _refuse(where: str, fault: str) -> None:
    """Raise MethodError for a `fault` of the method and group in `where`, unless it is ""."""
    if fault:
        raise MethodError(f"{where}: {fault}")


@torch.no_grad()
def test_accuracy(classifier: Classifier, test: Dataset, where: str = "a classifier") -> float:  # noqa: PT028 - no test
    """Share (0..1) of test images classified correctly; retried once on half as many at a time when memory runs out.

    Raises:
        MethodError: Logits of a wrong shape, not finite, or equal for all classes; `where` names the method and group.
    """
    at_once = max(1, EVALUATION_PIXELS // test.images.shape[2:].numel())
    try:
        return _share_correct(classifier, test, at_once, where)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _share_correct(classifier, test, max(1, min(at_once, len(test)) // 2), where)


def _share_correct(classifier: Classifier, test: Dataset, at_once: int, where: str) -> float:
    counts = []
    for images, labels in zip(test.images.split(at_once), test.labels.split(at_once), strict=True):
        logits = classifier(images)
        _refuse(where, wrong_shape(logits, len(images), test.n_classes))
        counts.append(torch.cat((value_counts(logits), (logits.argmax(-1) == labels).sum().unsqueeze(0))))
    # The only transfer from the device, whose queue would otherwise run empty between two batches.
    *values, correct = torch.stack(counts).sum(0).tolist()
    _refuse(where, wrong_values(values, len(test), test.n_classes))
    return int(correct) / len(test)


def warm_up(
    method: Method, images: SplitImages, seed: int, log: Callable[[str], None], memory: FitMemory | None = None
) -> FlopCount:
    """Let caches, kernels and allocators settle on an unmeasured group of the same shape; count FLOPs in the first fit.

    Where the count fails, the reason is logged, the method is warmed up without it and the FLOPs are unknown. `memory`
    measures the last fit, of an iterative method one more.
    """
    # A training group has the size of an unseen one only where the family fixes it.
    same_size = images.split.training and images.family.images
    group = images.group("training" if same_size else "unseen", seed, WARM_UP_GROUP)
    fits = 1 if method.iterative else WARM_UPS
    if isinstance(method, Control):
        method.show_other(group.fit)
    evaluate = partial(test_accuracy, where=f"method '{method.name}', the group that warms up")
    try:
        flops, failure = count(method, group, evaluate), ""
        fits -= 1
    except Exception as error:  # a fault of the method itself shows in the plain fits that follow
        flops, failure = UNKNOWN, f"{type(error).__name__}: {error}"
    gauge = memory if memory is not None and memory.can_measure() else None
    for left in reversed(range(max(fits, 1) if gauge else fits)):
        snapshots, first = fitting(method, group.fit), None
        for snapshot in gauge.measure(snapshots, method.iterative) if gauge and left == 0 else islice(snapshots, 1):
            first = first or snapshot
        if isinstance(first, Snapshot):  # a method that yields none is refused when it is measured
            evaluate(first.classifier, group.test)
        del snapshots
    if failure:
        log(f"FLOPs are not counted ({failure.splitlines()[0]})")
    return flops


def prepare(cell: Cell, context: RunContext) -> tuple[Method, Artifact | None]:
    """The cell's method, ready to fit, and the artifact behind it: its own, or its base's."""
    artifact = obtain_artifact(cell, context)
    method = _ready(cell, context.compute)
    if artifact is not None:
        method.load_state_dict({name: tensor.to(context.compute.device) for name, tensor in artifact.state.items()})
    elif cell.base is not None:
        base, artifact = prepare(cell.base, context)
        method.start_from(base)
    if isinstance(method, Control):
        images = context.images_of(cell.trained_on.name, cell.split)
        method.observe(images.group("training", cell.seed, n).fit for n in range(method.observed_groups))
    return method, artifact


def obtain_artifact(cell: Cell, context: RunContext) -> Artifact | None:
    """The cell's artifact, from the store or trained now and stored; None for a method without meta-training.

    A training with milestones stores an artifact at each as it is reached.
    """
    spec = cell.artifact
    if spec is None:
        return None
    if (found := context.store.load(spec)) is not None:
        return found
    checkpoints = context.store.checkpoints(cell.training_key)
    title = f"meta-training {cell.method.name} · {cell.trained_on.name} · {cell.target.name}"
    with checkpoints.locked(lambda: context.display.log(f"{title}: waiting for another process that trains it")):
        artifact = context.store.load(spec)
        if artifact is None:
            artifact = _trained(cell, spec, title, context)
            checkpoints.delete_all()
    return artifact


def accompany(cell: Cell, context: RunContext, ranks: Ranks) -> None:
    """Share the cell's meta-training as one of `ranks` other than the first, which stores the outcome."""
    base = context.store.load(cell.base.artifact) if cell.base and cell.base.artifact else None
    meta_train(_training_job(cell, context, ranks, base))


def _trained(cell: Cell, spec: ArtifactSpec, title: str, context: RunContext) -> Artifact:
    """Train the artifact, from the checkpoint of an earlier process if there is one, and store it."""
    base = obtain_artifact(cell.base, context) if cell.base else None
    with (
        context.display.task(title, cell.training.budget.max_groups, "groups") as task,
        context.together(cell) as ranks,
    ):
        latest: dict[str, float] = {}

        def on_report(phase: str, seen: int, at_most: int, metrics: dict[str, float]) -> None:
            latest.update(metrics)
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in latest.items())
            task.update(seen, f"{phase}: {shown}", at_most)

        def on_milestone(groups_seen: int, trained: Trained) -> None:
            context.store.save(cell.artifact_after(groups_seen), trained)

        job = replace(_training_job(cell, context, ranks, base), on_report=on_report, on_milestone=on_milestone)
        trained = meta_train(job)
    artifact = context.store.load(spec) if cell.training.milestones else context.store.save(spec, trained)
    if artifact is None:
        why = f"method '{cell.variant.name}' saved no state after {cell.training_groups} groups"
        how = "session.save_milestone at session.milestones (methods.meta_training.train_until_converged does)"
        raise MethodError(f"{why}; meta_train must call {how}")
    accuracies = trained.summary.validation_accuracy_by_fold
    validated = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies if accuracy is not None)
    outcome = f"{title}: {trained.summary.groups} groups, {artifact.seconds:.0f} s"
    context.display.log(f"{outcome}, validation accuracy {validated}" if accuracies else outcome)
    return artifact


def _training_job(cell: Cell, context: RunContext, ranks: Ranks, base: Artifact | None) -> TrainingJob:
    base_cell = cell.base
    return TrainingJob(
        make_method=lambda: _ready(cell, context.compute), images=context.images_of(cell.trained_on.name, cell.split),
        training=cell.training, compute=context.compute, base=base,
        make_base=(lambda: _ready(base_cell, context.compute)) if base_cell else None,
        checkpoints=context.store.checkpoints(cell.training_key), stop_signal=context.stop_signal, ranks=ranks,
    )  # fmt: skip


def _ready(cell: Cell, compute: Compute) -> Method:
    method = cell.make_method()
    method.autocast = compute.autocast
    method.to(compute.device)
    return method
