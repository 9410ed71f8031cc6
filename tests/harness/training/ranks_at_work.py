"""What several ranks do in the tests: in a module of its own, which a process that is started can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

from pudnet_bench.harness.planning.plan import Cell, Choice
from pudnet_bench.harness.planning.request import Recipe
from pudnet_bench.harness.running.worker import family_images
from pudnet_bench.harness.training.artifacts import Trained
from pudnet_bench.harness.training.checkpoint import CheckpointFolder
from pudnet_bench.harness.training.meta_train import Training, TrainingJob, meta_train
from pudnet_bench.methods.base import Budget, Checkpoint, Ranks

METHODS = ("pretrained", "matchnet", "meta-deepbdc", "musml", "pudnet")
# Steps of 2 groups, but for the last before the end: there the second rank has none.
TRAINING = Training(0, Budget(5, 2, 2, groups_per_step=2), 3)


def recipe_of(cache_dir: Path, methods: tuple[str, ...], device: str = "cpu") -> Recipe:
    choice = Choice(methods=methods, targets=("convnet3",))
    return Recipe("table1", "quick", choice, device, "fp32", str(cache_dir))


def train(
    cell: Cell, recipe: Recipe, ranks: Ranks, training: Training, checkpoints: CheckpointFolder | None = None
) -> Trained:
    compute = recipe.compute()
    images = family_images(recipe.plan(compute), compute)("digits")
    return meta_train(
        TrainingJob(
            make_method=cell.make_method, images=images, training=training, compute=compute, checkpoints=checkpoints,
            ranks=ranks,
        )
    )  # fmt: skip


def train_all(recipe: Recipe, training: Training, folder: Path, ranks: Ranks) -> None:
    """What every rank does; each leaves what it learned."""
    for cell in recipe.plan(recipe.compute()).cells:
        trained = train(cell, recipe, ranks, training)
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


def train_with(recipe: Recipe, folder: Path, ranks: Ranks) -> Trained:
    (cell,) = recipe.plan(recipe.compute()).cells
    return train(cell, recipe, ranks, TRAINING, StoppingAfter(folder))


def accompany_with(recipe: Recipe, folder: Path, ranks: Ranks) -> None:
    train_with(recipe, folder, ranks)


def fail(ranks: Ranks) -> None:
    raise ValueError("no such thing")


def die(ranks: Ranks) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(ranks: Ranks) -> None:
    ranks.barrier()
