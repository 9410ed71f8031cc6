"""Executors: perform the jobs of a plan in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path

import torch

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.console.ending import leave_despite_threads
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import thread_limit
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.status import outcome_path, save_outcome
from pudnet_bench.harness.running.worker import Failure, Worker


class ExecutorError(BenchError):
    """An unknown or failed executor; names it and the way out."""


class Executor(ABC):
    """Performs jobs. A failed job is logged with its cause, those that need it are skipped, the others continue."""

    @abstractmethod
    def perform(self, jobs: Sequence[Job], worker: Worker) -> set[str]:
        """Perform `jobs` and return the keys of the cells that failed. `worker` is this process's own."""


class Local(Executor):
    """One job after the other, in this process."""

    def perform(self, jobs: Sequence[Job], worker: Worker) -> set[str]:
        failures = JobFailures(jobs, worker)
        for job in jobs:
            if failures.may_start(job):
                failures.add(job, worker.perform(job))
        return failures.cells


@dataclass(frozen=True)
class LocalProcesses(Executor):
    """`processes` jobs at a time, each in its own process with its share of the cores.

    Jobs slow one another down: times differ from those of `Local`. Accuracies do not, given the same number of threads.
    """

    processes: int

    def perform(self, jobs: Sequence[Job], worker: Worker) -> set[str]:
        failures = JobFailures(jobs, worker)
        waiting, running = list(jobs), dict[Future[Failure | None], Job]()
        trainings = {job.training for job in jobs if job.training}
        threads = max(1, thread_limit() // self.processes)
        spawn, arguments = multiprocessing.get_context("spawn"), (worker.request, worker.run.folder, threads)
        with ProcessPoolExecutor(self.processes, spawn, _start, arguments) as pool:
            while waiting or running:
                waiting = [job for job in waiting if failures.may_start(job)]
                ready = [job for job in waiting if not trainings.intersection(job.needs)]
                for job in ready[: self.processes - len(running)]:
                    waiting.remove(job)
                    running[pool.submit(_perform, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    trainings.discard(job.training)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        died = f"a process died during {job.title}, perhaps out of memory; finished groups are saved"
                        raise ExecutorError(f"{died}: repeat the command with fewer processes") from error
                    failures.add(job, future.result())
        return failures.cells


class JobFailures:
    """The cells and trainings that failed so far; logs each, with its traceback where the display shows them.

    `status` reads why a cell failed from its outcome (`status.outcome_path`). Those of `jobs` from before are removed.
    """

    def __init__(self, jobs: Sequence[Job], worker: Worker) -> None:
        self.display, self.folder = worker.context.display, worker.run.folder
        self.cells, self.trainings = set[str](), dict[str, str]()
        for cell in {job.cell for job in jobs}:
            outcome_path(self.folder, cell).unlink(missing_ok=True)

    def may_start(self, job: Job) -> bool:
        """Whether no training that the job needs has failed; the job counts as failed otherwise."""
        failed = next((key for key in job.needs if key in self.trainings), None)
        if failed is not None and job.training:
            self.trainings[job.training] = self.trainings[failed]
        elif failed is not None:
            self._add_cell(job.cell, f"its meta-training failed: {self.trainings[failed]}")
            self.display.log(f"failed: {job.cell}: its meta-training failed ({failed})")
        return failed is None

    def add(self, job: Job, failure: Failure | None) -> None:
        """Record how `job` failed, if it did."""
        if failure is None:
            return
        if job.training:
            self.trainings[job.training] = failure.line
        else:
            self._add_cell(job.cell, failure.line)
        self.display.log(f"failed: {job.title}: {failure.line}")
        if self.display.tracebacks:
            self.display.log(failure.traceback)

    def _add_cell(self, cell: str, why: str) -> None:
        self.cells.add(cell)
        save_outcome(self.folder, cell, why)


_worker: list[Worker] = []  # of this process of the pool


def _start(request: RunRequest, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    Finalize(None, leave_despite_threads, args=(0,), exitpriority=-1)  # last, after the pool's own
    _worker.append(Worker.of(request, folder, Display()))


def _perform(job: Job) -> Failure | None:
    return _worker[0].perform(job)


def executor_named(name: str) -> Executor:
    """The executor `local` or `local-processes:N`. Raises ExecutorError for any other name."""
    if name == "local":
        return Local()
    kind, colon, number = name.partition(":")
    if kind == "local-processes" and colon and number.isdecimal() and int(number) > 0:
        return LocalProcesses(int(number))
    raise ExecutorError(f"--executor is local, local-processes:N or slurm, not '{name}'")
