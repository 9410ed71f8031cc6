"""Submit a run to a Slurm cluster; `harness.running.status` shows its progress.

`<run>/jobs/` holds submitit's files (mode 0700, never read), `<run>/jobs.json` what was submitted, and
`<run>/outcomes/<job>.json` how each job ended. A job's state follows from its outcome, the rows and Slurm's queue.
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.console.failures import described
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute, DeviceKind, Precision, native_bf16
from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.status import (
    OUTCOMES,
    Submitted,
    first_shard,
    live_jobs,
    outcome_path,
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
        outcome = outcome_path(Path(self.folder), self.job.title)
        try:
            stop_signal = StopSignal(signal.SIGUSR2)  # submitit's warning
            with Display() as display:
                Worker.of(self.request, Path(self.folder), display, stop_signal).perform(self.job)
        except Exception as error:
            with suppress(OSError):  # of a full disk, where the log says more
                write_atomically(outcome, json.dumps({"failed": described(error)}).encode())
            raise
        write_atomically(outcome, json.dumps({"failed": ""}).encode())

    def checkpoint(self) -> Any:
        """Called by submitit when the job is requeued: the same job, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(plan: Plan, run: Run, request: RunRequest, cluster: Cluster, shard: int | None) -> list[Submitted]:
    """Submit the missing jobs of `plan` whose groups no job in Slurm's queue measures, and return them.

    Shards have the size `shard` (default 50) of the run's first submission. Jobs that wait for the same trainings are one
    array, or several where the cluster's arrays are smaller: trainings that wait for none (of all methods and class splits),
    trainings that build on another, and the shards of cells. Raises SlurmError.
    """
    before = submitted(run)
    ids_live = live_jobs(before)
    live = [entry for entry in before if entry.job_id in ids_live]
    ids = {entry.job.training: entry.job_id for entry in live if entry.job.training}
    shard = _shard(run, shard)
    jobs = missing_jobs(plan, run, ArtifactStore(request.cache), shard, [entry.job for entry in live])
    turns = {stage: Turns(cluster.jobs_at_once(stage), _ids(live, stage)) for stage in STAGES}
    (run.folder / OUTCOMES).mkdir(exist_ok=True)
    new, arrays = list[Submitted](), dict[tuple[Stage, tuple[str, ...]], list[Job]]()
    for job in sorted(jobs, key=lambda job: not job.training):  # a training comes after those that it needs
        arrays.setdefault((_stage(job), job.needs), []).append(job)
    size = largest_array() if arrays else 1
    for (stage, needs), batch in ((key, batch) for key, jobs in arrays.items() for batch in _slices(jobs, size)):
        for job in batch:
            outcome_path(run.folder, job.title).unlink(missing_ok=True)
        calls = [ClusterJob(request, str(run.folder.absolute()), job) for job in batch]
        after = launcher.Dependencies([ids[key] for key in needs], turns[stage].waits_for(len(batch)))
        with naming(run.folder / "jobs"):
            job_ids = launcher.submit(run.folder / "jobs", cluster, stage, calls, after, f"pudnet-{plan.suite.name}")
        turns[stage].add(job_ids[0], len(batch))
        sent = [Submitted(job_id, job) for job_id, job in zip(job_ids, batch, strict=True)]
        ids |= {entry.job.training: entry.job_id for entry in sent if entry.job.training}
        new.extend(sent)
        # After each array, so that a failure later loses no job id.
        save_submitted(run, [*submitted(run), *sent], shard)
    return new


def _shard(run: Run, asked: int | None) -> int:
    """Groups per job: those of the run's first submission, or else those `asked` for. Warns where the two differ."""
    fixed = first_shard(run)
    if fixed and asked and fixed != asked:
        warnings.warn(
            f"--shard {asked} is not used: {run.folder} is cut into shards of {fixed} groups since its first submission; "
            f"only a new run (another --out) takes another --shard.",
            stacklevel=2,
        )
    return fixed or asked or GROUPS_PER_JOB


def _stage(job: Job) -> Stage:
    return "training" if job.training else "evaluation"


def _ids(entries: Sequence[Submitted], stage: Stage) -> list[str]:
    return [entry.job_id for entry in entries if _stage(entry.job) == stage]


def _slices(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    """The jobs in their order, at most `size` at a time."""
    return (jobs[start : start + size] for start in range(0, len(jobs), size))


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
