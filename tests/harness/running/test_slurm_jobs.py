"""Runs on a real Slurm: a whole table through arrays, a failure, a requeue in the middle of a training, a cancelled run."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from pudnet_bench.harness.running.job import Job
from pudnet_bench.harness.running.status import Submitted, cell_statuses, save_submitted, submitted
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm import queue
from tests.slurm.local_slurm import LocalSlurm, is_requeued, runs

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]
on_slurm = partial(runs.on_slurm, runs.PROFILE)
until = partial(runs.until, seconds=500.0)
SAME = ["split", "method", "seed", "group", "snapshot", "accuracy"]
NOISY = """
bias = 3 * torch.randn(dataset.n_classes)
yield Snapshot(lambda images: classifier(images) + bias)
"""
# Learns one number; writes down every step it makes, and takes its time for each.
PATIENT = """
import itertools
import time
from pathlib import Path

import torch
from torch import nn

from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.methods.meta_training import train_until_converged


class Patient(Method):
    name = "patient"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        self.module = nn.Linear(1, 1)

    def meta_train(self, groups, session):
        optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-3)

        def losses(number):
            with Path({steps!r}).open("a") as log:
                log.write(f"{{number}}\\n")
            time.sleep(0.2)
            return {{"loss": (self.module(torch.randn(4, 1)) - number).square().mean()}}

        train_until_converged(self, self.module, optimizer, itertools.count, losses, groups, session)

    def fit(self, dataset):
        weight = self.module.weight.detach()
        yield Snapshot(lambda images: torch.stack((images.flatten(1)[:, 27] * weight[0, 0], images.flatten(1)[:, 28]), 1))

    def state_dict(self):
        return dict(self.module.state_dict())

    def load_state_dict(self, state):
        self.module.load_state_dict(state)
"""


def rows(folder: Path) -> pd.DataFrame:
    frame = Run.open(folder).frame()
    assert frame["finished"].all()
    return frame.sort_values(SAME[:5], ignore_index=True)[SAME]


@pytest.mark.slow
@pytest.mark.slurm
def test_a_table_through_arrays_is_that_of_one_process_and_of_two(
    local_slurm: LocalSlurm, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    call = ("--methods", "own,protonet", "--method", method_file(NOISY), "--groups", 3, "--training-groups", "2,3")
    call = (*call, "--splits", "0,1")
    done = command_line(
        *on_slurm(*call, "--shard", 2, "--out", "far", "--wait"), PUDNET_BENCH_CACHE=str(tmp_path / "cache-far")
    )
    assert done.exit_code == 0, done.output
    assert "far: 2 meta-trainings and 12 shards of 6 cells submitted as " in done.stdout
    assert "cells: 6 done" in done.output
    assert "ProtoNet, 3 groups" in done.stdout
    near = command_line(
        "run", "table1", *call, "--precision", "fp32", "--out", "near", PUDNET_BENCH_CACHE=str(tmp_path / "cache-near")
    )
    assert near.exit_code == 0, near.output
    both = command_line(
        "run", "table1", *call, "--precision", "fp32", "--out", "both", "--executor", "local-processes:2",
        PUDNET_BENCH_CACHE=str(tmp_path / "cache-both"),
    )  # fmt: skip
    assert both.exit_code == 0, both.output
    for other in ("near", "both"):
        pd.testing.assert_frame_equal(rows(tmp_path / "far"), rows(tmp_path / other))
    assert rows(tmp_path / "far")["accuracy"].nunique() >= 8
    jobs = tmp_path / "far/jobs"
    assert stat.S_IMODE(jobs.stat().st_mode) == 0o700
    ids = {entry.job_id.split("_")[0] for entry in submitted(Run.open(tmp_path / "far"))}
    assert len(ids) == 4  # the trainings of both class splits, the cells that need none, those that wait for each
    again = command_line(*on_slurm(*call, "--out", "far"), PUDNET_BENCH_CACHE=str(tmp_path / "cache-far"))
    assert "far: nothing to submit" in again.stdout
    calls = Run.open(tmp_path / "far").record.invocations
    assert len(calls) == 2
    assert all(call.ended and call.load_end for call in calls)


@pytest.mark.slurm
def test_a_job_that_fails_is_shown_with_its_reason_and_its_log(
    local_slurm: LocalSlurm, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    call = ("--methods", "own,adam", "--method", method_file('raise ValueError("odd")'), "--groups", 1, "--out", "out")
    done = command_line(*on_slurm(*call, "--wait"))
    assert done.exit_code == 1
    assert "1 cells are not done" in done.output
    shown = command_line("status", "out").stdout
    assert "failed  ValueError: odd" in " ".join(shown.split()).replace("failed ValueError", "failed  ValueError")
    (log,) = [line.strip() for line in shown.splitlines() if line.strip().endswith("_log.out")]
    assert "ValueError: odd" in Path(log).read_text()
    assert "n=1" in command_line("collect", "out").stdout or "Adam" in command_line("collect", "out").stdout


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_training_that_is_requeued_goes_on_from_the_same_step(
    local_slurm: LocalSlurm, command_line: CommandLine, tmp_path: Path
) -> None:
    def call(name: str) -> tuple[object, ...]:
        path = tmp_path / name / "patient.py"
        path.parent.mkdir()
        path.write_text(PATIENT.format(steps=str(tmp_path / name / "steps.log")))
        return ("--method", f"{path}:Patient", "--methods", "patient", "--groups", 2, "--training-groups", 60)

    done = command_line(*on_slurm(*call("far"), "--out", "out"))
    assert done.exit_code == 0, done.output
    steps = tmp_path / "far/steps.log"
    run = Run.open(tmp_path / "out")
    (training,) = [entry for entry in submitted(run) if entry.job.training]
    until(lambda: steps.exists() and len(steps.read_text().splitlines()) >= 10)
    subprocess.run(["scancel", "--signal=USR2", training.job_id], check=True)
    until(lambda: is_requeued(queue.states([training.job_id])[training.job_id]))
    before = len(steps.read_text().splitlines())
    assert before < 60
    assert {status.state for status in cell_statuses(run).values()} == {"pending"}
    # Slurm holds a requeued job back for some seconds here; started earlier, its node may refuse it and end it for good.
    until(lambda: {status.state for status in cell_statuses(run).values()} == {"done"})
    assert steps.read_text().splitlines() == [str(number) for number in range(60)]  # none twice, none left out
    near = command_line("run", "table1", *call("near"), "--precision", "fp32", "--out", "here")
    assert near.exit_code == 0, near.output
    pd.testing.assert_frame_equal(rows(tmp_path / "out"), rows(tmp_path / "here"))


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_a_cancelled_run_is_resumed(
    local_slurm: LocalSlurm, command_line: CommandLine, method_file: MethodFile, fits: Path, tmp_path: Path
) -> None:
    slow = "import time\ntime.sleep(1)\nyield Snapshot(classifier)"
    call = ("--methods", "own", "--method", method_file(slow), "--groups", 18, "--shard", 6, "--out", "out")
    assert command_line(*on_slurm(*call)).exit_code == 0
    until(lambda: fits.exists() and len(fits.read_text().splitlines()) >= 6)
    assert "3 jobs cancelled" in command_line("cancel", "out").stdout
    assert {status.state for status in cell_statuses(Run.open(tmp_path / "out")).values()} == {"lost"}
    assert "lost" in command_line("status", "out").stdout
    done = command_line("resume", "out", "--wait", "--shard", 15)
    assert done.exit_code == 0, done.output
    assert sorted(rows(tmp_path / "out")["group"]) == list(range(18))
    assert "done" in command_line("status", "out").stdout


def test_a_cluster_needs_its_profile_and_the_profile_a_cluster(command_line: CommandLine, tmp_path: Path) -> None:
    for options in (("--executor", "slurm"), ("--cluster", runs.PROFILE)):
        refused = command_line("run", "table1", *options)
        assert refused.exit_code == 2
        assert "--executor slurm needs --cluster FILE.toml" in refused.output
    (tmp_path / "bad.toml").write_text("[slurm]\npartiton = 'x'\n")
    refused = command_line("run", "table1", "--executor", "slurm", "--cluster", "bad.toml")
    assert refused.exit_code == 2
    assert "partiton" in refused.output
    assert not (tmp_path / "runs").exists()


def test_without_slurm_it_is_said(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = command_line(*on_slurm("--methods", "adam", "--out", "out"))
    assert refused.exit_code == 2, refused.output
    assert "Slurm" in refused.output
    assert submitted(Run.open(tmp_path / "out")) == []


def test_a_run_of_this_machine_is_resumed_as_it_was_asked_for(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    reference = method_file('if fit_number == 5:\n    raise ValueError("odd")\nyield Snapshot(classifier)')
    call = ("run", "table1", "--methods", "own", "--method", reference, "--groups", 4, "--out", "out")
    assert command_line(*call).exit_code == 1
    done = command_line("resume", "out")
    assert done.exit_code == 0, done.output
    assert sorted(rows(tmp_path / "out")["group"]) == [0, 1, 2, 3]
    (tmp_path / "out/requests.json").unlink()
    refused = command_line("resume", "out")
    assert refused.exit_code == 2
    assert "has no readable requests.json" in refused.output


@pytest.mark.parametrize("text", ["", "[{}]", '[{"choice": 3}]', "{"])
def test_requests_that_cannot_be_read_are_named(
    text: str, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", 1, "--out", "out")
    assert command_line(*call).exit_code == 0
    (tmp_path / "out/requests.json").write_text(text)
    with pytest.warns(UserWarning, match=r"requests\.json is damaged .*set aside as requests\.json\.corrupt"):
        refused = command_line("resume", "out")
    assert refused.exit_code == 2
    assert "repeat its `run` command" in refused.output
    assert command_line(*call).exit_code == 0
    assert command_line("resume", "out").exit_code == 0


def test_what_was_submitted_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    entries = [Submitted("12", Job("c", "t")), Submitted("13_1", Job("c", first=2, end=4, needs=("t",)))]
    save_submitted(run, entries)
    assert submitted(run) == entries
    (tmp_path / "jobs.json").write_text(json.dumps([{"job_id": "1"}]))
    with pytest.warns(UserWarning, match=r"jobs\.json is damaged"):
        assert submitted(run) == []
