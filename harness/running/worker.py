"""Cut a plan into jobs and perform them, the same way in one process, in several and on a cluster."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

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
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.held_out_images import split_images
from pudnet_bench.suites.mixed_images import JoinedSource, MixedImages
from pudnet_bench.suites.mixtures import MixedFamily
from pudnet_bench.suites.sources.copies import SourceWarning


def missing_jobs(plan: Plan, run: Run, store: ArtifactStore, shard: int | None = None) -> list[Job]:
    """The jobs left of `plan`, each training before its first cell. A job measures up to `shard` groups; None: a cell."""
    jobs, planned = list[Job](), set[str]()
    for cell in plan.cells:
        missing = missing_groups(cell, run)
        if not missing and is_complete(cell, run):
            continue
        needs: tuple[str, ...] = ()
        for needing in with_bases(cell):
            if needing.artifact is None or store.has(needing.artifact):
                continue
            if needing.training_key not in planned:
                jobs.append(Job(needing.key, needing.training_key, needs=needs))
                planned.add(needing.training_key)
            needs = (*needs, needing.training_key)
        size = shard or max(1, cell.groups)
        starts = sorted({index // size * size for index in missing}) or [0]
        jobs += [Job(cell.key, "", first, min(first + size, cell.groups), needs) for first in starts]
    return jobs


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SourceWarning)  # said by the process that was asked
            plan = make_plan(request, compute)
        return cls(plan, request, Run.open(folder), compute, display, stop)

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
