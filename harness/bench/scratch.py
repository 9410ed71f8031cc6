"""Training from scratch at its best against the loop of a plain script, and what each difference between them is worth."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from pudnet_bench.harness.bench.prediction import IMAGE_SHAPE, IMAGES, WAYS, random_dataset
from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import Dataset, TargetSpec
from pudnet_bench.methods.scratch import Adam, Scratch

ROUNDS = {"convnet3": 7, "resnet18": 3, "resnet34": 1}


class Unfused(Adam):
    """Adam as torch defaults it."""

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr)


def trainer(
    target: str, compute: Compute, kind: type[Scratch] = Adam, loop: str = "device", autocast: bool = True
) -> Scratch:
    """One epoch of training ``target`` from scratch."""
    method = kind(TargetSpec(target, IMAGE_SHAPE), 0, epochs=(1,), loop=loop)
    method.autocast = compute.autocast if autocast else nullcontext
    return method


def measure(setting: Setting) -> list[Ratio]:
    """For each target the plain loop over the best, and the best without one of its parts over the best.

    A quick look is at ConvNet-3 alone.
    """
    compute = setting.compute
    torch.manual_seed(0)
    dataset = random_dataset(IMAGES, compute.device)
    found = []
    for target in ("convnet3",) if setting.quick else ROUNDS:
        best = trainer(target, compute)
        without = {"the plain loop (DataLoader, eager float32, unfused)": trainer(target, compute, loop="dataloader")}
        if target == "convnet3":
            without |= {
                "the best in float32": trainer(target, compute, autocast=False),
                "the best with torch's default Adam": trainer(target, compute, Unfused),
            }
        for name, method in without.items():
            found.append(
                interleaved(
                    f"{name}, {target}",
                    partial(epoch, method, dataset),
                    f"training at its best, one epoch of {IMAGES} images of 32x32, {WAYS} classes",
                    partial(epoch, best, dataset),
                    compute.device,
                    rounds=setting.turns(ROUNDS[target]),
                )
            )
    return found


def epoch(method: Scratch, dataset: Dataset) -> None:
    """One training of one epoch."""
    for _ in method.fit(dataset):
        pass
