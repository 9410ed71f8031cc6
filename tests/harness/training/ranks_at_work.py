"""What several ranks do in the tests: in a module of its own, which a process that is started can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

from pudnet_bench.harness.measuring.device import DeviceKind, Precision, choose_device
from pudnet_bench.harness.planning.plan import Cell, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.worker import family_images
from pudnet_bench.harness.training.artifacts import Trained
from pudnet_bench.harness.training.checkpoint import CheckpointFolder
from pudnet_bench.harness.training.meta_train import Training, TrainingJob, meta_train
from pudnet_bench.methods.base import Budget, Checkpoint, Ranks

METHODS = ("pretrained", "matchnet", "meta-deepbdc", "musml", "pudnet")
# Steps of 2 groups, but for the last before the end: there the second rank has none.
TRAINING = Training(0, Budget(5, 2, 2, groups_per_step=2), 3)


def request_of(cache_dir: Path, methods: tuple[str, ...], device: str = "cpu") -> RunRequest:
    kind = DeviceKind(device)
    return RunRequest(
        suite="table1", methods=methods, targets=("convnet3",), device=kind, precision=Precision.FP32, cache=cache_dir
    )


def train(
    cell: Cell, request: RunRequest, ranks: Ranks, training: Training, saving: CheckpointFolder | None = None
) -> Trained:
    compute = choose_device(request.device, request.precision)
    images = family_images(make_plan(request, compute), compute)("digits", 0)
    job = TrainingJob(
        make_method=cell.make_method, images=images, training=training, compute=compute, checkpoints=saving, ranks=ranks
    )
    return meta_train(job)


def train_all(request: RunRequest, training: Training, folder: Path, ranks: Ranks) -> None:
    """What every rank does; each leaves what it learned."""
    for cell in make_plan(request, choose_device(request.device, request.precision)).cells:
        trained = train(cell, request, ranks, training)
        states = {
            f"{i}/{k}": v.contiguous()
            for i, s in enumerate((trained.state, *trained.search_states))
            for k, v in s.items()
        }
        (folder / f"{cell.method.name}.{ranks.rank}.safetensors").write_bytes(safetensors.torch.save(states))
        trained.curve.to_parquet(folder / f"{cell.method.name}.{ranks.rank}.parquet")
    ranks.barrier()  # until all have written


def learned(folder: Path, method: str, rank: int) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    tensors = safetensors.torch.load((folder / f"{method}.{rank}.safetensors").read_bytes())
    return tensors, pd.read_parquet(folder / f"{method}.{rank}.parquet")


class StoppingAfter(CheckpointFolder):
    """Stops the process, as Ctrl-C does, right after so many saves."""

    left = 0

    def save(self, part: str, checkpoint: Checkpoint) -> Path:
        path = super().save(part, checkpoint)
        StoppingAfter.left -= 1
        if StoppingAfter.left == 0:
            raise KeyboardInterrupt
        return path


def train_with(request: RunRequest, folder: Path, ranks: Ranks) -> Trained:
    (cell,) = make_plan(request, choose_device(request.device, request.precision)).cells
    return train(cell, request, ranks, TRAINING, StoppingAfter(folder))


def accompany_with(request: RunRequest, folder: Path, ranks: Ranks) -> None:
    train_with(request, folder, ranks)


def fail(ranks: Ranks) -> None:
    raise ValueError("no such thing")


def die(ranks: Ranks) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(ranks: Ranks) -> None:
    ranks.barrier()
