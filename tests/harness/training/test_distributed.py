"""Several processes that share a meta-training come to what one comes to, and none outlives the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result

from pudnet_bench.harness.measuring.device import choose_device
from pudnet_bench.harness.planning.plan import make_plan
from pudnet_bench.harness.training import checkpoint
from pudnet_bench.harness.training.artifacts import Trained
from pudnet_bench.harness.training.distributed import RankError, rank_count, spawn_ranks
from pudnet_bench.harness.training.meta_train import Training
from pudnet_bench.methods.base import SINGLE_PROCESS, Budget, Ranks

sys.path.insert(0, str(Path(__file__).parent))  # processes that are started get it too
import ranks_at_work as work

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
CommandLine = Callable[..., Result]


def test_two_ranks_learn_what_one_does_bit_for_bit(cache_dir: Path, tmp_path: Path) -> None:
    request = work.request_of(cache_dir, work.METHODS)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    work.train_all(request, work.TRAINING, alone, SINGLE_PROCESS)
    with spawn_ranks(2, CPU, work.train_all, (request, work.TRAINING, shared)) as ranks:
        work.train_all(request, work.TRAINING, shared, ranks)
    for method in work.METHODS:
        state, curve = work.learned(alone, method, 0)
        for rank in (0, 1):
            other, other_curve = work.learned(shared, method, rank)
            assert state.keys() == other.keys()
            assert all(torch.equal(state[name], other[name]) for name in state), method
            pd.testing.assert_frame_equal(curve, other_curve)
    several, one = (work.learned(alone, "matchnet", 0)[0], train_one_a_step(cache_dir).state)
    assert any(not torch.equal(several[f"0/{name}"], value) for name, value in one.items())


def train_one_a_step(cache_dir: Path) -> Trained:
    request = work.request_of(cache_dir, ("matchnet",))
    (cell,) = make_plan(request, choose_device("cpu", "fp32")).cells
    return work.train(cell, request, SINGLE_PROCESS, Training(0, Budget(5, 2, 2), 3))


def test_more_groups_than_ranks_and_more_ranks_than_groups_at_the_end(cache_dir: Path, tmp_path: Path) -> None:
    # Three summands are not bitwise the same in another order, and Adam moves parameters without gradient by their sign.
    request = work.request_of(cache_dir, ("protonet",))
    training = Training(0, Budget(7, 4, 2, groups_per_step=3), 0)
    work.train_all(request, training, tmp_path, SINGLE_PROCESS)
    _, alone = work.learned(tmp_path, "protonet", 0)
    with spawn_ranks(2, CPU, work.train_all, (request, training, tmp_path)) as ranks:
        work.train_all(request, training, tmp_path, ranks)
    (_, first), (_, second) = (work.learned(tmp_path, "protonet", rank) for rank in (0, 1))
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, alone, rtol=1e-3)
    assert list(alone["groups"]) == [7]


@pytest.mark.parametrize(
    ("saves", "stopped"), [(1, 2), (3, 1), (4, 2)]
)  # in the search, at its end, in the final training
def test_what_one_left_two_resume_and_the_other_way_round(
    saves: int, stopped: int, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "SAVING_SHARE", 0)
    request = work.request_of(cache_dir, ("pudnet",))
    whole = work.train_with(request, tmp_path / "whole", SINGLE_PROCESS)
    folder = tmp_path / "stopped"
    work.StoppingAfter.left = saves
    with (
        pytest.raises(KeyboardInterrupt),
        spawn_ranks(stopped, CPU, work.accompany_with, (request, folder)) as ranks,
    ):
        work.train_with(request, folder, ranks)
    torch.manual_seed(99)  # another process has another generator
    with spawn_ranks(3 - stopped, CPU, work.accompany_with, (request, folder)) as ranks:
        resumed = work.train_with(request, folder, ranks)
    assert all(torch.equal(whole.state[name], value) for name, value in resumed.state.items())
    pd.testing.assert_frame_equal(resumed.curve, whole.curve)


@pytest.mark.slow
def test_a_table_from_two_processes_is_that_of_one(command_line: CommandLine, tmp_path: Path) -> None:
    def accuracies(processes: int) -> pd.DataFrame:
        out = tmp_path / str(processes)
        result = command_line(
            "run", "table1", "--methods", "protonet,meta-baseline", "--groups", "3", "--groups-per-step", "2", "--out", out,
            "--training-processes", str(processes), "--cache", tmp_path / f"cache-{processes}", "--precision", "fp32",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        metas = [
            json.loads(path.read_text()) for path in (tmp_path / f"cache-{processes}").glob("artifacts/*/meta.json")
        ]
        assert {meta["processes"] for meta in metas} == {processes}
        assert len(metas) == 3
        rows = pd.concat(map(pd.read_parquet, sorted((out / "cells").glob("*.parquet"))))
        return rows.sort_values(["cell", "group"])[["cell", "group", "accuracy"]].reset_index(drop=True)

    pd.testing.assert_frame_equal(accuracies(1), accuracies(2))


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (work.fail, "process 2 of 2 failed: ValueError: no such thing"),
        (work.die, r"process 2 of 2 died \(exit code -9\)"),
    ],
)
def test_a_rank_that_fails_ends_the_training_with_its_reason(does: Callable[[Ranks], None], said: str) -> None:
    with pytest.raises(RankError, match=said), spawn_ranks(2, CPU, does, ()) as ranks:
        ranks.barrier()


@pytest.mark.slow
def test_what_the_first_rank_raises_is_its_own() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), spawn_ranks(2, CPU, work.wait, ()):
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads


OWNER = """
import os, time
from pudnet_bench.harness.measuring.device import choose_device
from pudnet_bench.harness.planning.plan import make_plan
from pudnet_bench.harness.training.distributed import spawn_ranks
import torch

def work(folder, ranks):
    open(f"{folder}/{os.getpid()}", "w").close()
    ranks.barrier()
    time.sleep(600)

if __name__ == "__main__":
    import sys
    with spawn_ranks(3, torch.device("cpu"), work, (sys.argv[1],)) as ranks:
        ranks.barrier()
        print("all here", flush=True)
        time.sleep(600)
"""


def test_a_killed_first_rank_leaves_no_process(tmp_path: Path) -> None:
    script, folder = tmp_path / "owner.py", tmp_path / "pids"
    script.write_text(OWNER)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"all here\n"
        owner.kill()
    pids = [int(path.name) for path in folder.iterdir()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("asked", "groups", "gpus", "count"),
    [(0, 1, 0, 1), (0, 4, 0, 1), (2, 4, 0, 2), (4, 4, 0, 4), (0, 1, 8, 1), (0, 4, 8, 4), (0, 8, 4, 4), (3, 8, 4, 3)],
)
def test_how_many_share_a_training(asked: int, groups: int, gpus: int, count: int) -> None:
    assert rank_count(asked, groups, gpus) == count


def test_processes_that_would_have_nothing_to_do_are_refused(command_line: CommandLine) -> None:
    result = command_line("run", "table1", "--training-processes", "2")
    assert result.exit_code == 2
    assert "--training-processes 2: a step of meta-training has 1 group, one process each at most" in result.output
    assert "--groups-per-step 2" in result.output
    with pytest.raises(RankError, match="torch sees 4 GPUs"):
        rank_count(5, 8, 4)
    assert command_line("run", "table1", "--groups-per-step", "0").exit_code == 2


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two CUDA devices")
def test_two_gpus_learn_what_one_does(cache_dir: Path, tmp_path: Path, cuda: torch.device) -> None:
    request = work.request_of(cache_dir, ("protonet", "pudnet"), "cuda")
    training = Training(0, Budget(4, 2, 2, groups_per_step=2), 3)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    work.train_all(request, training, alone, SINGLE_PROCESS)
    with spawn_ranks(2, cuda, work.train_all, (request, training, shared)) as ranks:
        work.train_all(request, training, shared, ranks)
    for method in ("protonet", "pudnet"):
        one, _ = work.learned(alone, method, 0)
        (first, _), (second, _) = (work.learned(shared, method, rank) for rank in (0, 1))
        for name, value in one.items():
            assert torch.equal(first[name], second[name]), (method, name)
            # Adam makes a step of 1e-3 of a gradient that is next to nothing: the mean tells, not the largest.
            assert float((first[name].double() - value.double()).abs().mean()) < 1e-4, (method, name)
