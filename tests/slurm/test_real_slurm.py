"""Jobs on a real Slurm, submitted with submitit under a profile, and what is said of them."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import submitit

from pudnet_bench.slurm.cluster import load
from pudnet_bench.slurm.queue import JobState, SlurmError, cancel, states
from tests.slurm.local_slurm import LocalSlurm, is_requeued

pytestmark = pytest.mark.slurm

LOCAL = load(Path(__file__).parents[2] / "slurm" / "clusters" / "local.toml")


def until(reached: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `reached` returns, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := reached()):
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.1)
    return result


def state(job_id: str, *, when: Callable[[JobState], bool]) -> JobState:
    """The state of a job, once `when` is true of it."""
    found: JobState = until(lambda: (now := states([job_id]).get(job_id)) and when(now) and now)
    return found


def result(job: submitit.Job[Any]) -> Any:
    """What a job returned. Its file is waited for: without accounting, submitit itself looks ever more rarely."""
    until(job.paths.result_pickle.exists)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return job.result()


@pytest.fixture
def executor(local_slurm: LocalSlurm, tmp_path: Path) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="slurm", **LOCAL.executor)
    executor.update_parameters(**{**LOCAL.parameters("evaluation"), "mem_gb": 0.25})
    return executor


# Defined in functions: what is pickled by value needs no module on the other side.
def waiting(started: Path) -> Callable[[], str]:
    """A job that appends a line to `started` and goes on for ten minutes."""

    def job() -> str:
        import time

        with started.open("a") as log:
            log.write("started\n")
        time.sleep(600)
        return "done"

    return job


def failing() -> Callable[[], None]:
    def job() -> None:
        raise ValueError("no such images")

    return job


def square() -> Callable[[int], int]:
    def job(number: int) -> int:
        return number * number

    return job


def test_a_job_comes_back(executor: submitit.AutoExecutor) -> None:
    job = executor.submit(square(), 7)
    assert result(job) == 49
    ended = state(job.job_id, when=lambda job: job.finished)
    assert ended.state == "COMPLETED"
    assert ended.nodes in {"n1", "n2"}
    cancel([job.job_id])  # too late, and no error


def test_an_array_of_jobs(executor: submitit.AutoExecutor) -> None:
    executor.update_parameters(slurm_array_parallelism=2)
    jobs = executor.map_array(square(), range(5))
    array = jobs[0].job_id.partition("_")[0]
    assert states([array]).keys() == {job.job_id for job in jobs} == {f"{array}_{task}" for task in range(5)}
    assert [result(job) for job in jobs] == [0, 1, 4, 9, 16]
    until(lambda: all(job.state == "COMPLETED" for job in states(job.job_id for job in jobs).values()))
    assert states([jobs[3].job_id]).keys() == {jobs[3].job_id}


def test_a_job_that_fails(executor: submitit.AutoExecutor) -> None:
    job = executor.submit(failing())
    with pytest.raises(submitit.core.utils.FailedJobError, match="no such images"):
        result(job)
    ended = state(job.job_id, when=lambda job: job.finished)
    assert (ended.state, ended.reason) == ("FAILED", "NonZeroExitCode")


def test_jobs_are_cancelled(executor: submitit.AutoExecutor, tmp_path: Path) -> None:
    running = executor.submit(waiting(tmp_path / "started"))
    until((tmp_path / "started").exists)
    executor.update_parameters(slurm_additional_parameters={"hold": True})
    held = executor.submit(square(), 1)
    assert states([running.job_id])[running.job_id].state == "RUNNING"
    assert states([held.job_id])[held.job_id].reason == "JobHeldUser"
    cancel([running.job_id, held.job_id])
    for job in (running, held):
        assert state(job.job_id, when=lambda job: job.finished).state == "CANCELLED"


@pytest.mark.slow
def test_a_requeued_job_starts_again(executor: submitit.AutoExecutor, local_slurm: LocalSlurm, tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = executor.submit(waiting(started))
    until(started.exists)
    local_slurm.run("scontrol", "requeue", job.job_id)
    waits = state(job.job_id, when=is_requeued)
    assert waits.restarts == 1
    assert not waits.finished
    until(lambda: len(started.read_text().splitlines()) == 2)
    assert state(job.job_id, when=lambda job: job.state == "RUNNING").restarts == 1


def test_an_urgent_job_preempts(executor: submitit.AutoExecutor, tmp_path: Path) -> None:
    started = tmp_path / "started"
    executor.update_parameters(nodes=2, slurm_exclusive=True, slurm_use_srun=False)
    victim = executor.submit(waiting(started))
    until(started.exists)
    executor.update_parameters(nodes=1, slurm_partition="urgent")
    assert result(executor.submit(square(), 3)) == 9
    assert state(victim.job_id, when=lambda job: job.restarts == 1).state in {"COMPLETING", "PENDING", "RUNNING"}


def test_a_lost_node(executor: submitit.AutoExecutor, local_slurm: LocalSlurm, tmp_path: Path) -> None:
    started = tmp_path / "started"
    job = executor.submit(waiting(started))
    until(started.exists)
    node = states([job.job_id])[job.job_id].nodes
    local_slurm.lose_node(node)
    assert state(job.job_id, when=lambda job: job.restarts == 1).job_id == job.job_id
    until(lambda: len(started.read_text().splitlines()) == 2)


def test_jobs_that_were_never_there(local_slurm: LocalSlurm) -> None:
    assert states(["999999"]) == {}
    assert states(["999998", "999999_3"]) == {}
    cancel(["999999"])


def test_no_controller(local_slurm: LocalSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = local_slurm.conf.read_text().splitlines()
    dead = [*(line for line in lines if not line.startswith("SlurmctldPort=")), "SlurmctldPort=1", "MessageTimeout=2"]
    (tmp_path / "slurm.conf").write_text("\n".join(dead) + "\n")
    with monkeypatch.context() as patched:
        patched.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with pytest.raises(SlurmError, match=r"controller .* does not answer"):
            states(["1"])
        with pytest.raises(SlurmError, match=r"controller .* does not answer"):
            cancel(["1"])
    assert os.environ["SLURM_CONF"] == str(local_slurm.conf)
