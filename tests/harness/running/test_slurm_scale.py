"""Hundreds of cells on two dozen nodes: few submissions, a lost node, a cancelled run, and every group once in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.running.status import CellState, cell_statuses, submitted
from pudnet_bench.results.store.run import Run
from pudnet_bench.slurm import queue
from tests.slurm.local_slurm import LocalSlurm
from tests.slurm.local_slurm.runs import on_slurm, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]
CommandLine = Callable[..., Result]
PROFILE = """
[slurm]
partition = "main"
mem_gb = 0.5
signal_delay_s = 30
stderr_to_stdout = true
timeout_min = 30
[evaluation]
array_parallelism = 4
"""
METHODS = """
import time

import torch

from pudnet_bench.methods.base import Method, Snapshot


class Learner(Method):
    name = "learner"

    def __init__(self, target, n_training_classes):
        super().__init__(target, n_training_classes)
        self.state = {"value": torch.zeros(1)}

    def meta_train(self, groups, session):
        if groups.seed == 1:
            raise ValueError("odd seed")
        self.state = {"value": torch.ones(1)}

    def fit(self, dataset):
        yield Snapshot(lambda images: images.flatten(1)[:, 20 : 20 + dataset.n_classes])

    def state_dict(self):
        return dict(self.state)

    def load_state_dict(self, state):
        self.state = dict(state)


class Instant(Method):
    name = "instant"

    def fit(self, dataset):
        time.sleep(0.01)
        yield Snapshot(lambda images: images.flatten(1)[:, 20 : 20 + dataset.n_classes])
"""


@pytest.fixture
def methods(tmp_path: Path) -> Path:
    (tmp_path / "cluster.toml").write_text(PROFILE)
    named = "".join(f'\n\nclass Instant{n}(Instant):\n    name = "instant-{n}"\n' for n in range(10))
    (tmp_path / "methods.py").write_text(METHODS + named)
    return tmp_path / "methods.py"


def states(folder: Path) -> Counter[str]:
    return Counter(status.state for status in cell_statuses(Run.open(folder)).values())


def arrays(folder: Path) -> set[str]:
    return {entry.job_id.partition("_")[0] for entry in submitted(Run.open(folder))}


def test_hundreds_of_cells_lose_a_node_are_cancelled_and_resumed(
    many_nodes: LocalSlurm, command_line: CommandLine, methods: Path, tmp_path: Path
) -> None:
    own = [word for n in range(10) for word in ("--method", f"{methods}:Instant{n}")]
    many = ("--splits", "0,1,2,3,4,5,6,7,8,9", "--seeds", "0,1,2", "--groups", 4, "--shard", 240)
    names = ",".join(f"instant-{n}" for n in range(10))
    done = command_line(*on_slurm("cluster.toml", "--methods", names, *own, *many, "--out", "out"))
    assert done.exit_code == 0, done.output
    assert "0 meta-trainings and 300 shards of 300 cells submitted as " in done.stdout
    out = tmp_path / "out"
    assert len(arrays(out)) == 1
    until(lambda: states(out)[CellState.DONE] >= 5, 240.0)
    live = queue.states({entry.job_id for entry in submitted(Run.open(out))})
    running = sorted(job.nodes for job in live.values() if job.state == "RUNNING")
    many_nodes.lose_node(running[0])
    assert "jobs cancelled" in command_line("cancel", "out").stdout
    left = states(out)
    assert 5 <= left[CellState.DONE] < 300
    assert not {CellState.RUNNING, CellState.FAILED} & left.keys()
    resumed = command_line("resume", "out", "--wait")
    assert resumed.exit_code == 0, resumed.output
    assert states(out) == {CellState.DONE: 300}
    assert len(arrays(out)) == 2
    frame = Run.open(out).frame()
    assert frame["finished"].all()
    assert len(frame) == len(frame[["cell", "group"]].drop_duplicates()) == 1_200


def test_a_training_that_fails_ends_only_what_waits_for_it(
    many_nodes: LocalSlurm, command_line: CommandLine, methods: Path, tmp_path: Path
) -> None:
    call = ("--methods", "learner", "--method", f"{methods}:Learner", "--seeds", "0,1,2", "--training-groups", 1)
    done = command_line(*on_slurm("cluster.toml", *call, "--groups", 4, "--out", "out", "--wait"))
    assert done.exit_code == 1, done.output
    assert "1 cells are not done" in done.output
    found = {
        cell.seed: cell_statuses(Run.open(tmp_path / "out"))[cell.key]
        for cell in Run.open(tmp_path / "out").record.plan.cells
    }
    assert [found[seed].state for seed in range(3)] == [CellState.DONE, CellState.FAILED, CellState.DONE]
    assert "odd seed" in found[1].reason
    assert len(arrays(tmp_path / "out")) == 2  # the trainings, and the cells, each behind its own
