"""Jobs: the pieces that a plan is worked off in, the same for one process, for several, and for a cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell, Plan
from pudnet_bench.harness.planning.request import Recipe
from pudnet_bench.harness.running.cell import (
    ImagesOf,
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
from pudnet_bench.methods.base import SINGLE_PROCESS, Ranks
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.groups import FamilyImages


def missing_jobs(plan: Plan, run: Run, store: ArtifactStore, shard: int | None = None) -> list[Job]:
    """What is left to do of ``plan``, in its order: each training before the first cell that needs it.

    Cells are measured in jobs of at most ``shard`` groups; None makes one of each cell.
    """
    jobs: list[Job] = []
    planned: set[str] = set()
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


def with_bases(cell: Cell) -> list[Cell]:
    """The cells of the methods that ``cell`` builds on, what comes first first, and ``cell``."""
    return [*(with_bases(cell.base) if cell.base else ()), cell]


class Worker:
    """A process that performs jobs of one plan: images, methods and artifacts are loaded once."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        compute: Compute,
        cache_dir: Path,
        display: Display,
        stop_signal: StopSignal | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """With ``recipe``, from which other processes make the plan, several of them may share a meta-training."""
        self.run = run
        self.cells = {each.key: each for cell in plan.cells for each in with_bases(cell)}

        def others(cell: Cell) -> AbstractContextManager[Ranks]:
            if recipe is None:
                return nullcontext(SINGLE_PROCESS)
            groups = cell.training.budget.groups_per_step
            count = rank_count(recipe.training_processes, groups, gpu_count(compute.device))
            return spawn_ranks(count, compute.device, _accompany, (recipe, run.folder, cell.key))

        self.context = RunContext(
            family_images(plan, compute),
            ArtifactStore(cache_dir),
            compute,
            display,
            stop_signal or StopSignal(),
            others,
        )

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, display: Display, stop_signal: StopSignal | None = None) -> Worker:
        """For a process that is given no more than a recipe and the run's folder."""
        compute = recipe.compute()
        return cls(recipe.plan(compute), Run.open(folder), compute, Path(recipe.cache), display, stop_signal, recipe)

    def perform(self, job: Job) -> None:
        """Do the job; what was done of it before counts. Raises whatever the method or the images raise."""
        cell = self.cells[job.cell]
        if job.training:
            obtain_artifact(cell, self.context)
        else:
            run_cell(cell, self.run, self.context, range(job.first, job.end))


def _accompany(recipe: Recipe, folder: Path, cell: str, ranks: Ranks) -> None:
    """In a process that shares the meta-training of the cell of that key."""
    worker = Worker.of(recipe, folder, Display())
    accompany(worker.cells[cell], worker.context, ranks)


def family_images(plan: Plan, compute: Compute) -> ImagesOf:
    """Families' images on the device: two at a time, the one that is measured and the one that is trained on."""
    families = {cell.family.name: (cell.family, cell.source) for cell in plan.cells}
    families |= {cell.trained_on.name: (cell.trained_on, cell.training_source) for cell in plan.cells}

    @lru_cache(maxsize=2)
    def images_of(name: str) -> FamilyImages:
        family, source = families[name]
        return FamilyImages(family, source, compute.device, images_of(family.trained_on) if family.trained_on else None)

    return images_of
