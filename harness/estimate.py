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


def estimate(cell: Cell, compute: Compute, train: bool) -> Estimate:
    """Time and disk of ``cell``; ``train`` says that its artifact is trained for it. Meta-training counts to its limit, twice."""
    training, predicting = image_seconds(cell.target, compute)
    family = cell.family
    tested = family.images * predicting
    method = cell.make_method()
    epochs = getattr(method, "epochs", ())
    per_group = tested * max(1, len(epochs))
    per_group += family.images * training * max(epochs) if epochs else family.images * predicting
    seconds, size = cell.groups * per_group, cell.groups * max(1, len(epochs)) * ROW_BYTES
    if train:
        plan, family = cell.training, cell.trained_on
        folds = family.validation_folds if plan.validation_groups else 0
        checks = folds * plan.budget.max_groups / plan.budget.check_every * plan.validation_groups
        trained = (folds + 1) * plan.budget.max_groups * family.images / 2
        seconds += trained * training + checks * 2 * family.images * predicting
        size += sum(tensor.nbytes for tensor in method.state_dict().values())
    return Estimate(seconds, size)
