"""Submit a run to a Slurm cluster; `harness.running.status` shows its progress.

`<run>/jobs/` holds submitit's files (mode 0700, never read), `<run>/jobs.json` what was submitted, and
`<run>/outcomes/<job>.json` how each job ended. A job's state follows from its outcome, the rows and Slurm's queue.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.console.ending import leave_despite_threads
from pudnet_bench.harness.console.failures import described
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute, DeviceKind, Precision, native_bf16
from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.arrays import Task, arrays, tasks_of
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.status import (
    Submitted,
    first_shard,
    live_jobs,
    outcome_path,
    save_outcome,
    save_submitted,
    submitted,
)
from pudnet_bench.harness.running.worker import Worker, missing_jobs
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.results.store.files import naming, write_atomically
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm import launcher
from pudnet_bench.slurm.cluster import STAGES, Cluster, Stage, load
from pudnet_bench.slurm.queue import largest_array
from pudnet_bench.slurm.turns import Turns

CLUSTER = "cluster.toml"
GROUPS_PER_JOB = 50
MANY_JOBS = 2_000  # of a run: from here on its jobs measure more groups each, as each takes some seconds to start


class JobError(Exception):
    """A job failed, as its outcome says."""


@dataclass(frozen=True)
class ClusterJob:
    """The function of no arguments that submitit pickles for a node; performs one task of a run, all its jobs in turn.

    On Slurm's warning (pre-emption, time limit) it saves a checkpoint, is requeued and resumes.
    """

    request: RunRequest
    folder: str
    task: Task

    def __call__(self) -> None:
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if cores.isdecimal():
            torch.set_num_threads(int(cores))
        folder, left, failed = Path(self.folder), list(self.task), ""
        try:
            stop_signal = StopSignal(signal.SIGUSR2)  # submitit's warning
            with Display() as display:
                worker = Worker.of(self.request, folder, display, stop_signal)
                while left:
                    failure = worker.perform(left[0])
                    save_outcome(folder, left.pop(0).title, failure.line if failure else "")
                    if failure:
                        print(failure.traceback, file=sys.stderr)
                        failed = failed or failure.line
        except Exception as error:
            for job in left:
                with suppress(OSError):  # of a full disk, where the log says more
                    save_outcome(folder, job.title, described(error))
            raise
        leave_despite_threads(bool(failed))
        if failed:
            raise JobError(failed)

    def checkpoint(self) -> Any:
        """Called by submitit when the job is requeued: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(plan: Plan, run: Run, request: RunRequest, cluster: Cluster, shard: int | None) -> list[Submitted]:
    """Submit the missing jobs of `plan` whose groups no job in Slurm's queue measures, and return them.

    Shards have the size of the run's first submission. Raises SlurmError.
    """
    before = submitted(run)
    ids_live = live_jobs(before)
    live = [entry for entry in before if entry.job_id in ids_live]
    ids = {entry.job.training: entry.job_id for entry in live if entry.job.training}
    shard = _shard(run, shard, [cell.groups for cell in plan.cells])
    jobs = missing_jobs(plan, run, ArtifactStore(request.cache), shard, [entry.job for entry in live])
    turns = {stage: Turns(cluster.jobs_at_once(stage), _ids(live, stage)) for stage in STAGES}
    for cell in {job.cell for job in jobs}:
        outcome_path(run.folder, cell).unlink(missing_ok=True)  # of a run of this machine
    new = list[Submitted]()
    for array in arrays(tasks_of(jobs, shard if shard > GROUPS_PER_JOB else 0), largest_array() if jobs else 1):
        stage, size, needs = _stage(array.jobs[0]), len(array.tasks), array.jobs[0].needs
        for job in array.jobs:
            outcome_path(run.folder, job.title).unlink(missing_ok=True)
        calls = [ClusterJob(request, str(run.folder.absolute()), task) for task in array.tasks]
        trainings, earlier = [ids[key] for key in needs], turns[stage].waits_for(size)
        if array.one_by_one:
            after = launcher.Dependencies(each=trainings[-1].partition("_")[0], end=earlier)
        else:
            after = launcher.Dependencies(trainings, earlier)
        with naming(run.folder / "jobs"):
            job_ids = launcher.submit(run.folder / "jobs", cluster, stage, calls, after, f"pudnet-{plan.suite.name}")
        turns[stage].add(job_ids[0], size)
        sent = [Submitted(job_id, job) for job_id, task in zip(job_ids, array.tasks, strict=True) for job in task]
        ids |= {entry.job.training: entry.job_id for entry in sent if entry.job.training}
        new.extend(sent)
        # After each array, so that a failure later loses no job id.
        save_submitted(run, [*before, *new], shard)
    return new


def _shard(run: Run, asked: int | None, groups: Sequence[int]) -> int:
    """Groups per job: those of the run's first submission, or else those `asked` for, or else what suits so many `groups`.

    Warns where what was asked for is not used.
    """
    fixed = first_shard(run)
    if fixed and asked and fixed != asked:
        warnings.warn(
            f"--shard {asked} is not used: {run.folder} is cut into shards of {fixed} groups since its first submission; "
            f"only a new run (another --out) takes another --shard.",
            stacklevel=2,
        )
    return fixed or asked or default_shard(groups)


def default_shard(groups: Sequence[int]) -> int:
    """Groups per job for cells of so many groups each: `GROUPS_PER_JOB`, doubled until there are at most `MANY_JOBS`."""
    shard = GROUPS_PER_JOB
    while shard < max(groups, default=0) and sum(-(-each // shard) for each in groups) > MANY_JOBS:
        shard *= 2
    return shard


def _stage(job: Job) -> Stage:
    return "training" if job.training else "evaluation"


def _ids(entries: Sequence[Submitted], stage: Stage) -> list[str]:
    return list(dict.fromkeys(entry.job_id for entry in entries if _stage(entry.job) == stage))


def save_cluster(run: Run, cluster: Cluster) -> Cluster:
    """Copy the profile into the run, for `resume`, and return the copy."""
    copy = run.folder / CLUSTER
    if cluster.path.resolve() != copy.resolve():
        write_atomically(copy, cluster.path.read_bytes())
    return load(copy)


def saved_cluster(run: Run) -> Cluster | None:
    """The profile that the run was submitted with; None for a local run."""
    path = run.folder / CLUSTER
    return load(path) if path.exists() else None


def compute_of(cluster: Cluster, device: DeviceKind, precision: Precision) -> Compute:
    """The device that jobs are planned for, which need not be in this machine.

    `device` auto is CUDA where evaluation jobs get GPUs; `precision` auto is bf16 on CUDA, else what suits this CPU.
    """
    kind = (
        (DeviceKind.CUDA if cluster.has_gpus("evaluation") else DeviceKind.CPU) if device == DeviceKind.AUTO else device
    )
    bf16 = kind == DeviceKind.CUDA or native_bf16(torch.device("cpu"))
    return Compute(torch.device(kind), f"slurm, {kind}", precision.resolved(bf16))
