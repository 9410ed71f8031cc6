"""Cluster run status: what was submitted, how each job ended, what Slurm reports. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from pudnet_bench.harness.running.job import Job
from pudnet_bench.results.store.files import checksummed_json, quarantine, read_checksummed_json, write_atomically
from pudnet_bench.results.store.run import NOTHING, Run
from pudnet_bench.slurm import queue

JOBS, OUTCOMES, JOB_FILES = "jobs.json", "outcomes", "jobs"
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
    return _read_jobs(run)[0]


def first_shard(run: Run) -> int | None:
    """The groups per job of the run's first submission; None before it."""
    return _read_jobs(run)[1]


def _read_jobs(run: Run) -> tuple[list[Submitted], int | None]:
    path = run.folder / JOBS
    if not path.exists():
        return [], None
    try:
        content = read_checksummed_json(path.read_bytes())
        entries = [
            Submitted(e["job_id"], Job(**{**e["job"], "needs": tuple(e["job"]["needs"])})) for e in content["jobs"]
        ]
        largest = max((entry.job.end - entry.job.first for entry in entries), default=0)
        return entries, content.get("shard") or largest or None  # 0.2.0 did not write it
    except (ValueError, KeyError, TypeError) as error:
        quarantine(path, str(error))
        return [], None


def save_submitted(run: Run, entries: Sequence[Submitted], shard: int = 0) -> None:
    """Write the file that `submitted` and `first_shard` read."""
    content = {"shard": shard, "jobs": [asdict(entry) for entry in entries]}
    write_atomically(run.folder / JOBS, checksummed_json(content))


def outcome_path(folder: Path, title: str) -> Path:
    """The JSON file in which a job says how it ended: `failed` is its error, "" for none."""
    return folder / OUTCOMES / f"{title}.json"


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
    """A cell's state, its reason, the logs with details, and how many groups are `done`."""

    state: CellState
    reason: str = ""
    logs: tuple[Path, ...] = ()
    done: int = 0


def cell_statuses(run: Run) -> dict[str, CellStatus]:
    """The status of each cell of the run's plan, by key. Raises SlurmError where Slurm is needed and is silent."""
    latest = _latest(submitted(run))
    outcomes = {title: _outcome(run, title) for title in latest}
    ids = [entry.job_id for title, entry in latest.items() if outcomes[title] is None]
    return _cell_statuses(run, latest, queue.states(ids), outcomes)


def _cell_statuses(
    run: Run,
    latest: Mapping[str, Submitted],
    states: Mapping[str, queue.JobState],
    known: Mapping[str, str | None] = MappingProxyType({}),
) -> dict[str, CellStatus]:
    """The statuses, given what Slurm said before; `known` are outcomes that have been read.

    A job writes its rows, then its outcome, then it ends: looking in the opposite order never takes it for lost.
    """
    outcomes = {title: known.get(title) if known.get(title) is not None else _outcome(run, title) for title in latest}
    on_disk = run.progress(verified=False)
    own, training = dict[str, list[Submitted]](), dict[str, list[Submitted]]()
    for entry in latest.values():
        key, by_key = (entry.job.training, training) if entry.job.training else (entry.job.cell, own)
        by_key.setdefault(key, []).append(entry)
    open_cells = [cell.key for cell in run.record.plan.cells if not on_disk.get(cell.key, NOTHING).covers(cell)]
    logs = _logs(run) if any(key in own for key in open_cells) else {}
    found = {cell.key: CellStatus(CellState.DONE) for cell in run.record.plan.cells}
    for key in open_cells:
        needs = dict.fromkeys(need for entry in own.get(key, ()) for need in entry.job.needs)
        entries = [*(entry for need in needs for entry in training.get(need, ())), *own.get(key, ())]
        idle = CellStatus(CellState.PARTIAL if len(on_disk.get(key, NOTHING).groups) else CellState.PENDING)
        found[key] = _cell_status(entries, outcomes, states, logs) if key in own else idle
    return {key: replace(status, done=len(on_disk.get(key, NOTHING).groups)) for key, status in found.items()}


def _cell_status(
    entries: Sequence[Submitted],
    outcomes: Mapping[str, str | None],
    states: Mapping[str, queue.JobState],
    all_logs: Mapping[str, Sequence[Path]],
) -> CellStatus:
    def logs(of: Submitted) -> tuple[Path, ...]:
        return tuple(all_logs.get(of.job_id, ()))

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
        counts = Counter(status.state for status in _cell_statuses(run, _latest(entries), states).values())
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
    """The last submission of each job by title, without those of which a later one measures groups."""
    latest, taken = dict[str, Submitted](), dict[str, set[int]]()
    for entry in reversed(entries):
        job = entry.job
        groups, later = range(job.first, job.end), taken.setdefault(job.cell, set())
        if job.title not in latest and later.isdisjoint(groups):
            latest[job.title] = entry
            later.update(groups)
    return dict(reversed(latest.items()))


def _logs(run: Run) -> dict[str, list[Path]]:
    """submitit's logs, "<job id>_<task>_log.out", by job id."""
    found: dict[str, list[Path]] = {}
    for path in sorted((run.folder / JOB_FILES).glob("*_log.*")):
        found.setdefault(path.name.rsplit("_", 2)[0], []).append(path)
    return found


def _outcome(run: Run, title: str) -> str | None:
    """The error with which the job ended, "" for none; None while it has not ended."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(outcome_path(run.folder, title).read_bytes())["failed"])
    return None
