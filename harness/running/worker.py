"""Cut a plan into jobs and perform them, the same way in one process, in several and on a cluster."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pudnet_bench.harness.console.ending import abandoned_threads
from pudnet_bench.harness.console.failures import described, is_a_methods
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.measuring.isolation import isolated
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
from pudnet_bench.methods.own_code import place_of
from pudnet_bench.results.store.run import NOTHING, Run
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.family import FamilyError
from pudnet_bench.suites.held_out_images import split_images
from pudnet_bench.suites.mixed_images import JoinedSource, MixedImages
from pudnet_bench.suites.mixtures import MixedFamily
from pudnet_bench.suites.sources.copies import SourceWarning


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


@dataclass(frozen=True)
class Failure:
    """How a job failed, in one line and in full. Unlike an exception it can be sent to another process whatever it is."""

    line: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException, line: str = "") -> Failure:
        """That of `error`, with its place in the method's own code."""
        return cls(line or described(error), "".join(traceback.format_exception(error)).rstrip())


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
        self.request = request
        self.run = replace(run, folder=run.folder.absolute())  # a method may change the working folder
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

    def perform(self, job: Job) -> Failure | None:
        """Do what is left of the job, and keep what its method changes from all others; returns how the method failed.

        Raises whatever the output folder or the images raise, which no other job could do without.
        """
        threads = set(abandoned_threads())
        try:
            self._perform(job)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except SystemExit as error:
            if self.context.stop_signal.requested:
                raise
            said = f"method '{self._method_of(job)}' ended with sys.exit({error.code!r}){place_of(error)}"
            return Failure.of(error, f"MethodError: {said}; raise an exception")
        except (OSError, FamilyError) as error:
            if self._is_about_our_files(error) or not is_a_methods(error):
                raise
            return Failure.of(error)
        except BaseException as error:  # a method can fail in any way
            return Failure.of(error)
        finally:
            if left := set(abandoned_threads()) - threads:
                names = ", ".join(sorted(thread.name for thread in left))
                self.context.display.log(f"{job.title}: it left threads running, which slow what follows: {names}")
        return None

    def _perform(self, job: Job) -> None:
        if job.cell not in self.cells:
            now = "`resume` measures what there is now"
            raise MethodError(f"the code or the images of {job.cell} have changed since it was planned; {now}")
        cell = self.cells[job.cell]
        with isolated(cell.method):
            if job.training:
                obtain_artifact(cell, self.context)
            else:
                run_cell(cell, self.run, self.context, range(job.first, job.end))

    def _is_about_our_files(self, error: Exception) -> bool:
        """Whether it names a file of the run or of the cache, which no method writes."""
        name = getattr(error, "filename", None)
        folders = (self.run.folder, self.request.cache)
        return isinstance(name, str | Path) and any(Path(name).absolute().is_relative_to(each) for each in folders)

    def _method_of(self, job: Job) -> str:
        return self.cells[job.cell].variant.name


def _accompany(request: RunRequest, folder: Path, cell: str, ranks: Ranks) -> None:
    """Share the meta-training of the cell of that key, in a process started for it."""
    worker = Worker.of(request, folder, Display())
    with isolated(worker.cells[cell].method):
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
