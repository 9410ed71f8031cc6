"""Submit a run to a Slurm cluster; `harness.running.status` shows its progress.

`<run>/jobs/` holds submitit's files (mode 0700, never read), `<run>/jobs.json` what was submitted, and
`<run>/outcomes/<job>.json` how each job ended. A job's state follows from its outcome, the rows and Slurm's queue.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
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
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.status import (
    Submitted,
    live_jobs,
    outcome_path,
    save_outcome,
    save_submitted,
    submitted,
)
from pudnet_bench.harness.running.worker import Worker, missing_jobs
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm import launcher
from pudnet_bench.slurm.cluster import Cluster, Stage, load

CLUSTER = "cluster.toml"
GROUPS_PER_JOB = 50


class JobError(Exception):
    """A job failed, as its outcome says."""


@dataclass(frozen=True)
class ClusterJob:
    """The function of no arguments that submitit pickles for a node; performs one job of a run.

    On Slurm's warning (pre-emption, time limit) it saves a checkpoint, is requeued and resumes.
    """

    request: RunRequest
    folder: str
    job: Job

    def __call__(self) -> None:
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if cores.isdecimal():
            torch.set_num_threads(int(cores))
        folder = Path(self.folder)
        try:
            stop_signal = StopSignal(signal.SIGUSR2)  # submitit's warning
            with Display() as display:
                failure = Worker.of(self.request, folder, display, stop_signal).perform(self.job)
        except Exception as error:
            save_outcome(folder, self.job.title, described(error))
            raise
        save_outcome(folder, self.job.title, failure.line if failure else "")
        if failure:
            print(failure.traceback, file=sys.stderr)
        leave_despite_threads(bool(failure))
        if failure:
            raise JobError(failure.line)

    def checkpoint(self) -> Any:
        """Called by submitit when the job is requeued: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(plan: Plan, run: Run, request: RunRequest, cluster: Cluster, shard: int | None) -> list[Submitted]:
    """Submit the missing jobs of `plan` that are not in Slurm's queue, and return them.

    Jobs that wait for the same trainings are one array: trainings that wait for none (of all methods and class splits),
    trainings that build on another, and the shards of cells. Raises SlurmError.
    """
    before = submitted(run)
    ids_live = live_jobs(before)
    live = [entry for entry in before if entry.job_id in ids_live]
    titles = {entry.job.title for entry in live}
    ids = {entry.job.training: entry.job_id for entry in live if entry.job.training}
    jobs = missing_jobs(plan, run, ArtifactStore(request.cache), shard or GROUPS_PER_JOB)
    jobs = [job for job in jobs if job.title not in titles]
    for cell in {job.cell for job in jobs}:
        outcome_path(run.folder, cell).unlink(missing_ok=True)  # of a run of this machine
    new, arrays = list[Submitted](), dict[tuple[Stage, tuple[str, ...]], list[Job]]()
    for job in sorted(jobs, key=lambda job: not job.training):  # a training comes after those that it needs
        arrays.setdefault(("training" if job.training else "evaluation", job.needs), []).append(job)
    for (stage, needs), batch in arrays.items():
        for job in batch:
            outcome_path(run.folder, job.title).unlink(missing_ok=True)
        calls = [ClusterJob(request, str(run.folder.absolute()), job) for job in batch]
        after = [ids[key] for key in needs]
        job_ids = launcher.submit(run.folder / "jobs", cluster, stage, calls, after, f"pudnet-{plan.suite.name}")
        sent = [Submitted(job_id, job) for job_id, job in zip(job_ids, batch, strict=True)]
        ids |= {entry.job.training: entry.job_id for entry in sent if entry.job.training}
        new.extend(sent)
        save_submitted(run, [*submitted(run), *sent])  # after each array, so that a failure later loses no job id
    return new


def save_cluster(run: Run, cluster: Cluster) -> Cluster:
    """Copy the profile into the run, for `resume`, and return the copy."""
    copy = run.folder / CLUSTER
    if cluster.path.resolve() != copy.resolve():
        shutil.copyfile(cluster.path, copy)
    return load(copy)


def saved_cluster(run: Run) -> Cluster | None:
    """The profile that the run was submitted with; None for a local run."""
    path = run.folder / CLUSTER
    return load(path) if path.exists() else None


def compute_of(cluster: Cluster, device: DeviceKind, precision: Precision) -> Compute:
    """The device that jobs are planned for, which need not be in this machine.

    `device` auto is CUDA where evaluation jobs get GPUs; `precision` auto is bf16 on CUDA, else what suits this CPU.
    """
    gpu_options = ("gpus_per_node", "slurm_gpus_per_task", "slurm_num_gpus", "slurm_gres")
    gpus = any(map(cluster.parameters("evaluation").get, gpu_options))
    kind = (DeviceKind.CUDA if gpus else DeviceKind.CPU) if device == DeviceKind.AUTO else device
    bf16 = kind == DeviceKind.CUDA or native_bf16(torch.device("cpu"))
    return Compute(torch.device(kind), f"slurm, {kind}", precision.resolved(bf16))
