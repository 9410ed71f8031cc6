"""What Slurm says about jobs: from squeue, and from sacct for those that squeue has forgotten, where sacct answers.

A cluster without accounting forgets a job some minutes after its end (MinJobAge): that a job is not known says nothing
about how it ended. Only its result files do.
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
# Reasons why a pending job waits for a person, not for its turn.
HELD = frozenset(
    {"BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "JobHeldAdmin", "JobHeldUser"}
    | {"JobHoldMaxRequeue", "PartitionNodeLimit", "PartitionTimeLimit"}
)
TIMEOUT = 120.0  # seconds; squeue gives up by itself after about ten seconds without a controller
IDS_PER_COMMAND = 500
# The reason is last: it can be any text.
SQUEUE_FIELDS = "JobArrayID:|,State:|,RestartCnt:|,NodeList:|,Reason:|"
SACCT_FIELDS = "JobID,State,NodeList"
# Variables that would filter or format what the commands print, and the cut of long lists of array tasks.
DROPPED = ("SQUEUE_", "SACCT_", "SCANCEL_", "SLURM_BITSTR_LEN", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class SlurmError(BenchError):
    """Slurm is not here, does not answer, or was asked for nonsense; the message says which."""


@dataclass(frozen=True)
class JobState:
    """A job, or a task of an array, as Slurm sees it.

    ``job_id`` is "12", or "12_3" for task 3 of array 12. ``state`` is Slurm's word, such as "PENDING"; ``reason`` why it
    waits or failed, "" for none. ``restarts`` counts how often it was requeued. ``nodes`` is Slurm's list, "n[1-2]".
    """

    job_id: str
    state: str
    reason: str = ""
    restarts: int = 0
    nodes: str = ""

    @property
    def finished(self) -> bool:
        """It has ended and Slurm will not start it again."""
        return self.state in FINAL

    @property
    def held(self) -> bool:
        """It will not start until a person changes something."""
        waits = self.state in {"REQUEUE_HOLD", "SPECIAL_EXIT"} or (self.state == "PENDING" and self.reason in HELD)
        return waits or self.reason.replace("_", " ").startswith("launch failed requeued held")


@dataclass(frozen=True)
class Presence:
    """Slurm as this machine has it: whether its commands are ``installed``, their ``version`` ("" where they do not tell it,
    as without a cluster's configuration), whether a controller ``answers``, and what was ``said`` about that.
    """

    installed: bool
    version: str
    answers: bool
    said: str


def presence(timeout: float) -> Presence:
    """Whether jobs can be submitted from here. Waits for each of two commands ``timeout`` seconds at most."""
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
    said = re.sub(r"^scontrol: (fatal|error): ", "", lines[-1].strip()) if lines else "no controller answers"
    return Presence(True, version, False, said)


def states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """The states of ``job_ids``, those of jobs that Slurm does not know any more left out.

    The id of an array stands for all its tasks, which have keys of their own. Raises SlurmError.
    """
    asked = [checked(job_id) for job_id in job_ids]
    if not asked:
        return {}
    known = _of_squeue(asked)
    answered = {*known, *map(_base, known)}
    forgotten = [job_id for job_id in asked if job_id not in answered]
    if forgotten:
        # squeue knows every job that has not ended: what sacct takes for running is an error in its books
        known.update((job_id, state) for job_id, state in _of_sacct(forgotten).items() if state.finished)
    wanted = set(asked)
    return {job_id: state for job_id, state in known.items() if job_id in wanted or _base(job_id) in wanted}


def cancel(job_ids: Iterable[str]) -> None:
    """End jobs; those that have ended or are not known are passed over.

    It does not wait: a running job gets SIGTERM, and SIGKILL after the cluster's KillWait. Raises SlurmError.
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
    """``job_id``, which is "12" or "12_3". Raises SlurmError for anything else."""
    if not isinstance(job_id, str) or _JOB_ID.fullmatch(job_id) is None:
        raise SlurmError(f"not the id of a Slurm job: {job_id!r}")
    return job_id


def expand(listed: str) -> list[str]:
    """Ids of the tasks that Slurm lists as one: "12_[3-5,9%2]" is 12_3, 12_4, 12_5, 12_9. "12" and "12_3" are themselves.

    A list that Slurm has cut ("12_[1,3,...]") gives what is left of it. Raises SlurmError when it is none of these.
    """
    found = _LISTED_ID.fullmatch(listed)
    if found is None:
        raise SlurmError(f"Slurm lists a job that is not understood: {listed!r}")
    base, task, tasks = found.groups()
    if tasks is None:
        return [listed if task is None else f"{base}_{int(task)}"]
    expanded = []
    for part in tasks.split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if bounds is None:
            raise SlurmError(f"Slurm lists a job that is not understood: {listed!r}")
        first, last, step = (int(number) if number else None for number in bounds.groups())
        assert first is not None
        expanded += [f"{base}_{index}" for index in range(first, (first if last is None else last) + 1, step or 1)]
    return expanded


def parse_squeue(text: str) -> dict[str, JobState]:
    """What ``squeue --noheader --Format=SQUEUE_FIELDS`` prints. Raises SlurmError where it is not understood."""
    found = {}
    for line in _lines(text):
        fields = [field.strip() for field in line.split("|", 4)]
        if len(fields) != 5 or not fields[2].isdecimal():
            raise SlurmError(f"squeue says what is not understood: {line!r}")
        listed, state, restarts, nodes, reason = fields
        reason = reason.rstrip("|").strip()
        for job_id in expand(listed):
            found[job_id] = JobState(
                job_id, _word(state), "" if reason == "None" else reason, int(restarts), _named(nodes)
            )
    return found


def parse_sacct(text: str) -> dict[str, JobState]:
    """What ``sacct --noheader --parsable2 --allocations --format=SACCT_FIELDS`` prints. Raises SlurmError."""
    found = {}
    for line in _lines(text):
        fields = line.split("|")
        if len(fields) != 3:
            raise SlurmError(f"sacct says what is not understood: {line!r}")
        listed, state, nodes = fields
        for job_id in expand(listed):
            found[job_id] = JobState(job_id, _word(state), nodes=_named(nodes))
    return found


def _lines(text: str) -> Iterator[str]:
    """The lines of jobs. Parts of heterogeneous jobs ("12+0"), which are never ours, are left out."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("CLUSTER:") and not re.match(r"\d+\+", line):
            yield line


def _word(state: str) -> str:
    """ "CANCELLED by 1000" and "CANCELLED+" are CANCELLED."""
    return state.split()[0].rstrip("+") if state.strip() else "UNKNOWN"


def _named(nodes: str) -> str:
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
        elif not _GONE.search(done.stderr):  # that of a single job that Slurm has forgotten
            raise _no_answer("squeue", done.stderr)
    return found


def _of_sacct(job_ids: list[str]) -> dict[str, JobState]:
    """Empty where there is no accounting, or it does not answer: it is asked for what it adds, and nothing hangs on it."""
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
    """Comma-separated ids for one command each: an array once, whatever the number of its tasks."""
    bases = list(dict.fromkeys(map(_base, job_ids)))
    for start in range(0, len(bases), IDS_PER_COMMAND):
        yield ",".join(bases[start : start + IDS_PER_COMMAND])


def _run(command: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """``command`` in a plain environment. Raises SlurmError when it is not there or does not return."""
    timeout = TIMEOUT if timeout is None else timeout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    environment |= {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}
    try:
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except FileNotFoundError:
        raise SlurmError(f"the command {command[0]} is not found: is this a machine of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {timeout:g} s") from None


def _no_answer(command: str, said: str) -> SlurmError:
    words = " ".join(said.split()) or "no word of why"
    if re.search(r"unable to contact slurm controller|connect failure|socket timed out", words, re.IGNORECASE):
        return SlurmError(f"Slurm's controller (slurmctld) does not answer {command}: {words}")
    return SlurmError(f"{command} failed: {words}")
