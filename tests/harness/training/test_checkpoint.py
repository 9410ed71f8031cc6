"""A meta-training that is stopped anywhere and started again ends as one that never stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell, Plan
from pudnet_bench.harness.training import checkpoint as module
from pudnet_bench.harness.training.artifacts import Trained
from pudnet_bench.harness.training.checkpoint import CheckpointFolder, CheckpointSchedule
from pudnet_bench.harness.training.meta_train import Training, TrainingJob, meta_train
from pudnet_bench.methods.base import Budget, Checkpoint
from pudnet_bench.results.store.files import try_lock
from pudnet_bench.suites.groups import FamilyImages

TRAINING = Training(0, Budget(6, 2, 2), 1)
METHODS = ["pretrained", "matchnet", "protonet", "meta-deepbdc", "musml", "pudnet", "pudnet-random"]


class StoppingAfter(CheckpointFolder):
    """Stops the process, as Ctrl-C does, right after so many saves."""

    def save(self, part: str, checkpoint: Checkpoint) -> Path:
        path = super().save(part, checkpoint)
        self.folder.joinpath("count").open("a").write(".")
        if len(self.folder.joinpath("count").read_text()) == STOP["after"]:
            raise KeyboardInterrupt
        return path


ROOT = Path(__file__).parents[3]
STOP = {"after": 0}


@pytest.fixture(autouse=True)
def saving_after_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(module, "SAVING_SHARE", 0)


def train(cell: Cell, images: FamilyImages, compute: Compute, checkpoints: CheckpointFolder | None) -> Trained:
    return meta_train(
        TrainingJob(
            make_method=cell.make_method, images=images, training=TRAINING, compute=compute, checkpoints=checkpoints
        )
    )


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow) if name == "musml" else name for name in METHODS]
)
def test_a_stopped_training_goes_on_bit_for_bit(
    method: str, plan_of: Callable[..., Plan], digits_images: FamilyImages, compute: Compute, tmp_path: Path
) -> None:
    (cell,) = plan_of(
        "table4" if method == "pudnet-random" else "table1", methods=(method,), targets=("convnet3",)
    ).cells
    whole = train(cell, digits_images, compute, None)
    saves = 0
    for stop in (1, 3, 6, 7, 9, 100):  # in the search, at its end, in the final training, and not at all
        STOP["after"] = stop
        folder = tmp_path / str(stop)
        folder.mkdir()
        stopping = StoppingAfter(folder)
        try:
            resumed = train(cell, digits_images, compute, stopping)
        except KeyboardInterrupt:
            saves += 1
            torch.manual_seed(99)  # another process has another generator
            resumed = train(cell, digits_images, compute, stopping)
        assert equal(resumed.state, whole.state), stop
        assert all(equal(a, b) for a, b in zip(resumed.search_states, whole.search_states, strict=True))
        pd.testing.assert_frame_equal(resumed.curve, whole.curve)
        assert resumed.summary.chosen_by_fold == whole.summary.chosen_by_fold
    assert saves >= 4


def test_what_is_damaged_is_set_aside_and_trained_again(tmp_path: Path) -> None:
    training = CheckpointFolder(tmp_path / "a")
    progress = Checkpoint({"seen": 3, "list": [1.5, None]}, {"w": torch.arange(5.0), "n": torch.tensor(2)})
    training.save("search 1", progress)
    found = training.load("search 1")
    assert found is not None
    assert found.numbers == progress.numbers
    assert equal(found.tensors, progress.tensors)
    assert training.load("search 2") is None
    (path,) = training.folder.iterdir()
    whole = path.read_bytes()
    damages = [b"", whole[:20], whole[:-1], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], b"{}" * 50]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path.name}.*is damaged .*set aside"):
            assert training.load("search 1") is None
        assert path.with_name(f"{path.name}.corrupt").read_bytes() == damaged
    training.delete_all()
    assert not training.folder.exists()


def test_saving_takes_its_share_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 30.0)
    monkeypatch.setattr(module, "SAVING_SHARE", 20)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    schedule = CheckpointSchedule()
    now[0] = 129.0
    assert not schedule.due()
    now[0] = 130.0
    assert schedule.due()
    schedule.saved(0.1)
    now[0] = 159.0
    assert not schedule.due()
    now[0] = 160.0
    assert schedule.due()
    schedule.saved(10.0)
    now[0] = 359.0
    assert not schedule.due()


HOLD = """
import sys, time
from pathlib import Path
from pudnet_bench.harness.training.checkpoint import CheckpointFolder
with CheckpointFolder(Path(sys.argv[1])).locked(lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    call = [sys.executable, "-c", HOLD, str(tmp_path / "a")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with (tmp_path / "a.lock").open("a") as file:
            assert not try_lock(file)
        waited: list[str] = []

        def waiting() -> None:
            waited.append("x")
            owner.kill()

        with CheckpointFolder(tmp_path / "a").locked(waiting):
            assert waited == ["x"]


def test_other_trainings_do_not_wait(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path / "a").locked(pytest.fail), CheckpointFolder(tmp_path / "b").locked(pytest.fail):
        pass


def test_the_pause_of_a_stopped_training_is_not_counted(
    plan_of: Callable[..., Plan], digits_images: FamilyImages, compute: Compute, tmp_path: Path
) -> None:
    (cell,) = plan_of(methods=("protonet",)).cells
    STOP["after"] = 3
    stopping = StoppingAfter(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(replace(cell), digits_images, compute, stopping)
    time.sleep(2)
    began = time.monotonic()
    resumed = train(cell, digits_images, compute, stopping)
    assert 0 < resumed.summary.search_seconds < time.monotonic() - began + 2
