"""About how long and how large a cell will be: images that pass through the target, times a speed measured just now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

from harness.compute import Compute
from harness.plan import Cell
from methods import targets
from methods.base import TargetSpec

PROBE_IMAGES = 64
ROW_BYTES = 200  # of Parquet, per snapshot of a group


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of this device and ``bytes`` of disk."""

    seconds: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes)


@cache
def image_seconds(target: TargetSpec, compute: Compute) -> tuple[float, float]:
    """Seconds that one image costs the target in a training step and in a prediction, measured on this device."""
    network = targets.build(target).to(compute.device)
    images = torch.randn(PROBE_IMAGES, *target.image_shape, device=compute.device).to(memory_format=torch.channels_last)

    def step(train: bool) -> float:
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.set_grad_enabled(train):
            with compute.autocast():
                features = network(images)
            if train:
                features.float().square().mean().backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / PROBE_IMAGES

    return min(step(True) for _ in range(3)), min(step(False) for _ in range(3))


def estimate(cell: Cell, compute: Compute) -> Estimate:
    """Time and disk of measuring ``cell``, what it has learned being there."""
    training, predicting = image_seconds(cell.target, compute)
    images = cell.family.images or len(cell.source.labels) // 2
    tested = images * predicting
    epochs = getattr(cell.make_method(), "epochs", ())
    per_group = tested * max(1, len(epochs))
    per_group += images * training * max(epochs) if epochs else images * predicting
    return Estimate(cell.groups * per_group, cell.groups * max(1, len(epochs)) * ROW_BYTES)


def training_estimate(cell: Cell, compute: Compute) -> Estimate:
    """Time and disk of the meta-training of ``cell``, in the search and at last to its limit; without what it builds on."""
    training, predicting = image_seconds(cell.target, compute)
    plan, family = cell.training, cell.trained_on
    folds = family.validation_folds if plan.validation_groups else 0
    checks = folds * plan.budget.max_groups / plan.budget.check_every * plan.validation_groups
    trained = (folds + 1) * plan.budget.max_groups * family.images / 2
    seconds = trained * training + checks * 2 * family.images * predicting
    states = sum(tensor.nbytes for tensor in cell.make_method().state_dict().values())
    return Estimate(seconds, states * (folds + max(1, len(plan.milestones))))
