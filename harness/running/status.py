"""Cluster run status: what was submitted, how each job ended, what Slurm reports. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from pudnet_bench.harness.running.job import Job
from pudnet_bench.results.store.files import checksummed_json, quarantine, read_checksummed_json, write_atomically
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm import queue

JOBS, OUTCOMES = "jobs.json", "outcomes"
POLL_SECONDS = 2.0
# Slurm kills what ignores its SIGTERM, as submitit does, after KillWait: 30 seconds unless configured.
CANCEL_SECONDS = 60.0


@dataclass(frozen=True)
class Submitted:
    """A submitted job and its Slurm id ("12" or "12_3")."""

    job_id: str
    job: Job


def submitted(run: Run) -> list[Submitted]:
    """Every job submitted for the run, in order; empty, with a warning, where the file is damaged."""
    path = run.folder / JOBS
    if not path.exists():
        return []
    try:
        jobs = read_checksummed_json(path.read_bytes())["jobs"]
        return [Submitted(e["job_id"], Job(**{**e["job"], "needs": tuple(e["job"]["needs"])})) for e in jobs]
    except (ValueError, KeyError, TypeError) as error:
        quarantine(path, str(error))
        return []


def save_submitted(run: Run, entries: Sequence[Submitted]) -> None:
    """Write the file that `submitted` reads."""
    write_atomically(run.folder / JOBS, checksummed_json({"jobs": [asdict(entry) for entry in entries]}))


def outcome_path(folder: Path, title: str) -> Path:
    """The JSON file in which a job says how it ended: `failed` is its error, "" for none.

    A run of this machine has one for each cell that failed, under the cell's key in place of a job's title.
    """
    return folder / OUTCOMES / f"{title}.json"


def save_outcome(folder: Path, title: str, failed: str) -> None:
    """Write the file of `outcome_path`."""
    path = outcome_path(folder, title)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({"failed": failed}).encode())


def cancel(run: Run) -> list[str]:
    """Cancel the run's jobs in Slurm, wait up to a minute until they have ended, and return their ids.

    `resume` would leave out what a job that is still ending holds. Raises SlurmError.
    """
    entries = submitted(run)
    live = sorted(live_jobs(entries))
    queue.cancel(live)
    given_up = time.monotonic() + CANCEL_SECONDS
    while live and live_jobs(entries) and time.monotonic() < given_up:
        time.sleep(POLL_SECONDS / 4)
    return live


class CellState(StrEnum):
    """A cell's progress. It is lost when Slurm no longer has its jobs and they left no outcome: cancelled or killed."""

    DONE = "done"
    RUNNING = "running"
    PENDING = "pending"
    PARTIAL = "partly measured"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True)
class CellStatus:
    """A cell's state, its reason, and the logs with details."""

    state: CellState
    reason: str = ""
    logs: tuple[Path, ...] = ()


def cell_statuses(run: Run) -> dict[str, CellStatus]:
    """The status of each cell of the run's plan, by key. Raises SlurmError where Slurm is needed and is silent."""
    entries = submitted(run)
    ids = [entry.job_id for entry in _latest(entries).values() if _outcome(run, entry.job.title) is None]
    return _cell_statuses(run, entries, queue.states(ids))


def _cell_statuses(
    run: Run, entries: Sequence[Submitted], states: Mapping[str, queue.JobState]
) -> dict[str, CellStatus]:
    latest = _latest(entries)
    outcomes = {title: _outcome(run, title) for title in latest}
    found = {}
    for cell in run.record.plan.cells:
        if run.is_done(cell):
            found[cell.key] = CellStatus(CellState.DONE)
            continue
        if here := _outcome(run, cell.key):
            found[cell.key] = CellStatus(CellState.FAILED, here)
            continue
        idle = CellStatus(CellState.PARTIAL if run.groups_done(cell.key) else CellState.PENDING)
        own = [entry for entry in latest.values() if entry.job.cell == cell.key and not entry.job.training]
        trainings = {key for entry in own for key in entry.job.needs}
        behind = [entry for entry in latest.values() if entry.job.training in trainings]
        found[cell.key] = _cell_status(run, [*behind, *own], outcomes, states) if own else idle
    return found


def _cell_status(
    run: Run, entries: Sequence[Submitted], outcomes: Mapping[str, str | None], states: Mapping[str, queue.JobState]
) -> CellStatus:
    def logs(of: Submitted) -> tuple[Path, ...]:
        return tuple(sorted((run.folder / "jobs").glob(f"{of.job_id}_*_log.*")))

    lost: CellStatus | None = None
    pending: CellStatus | None = None
    for entry in entries:
        outcome, state = outcomes[entry.job.title], states.get(entry.job_id)
        if outcome:
            return CellStatus(CellState.FAILED, outcome, logs(entry))
        if outcome is not None:
            continue
        if state is None or state.finished:
            gone = state.state if state else "Slurm no longer has the job"
            lost = lost or CellStatus(CellState.LOST, gone, logs(entry))
        elif state.state in ("RUNNING", "COMPLETING"):
            return CellStatus(CellState.RUNNING, f"job {entry.job_id} on {state.nodes}", logs(entry))
        else:
            waits = f"job {entry.job_id}: {state.reason or state.state}"
            pending = pending or CellStatus(CellState.PENDING, waits, logs(entry))
    return lost or pending or CellStatus(CellState.LOST, "its jobs have ended and groups are missing")


def follow(run: Run, log: Callable[[str], None]) -> None:
    """Wait until Slurm has ended all jobs of the run, logging the number of cells in each state when it changes."""
    logged = ""
    while True:
        entries = submitted(run)
        states = queue.states([entry.job_id for entry in entries])
        counts = Counter(status.state for status in _cell_statuses(run, entries, states).values())
        now = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        if now != logged:
            log(f"cells: {now}")
            logged = now
        if all(state.finished for state in states.values()):
            return
        time.sleep(POLL_SECONDS)


def live_jobs(entries: Sequence[Submitted]) -> set[str]:
    """Ids of the jobs that have not ended. Raises SlurmError."""
    states = queue.states([entry.job_id for entry in entries])
    return {job_id for job_id, state in states.items() if not state.finished}


def _latest(entries: Sequence[Submitted]) -> dict[str, Submitted]:
    return {entry.job.title: entry for entry in entries}


def _outcome(run: Run, title: str) -> str | None:
    """The error with which the job ended, "" for none; None while it has not ended."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(outcome_path(run.folder, title).read_text())["failed"])
    return None
