"""Job states from squeue, and from sacct for jobs that squeue has forgotten, where accounting is available.

A cluster without accounting forgets a job some minutes after it ends (MinJobAge), so an unknown job may have ended in any way:
only its result files tell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pudnet_bench.errors import BenchError

FINAL = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    | {"REVOKED", "TIMEOUT"}
)
TIMEOUT = 120.0  # seconds; without a controller, squeue itself gives up after about ten
IDS_PER_COMMAND = 500
DEFAULT_ARRAY = 1001  # Slurm's own MaxArraySize
# The reason comes last because it can be any text.
SQUEUE_FIELDS = "JobArrayID:|,State:|,RestartCnt:|,NodeList:|,Reason:|"
SACCT_FIELDS = "JobID,State,NodeList"
# Variables that would filter or format the output, or truncate long lists of array tasks.
DROPPED = ("SQUEUE_", "SACCT_", "SCANCEL_", "SLURM_BITSTR_LEN", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class SlurmError(BenchError):
    """Slurm is not available, does not respond, or was given an invalid job id; the message says which."""


@dataclass(frozen=True)
class JobState:
    """A job or array task as Slurm reports it."""

    job_id: str  # "12", or "12_3" for task 3 of array 12
    state: str  # Slurm's name, such as "PENDING"
    reason: str = ""  # why it is waiting or failed
    restarts: int = 0  # how often it was requeued
    nodes: str = ""  # Slurm's node list, such as "n[1-2]"

    @property
    def finished(self) -> bool:
        """Whether it has ended and Slurm will not start it again."""
        return self.state in FINAL


def largest_array() -> int:
    """Return how many tasks one job array may have here: 1 where the cluster has no arrays.

    Slurm's default where the cluster does not say. Raises SlurmError where Slurm is not installed or does not return.
    """
    shown = _run(["scontrol", "show", "config"]).stdout
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)  # one more than the largest index
    tasks = re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", shown, re.MULTILINE)
    limits = [int(found[1]) for found in (size, tasks) if found]
    return max(1, min(limits, default=DEFAULT_ARRAY))


@dataclass(frozen=True)
class Presence:
    """Whether Slurm is available on this machine."""

    installed: bool  # whether its commands are there
    version: str  # of its commands; "" where they do not report it, as without a cluster's configuration
    answers: bool  # whether a controller responds
    detail: str  # what was found, in words


def presence(timeout: float) -> Presence:
    """Return whether jobs can be submitted from here; waits at most `timeout` seconds for each of two commands."""
    if shutil.which("sbatch") is None:
        return Presence(False, "", False, "no sbatch")
    version = ""
    try:
        version = _run(["sbatch", "--version"], timeout).stdout.strip()
        ping = _run(["scontrol", "ping"], timeout)
    except SlurmError as error:
        return Presence(True, version, False, str(error))
    up = re.search(r"^Slurmctld\(.*\) at (\S+) is UP", ping.stdout, re.MULTILINE)
    if up:
        return Presence(True, version, True, f"the controller on {up[1]} answers")
    lines = (ping.stdout + ping.stderr).strip().splitlines()
    detail = re.sub(r"^scontrol: (fatal|error): ", "", lines[-1].strip()) if lines else "no controller answers"
    return Presence(True, version, False, detail)


def states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """Return the states of jobs by id, without those that Slurm no longer knows; of an array, those of its tasks.

    Raises SlurmError if an id is invalid, or Slurm does not respond.
    """
    asked = [checked(job_id) for job_id in job_ids]
    if not asked:
        return {}
    known = _of_squeue(asked)
    answered = {*known, *map(_base, known)}
    forgotten = [job_id for job_id in asked if job_id not in answered]
    if forgotten:
        # squeue knows every job that has not ended, so a job that only sacct reports as running is an accounting error
        known.update((job_id, state) for job_id, state in _of_sacct(forgotten).items() if state.finished)
    wanted = set(asked)
    return {job_id: state for job_id, state in known.items() if job_id in wanted or _base(job_id) in wanted}


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs, ignoring those that have ended or are unknown.

    Does not wait: a running job receives SIGTERM, and SIGKILL after the cluster's KillWait. Raises SlurmError if an id is
    invalid, or Slurm does not cancel the jobs.
    """
    asked = list(dict.fromkeys(checked(job_id) for job_id in job_ids))
    for start in range(0, len(asked), IDS_PER_COMMAND):
        done = _run(["scancel", *asked[start : start + IDS_PER_COMMAND]])
        errors = [line for line in done.stderr.splitlines() if "error:" in line and not _GONE.search(line)]
        if errors:
            raise _no_answer("scancel", "; ".join(errors))


_GONE = re.compile(r"Invalid job id specified|already completing or completed", re.IGNORECASE)
_JOB_ID = re.compile(r"[1-9][0-9]{0,9}(_[0-9]{1,10})?")
_LISTED_ID = re.compile(r"(\d+)(?:_(\d+)|_\[([\d,:-]+?)(?:,?\.\.\.)?(?:%\d+)?\])?")


def checked(job_id: str) -> str:
    """Return `job_id` if it is of the form "12" or "12_3", else raise SlurmError."""
    if not isinstance(job_id, str) or _JOB_ID.fullmatch(job_id) is None:
        raise SlurmError(f"not the id of a Slurm job: {job_id!r}")
    return job_id


def expand(listed: str) -> list[str]:
    """Expand tasks that Slurm lists as one: "12_[3-5,9%2]" becomes 12_3, 12_4, 12_5, 12_9; "12" and "12_3" stay as they are.

    Of a list that Slurm has truncated ("12_[1,3,...]"), the tasks that are left are returned. Raises SlurmError if `listed`
    is none of these.
    """
    invalid = SlurmError(f"job id in an unknown format: {listed!r}")
    found = _LISTED_ID.fullmatch(listed)
    if found is None:
        raise invalid
    base, task, tasks = found.groups()
    if tasks is None:
        return [listed if task is None else f"{base}_{int(task)}"]
    expanded = []
    for part in tasks.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if bounds is None:
            raise invalid
        first, last, step = bounds.groups()
        expanded += [f"{base}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1) or 1)]
    return expanded


def parse_squeue(text: str) -> dict[str, JobState]:
    """Parse the output of `squeue --noheader --Format=SQUEUE_FIELDS`; raises SlurmError for any other text."""
    found = {}
    for line in _lines(text):
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) != 5 or not fields[2].isdecimal():
            raise SlurmError(f"squeue output in an unknown format: {line!r}")
        listed, state, restarts, nodes, reason = fields
        reason = reason.rstrip("|").strip()
        for job_id in expand(listed):
            found[job_id] = JobState(
                job_id, _state_name(state), "" if reason == "None" else reason, int(restarts), _node_list(nodes)
            )
    return found


def parse_sacct(text: str) -> dict[str, JobState]:
    """Parse the output of `sacct --noheader --parsable2 --allocations --format=SACCT_FIELDS`; raises SlurmError like above."""
    found = {}
    for line in _lines(text):
        fields = line.split("|")
        if len(fields) != 3:
            raise SlurmError(f"sacct output in an unknown format: {line!r}")
        listed, state, nodes = fields
        for job_id in expand(listed):
            found[job_id] = JobState(job_id, _state_name(state), nodes=_node_list(nodes))
    return found


def _lines(text: str) -> Iterator[str]:
    """Lines about jobs, without parts of heterogeneous jobs ("12+0"), which are never ours."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("CLUSTER:") and not re.match(r"\d+\+", line):
            yield line


def _state_name(state: str) -> str:
    """The bare state: CANCELLED for "CANCELLED by 1000" and "CANCELLED+"."""
    return state.split()[0].rstrip("+") if state.strip() else "UNKNOWN"


def _node_list(nodes: str) -> str:
    return "" if nodes in {"None assigned", "(null)", "None"} else nodes


def _base(job_id: str) -> str:
    return job_id.partition("_")[0]


def _of_squeue(job_ids: list[str]) -> dict[str, JobState]:
    found = {}
    for ids in _chunks(job_ids):
        command = ["squeue", "--noheader", "--array", "--states=all", f"--Format={SQUEUE_FIELDS}", f"--jobs={ids}"]
        done = _run(command)
        if done.returncode == 0:
            found.update(parse_squeue(done.stdout))
        elif not _GONE.search(done.stderr):  # as squeue ends for a single job that it has forgotten
            raise _no_answer("squeue", done.stderr)
    return found


def _of_sacct(job_ids: list[str]) -> dict[str, JobState]:
    """States from accounting; empty where there is none or it does not respond, because nothing depends on it."""
    found = {}
    for ids in _chunks(job_ids):
        command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={SACCT_FIELDS}", f"--jobs={ids}"]
        try:
            done = _run(command)
            if done.returncode != 0:
                return {}
            found.update(parse_sacct(done.stdout))
        except SlurmError:
            return {}
    return found


def _chunks(job_ids: list[str]) -> Iterator[str]:
    """Comma-separated ids for one command each, an array only once whatever the number of its tasks."""
    bases = list(dict.fromkeys(map(_base, job_ids)))
    for start in range(0, len(bases), IDS_PER_COMMAND):
        yield ",".join(bases[start : start + IDS_PER_COMMAND])


def _run(command: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run `command` without the user's Slurm variables; raises SlurmError where it is missing or does not return."""
    timeout = TIMEOUT if timeout is None else timeout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    environment |= {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except FileNotFoundError:
        where = "run this on a login node of a Slurm cluster"
        raise SlurmError(f"the command {command[0]} is not found; {where}") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {timeout:g} s; try again later") from None


def _no_answer(command: str, stderr: str) -> SlurmError:
    words = " ".join(stderr.split()) or "no reason given"
    if re.search(r"unable to contact slurm controller|connect failure|socket timed out", words, re.IGNORECASE):
        return SlurmError(f"Slurm's controller (slurmctld) does not answer {command}: {words}")
    return SlurmError(f"{command} failed: {words}")
