"""Jobs: the pieces that a plan is worked off in, the same for one process, for several, and for a cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

from harness.artifacts import ArtifactStore
from harness.compute import Compute
from harness.execution import (
    ImagesOf,
    Workbench,
    accompany,
    is_complete,
    missing_groups,
    obtain_artifact,
    run_cell,
)
from harness.interruption import Interruption
from harness.job import Job
from harness.plan import Cell, Plan
from harness.progress import Display
from harness.ranks import gpu_count, rank_count, together
from harness.recipe import Recipe
from methods.base import ALONE, Ranks
from results.store import Run
from suites.groups import FamilyImages


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


class Workshop:
    """A process that performs jobs of one plan: images, methods and artifacts are loaded once."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        compute: Compute,
        cache_dir: Path,
        display: Display,
        interruption: Interruption | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """With ``recipe``, from which other processes make the plan, several of them may share a meta-training."""
        self.run = run
        self.cells = {each.key: each for cell in plan.cells for each in with_bases(cell)}

        def others(cell: Cell) -> AbstractContextManager[Ranks]:
            if recipe is None:
                return nullcontext(ALONE)
            groups = cell.training.budget.groups_per_step
            count = rank_count(recipe.training_processes, groups, gpu_count(compute.device))
            return together(count, compute.device, _accompany, (recipe, run.folder, cell.key))

        self.bench = Workbench(
            family_images(plan, compute),
            ArtifactStore(cache_dir),
            compute,
            display,
            interruption or Interruption(),
            others,
        )

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, display: Display, interruption: Interruption | None = None) -> Workshop:
        """For a process that is given no more than a recipe and the run's folder."""
        compute = recipe.compute()
        return cls(recipe.plan(compute), Run.open(folder), compute, Path(recipe.cache), display, interruption, recipe)

    def perform(self, job: Job) -> None:
        """Do the job; what was done of it before counts. Raises whatever the method or the images raise."""
        cell = self.cells[job.cell]
        if job.training:
            obtain_artifact(cell, self.bench)
        else:
            run_cell(cell, self.run, self.bench, range(job.first, job.end))


def _accompany(recipe: Recipe, folder: Path, cell: str, ranks: Ranks) -> None:
    """In a process that shares the meta-training of the cell of that key."""
    workshop = Workshop.of(recipe, folder, Display())
    accompany(workshop.cells[cell], workshop.bench, ranks)


def family_images(plan: Plan, compute: Compute) -> ImagesOf:
    """Families' images on the device: two at a time, the one that is measured and the one that is trained on."""
    families = {cell.family.name: (cell.family, cell.source) for cell in plan.cells}
    families |= {cell.trained_on.name: (cell.trained_on, cell.training_source) for cell in plan.cells}

    @lru_cache(maxsize=2)
    def images_of(name: str) -> FamilyImages:
        family, source = families[name]
        return FamilyImages(family, source, compute.device, images_of(family.trained_on) if family.trained_on else None)

    return images_of
