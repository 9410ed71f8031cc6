"""A run on a Slurm cluster: its jobs are submitted at once, and whoever asks later sees how far they are.

``<run>/jobs/`` holds submitit's files (mode 0700), ``<run>/jobs.json`` what was submitted, and
``<run>/outcomes/<job>.json`` what each job said when it ended. Nothing of submitit's is read: how a job stands is known
from its outcome, from what is measured, and from Slurm's queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.artifacts import ArtifactStore
from harness.compute import Compute, ComputeError, native_bf16
from harness.interruption import SignalInterruption
from harness.jobs import Job, Workshop, missing_jobs
from harness.plan import Plan
from harness.progress import Display
from harness.recipe import Recipe
from results.store import Run, StoreError, write_atomically
from slurm import launcher, queue
from slurm.cluster import Cluster, load

JOBS, CLUSTER, OUTCOMES = "jobs.json", "cluster.toml", "outcomes"
POLL_SECONDS = 2.0
GROUPS_PER_JOB = 50
WARNING = signal.SIGUSR2  # submitit's


@dataclass(frozen=True)
class Submitted:
    """A job as it was submitted: its id ("12" or "12_3") and what it does."""

    job_id: str
    job: Job


@dataclass(frozen=True)
class ClusterJob:
    """What a node is given: a function of no arguments, pickled by submitit, that performs one job of a run.

    On Slurm's warning (pre-emption, the end of its time) it saves and is requeued, and goes on from there.
    """

    recipe: Recipe
    folder: str
    job: Job

    def __call__(self) -> None:
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if cores.isdecimal():
            torch.set_num_threads(int(cores))
        outcome = Path(self.folder) / OUTCOMES / f"{self.job.title}.json"
        try:
            interruption = SignalInterruption(WARNING)
            with Display() as display:
                Workshop.of(self.recipe, Path(self.folder), display, interruption).perform(self.job)
        except Exception as error:
            write_atomically(outcome, json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
            raise
        write_atomically(outcome, json.dumps({"failed": ""}).encode())

    def checkpoint(self) -> Any:
        """Called by submitit when the job is requeued: the same job, which finds what is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(plan: Plan, run: Run, recipe: Recipe, cluster: Cluster, shard: int | None) -> list[Submitted]:
    """Submit what is missing of ``plan`` and is not in Slurm's queue, and return it.

    Trainings are jobs of their own; cells are measured by arrays that wait for theirs. Raises SlurmError.
    """
    before = submitted(run)
    live = {entry.job.title: entry.job_id for entry in before if entry.job_id in _live(before)}
    jobs = missing_jobs(plan, run, ArtifactStore(Path(recipe.cache)), shard or GROUPS_PER_JOB)
    ids = {entry.job.training: entry.job_id for entry in before if entry.job.title in live and entry.job.training}
    (run.folder / OUTCOMES).mkdir(exist_ok=True)
    new: list[Submitted] = []

    def send(batch: Sequence[Job], stage: Any) -> None:
        for job in batch:
            (run.folder / OUTCOMES / f"{job.title}.json").unlink(missing_ok=True)
        calls = [ClusterJob(recipe, str(run.folder.absolute()), job) for job in batch]
        after = [ids[key] for key in batch[0].needs]
        job_ids = launcher.submit(run.folder / "jobs", cluster, stage, calls, after, f"pudnet-{plan.suite.name}")
        sent = [Submitted(job_id, job) for job_id, job in zip(job_ids, batch, strict=True)]
        new.extend(sent)
        _keep(run, [*submitted(run), *sent])  # after each array: what Slurm has is known, whatever happens next

    arrays: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.title in live:
            continue
        if job.training:
            send([job], "training")
            ids[job.training] = new[-1].job_id
        else:
            arrays.setdefault(job.needs, []).append(job)
    for batch in arrays.values():
        send(batch, "evaluation")
    return new


def submitted(run: Run) -> list[Submitted]:
    """Every job that was submitted for the run, in order."""
    path = run.folder / JOBS
    if not path.exists():
        return []
    try:
        return [
            Submitted(e["job_id"], Job(**{**e["job"], "needs": tuple(e["job"]["needs"])}))
            for e in json.loads(path.read_text())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}): remove it; what is measured is kept.") from error


def keep_cluster(run: Run, cluster: Cluster) -> Cluster:
    """Copy the profile into the run, so that it can be resumed with the same; returns the copy."""
    kept = run.folder / CLUSTER
    if cluster.path.resolve() != kept.resolve():
        shutil.copyfile(cluster.path, kept)
    return load(kept)


def kept_cluster(run: Run) -> Cluster | None:
    """The profile that the run was submitted with; None for a run of this machine."""
    path = run.folder / CLUSTER
    return load(path) if path.exists() else None


def compute_of(cluster: Cluster, device: str, precision: str) -> Compute:
    """The device that jobs are planned for, which need not be in this machine; named after the profile.

    ``device`` auto is CUDA where evaluation jobs get GPUs; ``precision`` auto is bf16 on CUDA, and on a CPU what is best
    on this one.
    """
    parameters = cluster.parameters("evaluation")
    gpus = any(
        parameters.get(name) for name in ("gpus_per_node", "slurm_gpus_per_task", "slurm_num_gpus", "slurm_gres")
    )
    kind = ("cuda" if gpus else "cpu") if device == "auto" else device
    if kind not in ("cpu", "cuda"):
        raise ComputeError(f"--device is auto, cpu or cuda, not '{device}'")
    if precision == "auto":
        precision = "bf16" if kind == "cuda" or native_bf16(torch.device("cpu")) else "fp32"
    if precision not in ("fp32", "bf16"):
        raise ComputeError(f"--precision is auto, fp32 or bf16, not '{precision}'")
    return Compute(torch.device(kind), f"slurm, {kind}", "bf16" if precision == "bf16" else "fp32")


def cancel(run: Run) -> list[str]:
    """Cancel the run's jobs that Slurm still has; returns their ids. Raises SlurmError."""
    live = sorted(_live(submitted(run)))
    queue.cancel(live)
    return live


@dataclass(frozen=True)
class Standing:
    """A cell: "done", "running", "pending", "failed" or "lost", why, and the logs that tell more."""

    state: str
    reason: str = ""
    logs: tuple[Path, ...] = ()


def standings(run: Run) -> dict[str, Standing]:
    """How each cell of the run's plan stands, by its key. Raises SlurmError where Slurm has to be asked and does not answer.

    A cell is lost when Slurm no longer has its jobs and they left no outcome: cancelled, killed, or on a node that died.
    """
    entries = submitted(run)
    latest: dict[str, Submitted] = {entry.job.title: entry for entry in entries}
    outcomes = {title: _outcome(run, title) for title in latest}
    open_ids = [entry.job_id for title, entry in latest.items() if outcomes[title] is None]
    states = queue.states(open_ids)
    found = {}
    for cell in run.manifest["plan"]["cells"]:
        done = run.groups_done(cell["key"])
        if run.finished(cell["key"]) and len(done) >= cell["groups"]:
            found[cell["key"]] = Standing("done")
            continue
        own = [entry for entry in latest.values() if entry.job.cell == cell["key"] and not entry.job.training]
        trainings = {key for entry in own for key in entry.job.needs}
        behind = [entry for entry in latest.values() if entry.job.training in trainings]
        found[cell["key"]] = _standing(run, [*behind, *own], outcomes, states) if own else Standing("pending")
    return found


def _standing(
    run: Run,
    entries: Sequence[Submitted],
    outcomes: Mapping[str, str | None],
    states: Mapping[str, queue.JobState],
) -> Standing:
    def logs(of: Submitted) -> tuple[Path, ...]:
        return tuple(sorted((run.folder / "jobs").glob(f"{of.job_id}_*_log.*")))

    lost: Standing | None = None
    pending: Standing | None = None
    for entry in entries:
        outcome, state = outcomes[entry.job.title], states.get(entry.job_id)
        if outcome:
            return Standing("failed", outcome, logs(entry))
        if outcome is not None:
            continue
        if state is None or state.finished:
            lost = lost or Standing("lost", state.state if state else "Slurm no longer has the job", logs(entry))
        elif state.state in ("RUNNING", "COMPLETING"):
            return Standing("running", f"job {entry.job_id} on {state.nodes}", logs(entry))
        else:
            pending = pending or Standing("pending", f"job {entry.job_id}: {state.reason or state.state}", logs(entry))
    return lost or pending or Standing("lost", "its jobs have ended and groups are missing")


def follow(run: Run, say: Callable[[str], None]) -> None:
    """Return when Slurm has none of the run's jobs any more. ``say`` is told how many cells stand how, when that changes."""
    told = ""
    while True:
        live = _live(submitted(run))
        counts: dict[str, int] = {}
        for standing in standings(run).values():
            counts[standing.state] = counts.get(standing.state, 0) + 1
        now = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        if now != told:
            say(f"cells: {now}")
            told = now
        if not live:
            return
        time.sleep(POLL_SECONDS)


def _live(entries: Sequence[Submitted]) -> set[str]:
    """Ids of the jobs that Slurm has not ended."""
    states = queue.states([entry.job_id for entry in entries])
    return {job_id for job_id, state in states.items() if not state.finished}


def _outcome(run: Run, title: str) -> str | None:
    """What the job said when it ended: its error, "" for none; None while it has not ended."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        failed: str = json.loads((run.folder / OUTCOMES / f"{title}.json").read_text())["failed"]
        return failed
    return None


def _keep(run: Run, entries: Sequence[Submitted]) -> None:
    content = [{"job_id": entry.job_id, "job": asdict(entry.job)} for entry in entries]
    write_atomically(run.folder / JOBS, json.dumps(content, indent=1).encode())
