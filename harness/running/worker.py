"""Cut a plan into jobs and perform them, the same way in one process, in several and on a cluster."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pudnet_bench.harness.console.failures import described
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.contract import restored_settings
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.planning.plan import Cell, Plan, make_plan, with_bases
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.cell import (
    RunContext,
    accompany,
    is_complete,
    missing_groups,
    obtain_artifact,
    run_cell,
)
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.harness.training.distributed import gpu_count, rank_count, spawn_ranks
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import MethodError, Ranks
from pudnet_bench.results.store.run import NOTHING, Run
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.held_out_images import split_images
from pudnet_bench.suites.mixed_images import JoinedSource, MixedImages
from pudnet_bench.suites.mixtures import MixedFamily


def missing_jobs(
    plan: Plan, run: Run, store: ArtifactStore, shard: int | None = None, live: Sequence[Job] = ()
) -> list[Job]:
    """The jobs left of `plan` beside the `live` ones, each training before its first cell.

    A job measures up to `shard` groups; None: a cell.
    """
    jobs, planned = list[Job](), {job.training for job in live}
    claimed: dict[str, list[range]] = {}
    for job in (job for job in live if not job.training):
        claimed.setdefault(job.cell, []).append(range(job.first, job.end))
    on_disk = run.progress(verified=True)
    for cell in plan.cells:
        progress = on_disk.get(cell.key, NOTHING)
        missing = missing_groups(cell, run, progress)
        if not missing and is_complete(cell, run, progress):
            continue
        size = shard or max(1, cell.groups)
        parts = _shards(missing or [0], size, cell.groups, claimed.get(cell.key, ()))
        if not parts:
            continue
        needs: tuple[str, ...] = ()
        for needing in with_bases(cell):
            if needing.artifact is None or store.has(needing.artifact):
                continue
            if needing.training_key not in planned:
                jobs.append(Job(needing.key, needing.training_key, needs=needs))
                planned.add(needing.training_key)
            needs = (*needs, needing.training_key)
        jobs += [Job(cell.key, "", part.start, part.stop, needs) for part in parts]
    return jobs


def _shards(missing: Sequence[int], size: int, groups: int, claimed: Sequence[range]) -> list[range]:
    """Ranges of up to `size` of a cell's `groups` that together hold those `missing`, and none of those `claimed`."""
    starts = sorted({index // size * size for index in missing})
    parts = [range(first, min(first + size, groups)) for first in starts]
    for taken in claimed:
        pieces = ((range(p.start, min(p.stop, taken.start)), range(max(p.start, taken.stop), p.stop)) for p in parts)
        parts = [piece for pair in pieces for piece in pair if piece]
    return [part for part in parts if any(index in part for index in missing)] if claimed else parts


class Worker:
    """Performs jobs of one plan in this process, loading images and artifacts once.

    `request` is what the plan was made from: other processes that share a meta-training make it again.
    """

    def __init__(
        self,
        plan: Plan,
        request: RunRequest,
        run: Run,
        compute: Compute,
        display: Display,
        stop: StopSignal | None = None,
    ) -> None:
        self.request, self.run = request, run
        self.cells = {each.key: each for cell in plan.cells for each in with_bases(cell)}

        def others(cell: Cell) -> AbstractContextManager[Ranks]:
            groups = cell.training.budget.groups_per_step
            count = rank_count(request.training_processes, groups, gpu_count(compute.device))
            return spawn_ranks(count, compute.device, _accompany, (request, run.folder, cell.key))

        images, store = family_images(plan, compute), ArtifactStore(request.cache)
        self.context = RunContext(images, store, compute, display, stop or StopSignal(), others)

    @classmethod
    def of(cls, request: RunRequest, folder: Path, display: Display, stop: StopSignal | None = None) -> Worker:
        """A worker in a process that has no more than a request and the run's folder."""
        compute = choose_device(request.device, request.precision)
        return cls(make_plan(request, compute), request, Run.open(folder), compute, display, stop)

    def perform(self, job: Job) -> None:
        """Do what is left of the job, and restore torch's settings. Raises whatever the method or the images raise.

        Where a method calls `sys.exit`, that is a MethodError: the other jobs go on.
        """
        cell = self.cells[job.cell]
        try:
            with restored_settings():
                if job.training:
                    obtain_artifact(cell, self.context)
                else:
                    run_cell(cell, self.run, self.context, range(job.first, job.end))
        except SystemExit as error:
            if self.context.stop_signal.requested:
                raise
            raise MethodError(
                f"method '{cell.variant.name}' ended with sys.exit({error.code!r}); raise an exception"
            ) from error

    def described(self, job: Job, error: BaseException) -> str:
        """`error`, which ended the job, in one line with its place in the method's own file."""
        return described(error, inspect.getfile(self.cells[job.cell].method))


def _accompany(request: RunRequest, folder: Path, cell: str, ranks: Ranks) -> None:
    """Share the meta-training of the cell of that key, in a process started for it."""
    worker = Worker.of(request, folder, Display())
    accompany(worker.cells[cell], worker.context, ranks)


def family_images(plan: Plan, compute: Compute) -> Callable[[str, int], SplitImages]:
    """The images of the plan's families on the device, by name and class split; loaded on demand, two families at a time."""
    families = {cell.family.name: (cell.family, cell.source) for cell in plan.cells}
    families |= {cell.trained_on.name: (cell.trained_on, cell.training_source) for cell in plan.cells}

    @lru_cache(maxsize=2)
    def loaded(name: str) -> SplitImages:
        family, source = families[name]
        if isinstance(family, MixedFamily) and isinstance(source, JoinedSource):
            return MixedImages(family, source, compute.device)
        return split_images(family, source, compute.device, loaded(family.trained_on) if family.trained_on else None)

    @lru_cache(maxsize=2)
    def images_of(name: str, split: int) -> SplitImages:
        images, (family, source) = loaded(name), families[name]
        if split == images.split_seed:
            return images
        trained_on = images_of(family.trained_on, split) if family.trained_on else None
        return images.of_split(split, source, trained_on)

    return images_of


def refuse_families_that_do_not_fit(plan: Plan) -> None:
    """Raise FamilyError for a family that its source has too few classes or images for, without reading a pixel."""
    families = {cell.family: cell.source for cell in plan.cells}
    families |= {cell.trained_on: cell.training_source for cell in plan.cells}
    for family, source in families.items():
        if not isinstance(family, MixedFamily):  # whose parts are measured, and so among these
            blank = replace(source, images=np.zeros((len(source.labels), 1, 1, 1), np.uint8))
            split_images(family, blank, torch.device("cpu"))
