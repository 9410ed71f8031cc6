"""What Slurm's commands print, recorded on Slurm 22.05, and what is made of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.slurm.queue import JobState, SlurmError, cancel, checked, expand, parse_sacct, parse_squeue, states

from .conftest import FakeCommand

# squeue --noheader --array --states=all --Format=JobArrayID:|,State:|,RestartCnt:|,NodeList:|,Reason:|
SQUEUE = """\
3|FAILED|0|n2|NonZeroExitCode|
2_3|PENDING|0||JobArrayTaskLimit|
2_[4-9%3]|PENDING|0||JobArrayTaskLimit|
4|PENDING|0||JobHeldUser|
2_0|RUNNING|0|n1|None|
10|COMPLETING|1|n1|None|
11|PENDING|1||BeginTime|
12|RUNNING|0|n[1-2]|None|
14|PENDING|0||(ReqNodeNotAvail, UnavailableNodes:n1)|
15|CANCELLED|0||PartitionNodeLimit|
"""

# sacct --noheader --parsable2 --allocations --format=JobID,State,NodeList
SACCT = """\
20|COMPLETED|n1
21|CANCELLED by 1000|None assigned
22_[2-3%2]|PENDING|None assigned
22_1|TIMEOUT|n2
23|RUNNING|n1
"""

UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
NO_CONTROLLER = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"


def printing(text: str) -> str:
    return f"cat <<'END'\n{text}END"


def test_squeue_is_understood() -> None:
    jobs = parse_squeue(SQUEUE)
    assert list(jobs) == ["3", *(f"2_{task}" for task in range(3, 10)), "4", "2_0", "10", "11", "12", "14", "15"]
    assert jobs["2_0"] == JobState("2_0", "RUNNING", nodes="n1")
    assert jobs["3"] == JobState("3", "FAILED", "NonZeroExitCode", nodes="n2")
    assert jobs["14"].reason == "(ReqNodeNotAvail, UnavailableNodes:n1)"
    assert jobs["11"] == JobState("11", "PENDING", "BeginTime", restarts=1)
    assert {job_id for job_id, job in jobs.items() if job.finished} == {"3", "15"}
    assert {job_id for job_id, job in jobs.items() if job.restarts} == {"10", "11"}
    assert jobs["4"] == JobState("4", "PENDING", "JobHeldUser")


def test_sacct_is_understood() -> None:
    jobs = parse_sacct(SACCT)
    assert jobs["21"] == JobState("21", "CANCELLED")
    assert jobs["22_3"] == JobState("22_3", "PENDING")
    assert jobs["20"] == JobState("20", "COMPLETED", nodes="n1")
    assert jobs["22_1"].finished


def test_nothing_and_lines_of_other_kinds() -> None:
    assert parse_squeue("\n") == {}
    assert parse_squeue("CLUSTER: one\n7+0|RUNNING|0|n1|None|\n8|RUNNING|0|n1|None|\n").keys() == {"8"}


@pytest.mark.parametrize(
    "text", ["12|RUNNING", "twelve|RUNNING|0|n1|None|", "12|RUNNING|x|n1|None|", "12_[3-|R|0|n1|None|"]
)
def test_what_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(SlurmError, match="in an unknown format"):
        parse_squeue(text)


@pytest.mark.parametrize(
    ("listed", "tasks"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[7]", ["12_7"]),
        ("12_[3-5,9%2]", ["12_3", "12_4", "12_5", "12_9"]),
        ("12_[0-6:2]", ["12_0", "12_2", "12_4", "12_6"]),
        ("12_[1,3,...]", ["12_1", "12_3"]),
        ("12_[1-3,...%2]", ["12_1", "12_2", "12_3"]),
    ],
)
def test_tasks_listed_as_one(listed: str, tasks: list[str]) -> None:
    assert expand(listed) == tasks


@given(st.sets(st.integers(0, 300), min_size=1), st.sampled_from(["", "%4"]))
def test_any_set_of_tasks_is_read_back(tasks: set[int], limit: str) -> None:
    ordered = sorted(tasks)
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    parts = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    assert expand(f"5_[{','.join(parts)}{limit}]") == [f"5_{task}" for task in ordered]


@given(st.text() | st.from_regex(r"[1-9][0-9]{0,5}(_[0-9]{1,3})?", fullmatch=True))
def test_only_ids_of_jobs_reach_a_command(text: str) -> None:
    parts = text.split("_")
    good = 1 <= len(parts) <= 2 and all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts)
    if good and not text.startswith("0"):
        assert checked(text) == text
    else:
        with pytest.raises(SlurmError, match="not the id of a Slurm job"):
            checked(text)


@pytest.mark.parametrize("ask", [states, cancel])
def test_strange_ids_are_refused_before_anything_runs(ask: object, fake_command: FakeCommand) -> None:
    assert callable(ask)
    logs = [fake_command(name) for name in ("squeue", "scancel")]
    for strange in ("--user=root", "1;ls", "1 2", "", "1_[2-3]", "-1", "1\n"):
        with pytest.raises(SlurmError, match="not the id"):
            ask(["7", strange])
    assert not any(log.read_text() for log in logs)


def test_states_are_of_the_jobs_asked_for(fake_command: FakeCommand) -> None:
    log = fake_command("squeue", printing(SQUEUE))
    assert states(["2_0", "2_5", "11"]).keys() == {"2_0", "2_5", "11"}
    assert states(["2"]).keys() == {"2_0", *(f"2_{task}" for task in range(3, 10))}
    assert "--jobs=2,11" in log.read_text()
    assert states([]) == {}
    assert len(log.read_text().splitlines()) == 2


def test_what_squeue_has_forgotten_is_asked_of_sacct(fake_command: FakeCommand) -> None:
    fake_command("squeue", printing(SQUEUE))
    log = fake_command("sacct", printing(SACCT))
    found = states(["2_0", "20", "22_1", "22_2", "23", "99"])
    # what has not ended is known to squeue, or is an error of the books
    assert {job_id: state.state for job_id, state in found.items()} == {
        "2_0": "RUNNING",
        "20": "COMPLETED",
        "22_1": "TIMEOUT",
    }
    assert "--jobs=20,22,23,99" in log.read_text()


@pytest.mark.parametrize("sacct", [NO_ACCOUNTING, "exit 1", "echo strange", printing("")])
def test_a_cluster_without_accounting(sacct: str, fake_command: FakeCommand) -> None:
    fake_command("squeue", UNKNOWN)
    fake_command("sacct", sacct)
    assert states(["12"]) == {}


def test_what_goes_wrong_is_said_in_one_sentence(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_command("squeue", NO_CONTROLLER)
    with pytest.raises(SlurmError, match=r"controller \(slurmctld\) does not answer squeue: .*connect failure"):
        states(["12"])
    fake_command("scancel", "echo 'scancel: error: Kill job error on job id 3: Access/permission denied' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"scancel failed: .*permission denied"):
        cancel(["3"])
    monkeypatch.setattr("pudnet_bench.slurm.queue.TIMEOUT", 0.2)
    fake_command("squeue", "exec sleep 30")
    with pytest.raises(SlurmError, match="squeue has not answered"):
        states(["12"])
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SlurmError, match="command squeue is not found"):
        states(["12"])
    with pytest.raises(SlurmError, match="command scancel is not found"):
        cancel(["12"])


def test_variables_of_the_user_change_nothing(fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/kept")
    fake_command("squeue", 'echo "12|RUNNING|0|$SQUEUE_PARTITION$SLURM_CONF|None|"')
    assert states(["12"])["12"].nodes == "/kept"


def test_cancelling_passes_over_what_has_ended(fake_command: FakeCommand) -> None:
    done = "echo 'scancel: error: Kill job error on job id 3: Job/step already completing or completed' >&2; exit 1"
    log = fake_command("scancel", done)
    cancel(["3", "3", "4_1"])
    cancel([])
    assert log.read_text().splitlines() == ["3 4_1"]
    cancel([f"7_{task}" for task in range(1200)])
    assert len(log.read_text().splitlines()) == 1 + 3
