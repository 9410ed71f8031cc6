"""About how long and how large a cell will be: images that pass through the target, times a speed measured just now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell
from pudnet_bench.methods import targets
from pudnet_bench.methods.base import TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import QUERY_IMAGES

TRAINED_AT_ONCE = 32  # images of a step of Adam; of meta-training there are more, which changes little
PREDICTED_PIXELS = 200_000  # at once: what becomes of them in the network is more than caches hold, as a test set's
PROBE_SECONDS = 0.3
ROW_BYTES = 200  # of Parquet, per snapshot of a group


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of this device and ``bytes`` of disk; ``least`` are the seconds where every search ends as early as it can."""

    seconds: float = 0.0
    bytes: float = 0.0
    least: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes, self.least + other.least)


@cache
def image_seconds(target: TargetSpec, compute: Compute) -> tuple[float, float]:
    """Seconds that one image costs the target in a training step and in a prediction, measured on this device."""
    features = targets.build(target)
    head = torch.nn.Linear(targets.feature_count(features, target.image_shape), 2)
    network = torch.nn.Sequential(features, head).to(compute.device)
    moments = [
        (parameter, torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in network.parameters()
    ]
    channels, height, width = target.image_shape

    def images(n: int) -> torch.Tensor:
        drawn = torch.randn(n, channels, height, width, device=compute.device)
        return drawn.to(memory_format=torch.channels_last)

    to_train = images(2 * TRAINED_AT_ONCE)
    labels = torch.arange(len(to_train), device=compute.device) % 2
    to_predict = images(max(TRAINED_AT_ONCE, PREDICTED_PIXELS // (height * width)))

    def train() -> None:
        for batch in torch.randperm(len(to_train), device=compute.device).split(TRAINED_AT_ONCE):
            with compute.autocast():
                logits = network(to_train[batch])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[batch])
            gradients = torch.autograd.grad(loss, [parameter for parameter, _, _ in moments])
            # Adam's work by hand: the first optimizer of torch's takes seconds to import what it may compile with.
            with torch.no_grad():
                for (parameter, first, second), gradient in zip(moments, gradients, strict=True):
                    first.lerp_(gradient, 0.1)
                    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                    parameter.addcdiv_(first, second.sqrt().add_(1e-8), value=-LEARNING_RATE)

    @torch.no_grad()
    def predict() -> None:
        with compute.autocast():
            network(to_predict)

    trained = median(durations(train, compute.device, PROBE_SECONDS)) / len(to_train)
    network.eval()
    return trained, median(durations(predict, compute.device, PROBE_SECONDS)) / len(to_predict)


def durations(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each of the calls of ``work`` that fit into ``seconds``: after one that warms up, one at least."""
    ends = time.perf_counter() + seconds
    found: list[float] = []
    work()
    while not found or time.perf_counter() + found[-1] < ends:
        _settle(device)
        began = time.perf_counter()
        work()
        _settle(device)
        found.append(time.perf_counter() - began)
    return found


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def estimate(cell: Cell, compute: Compute) -> Estimate:
    """Time and disk of measuring ``cell``, what it has learned being there."""
    training, predicting = image_seconds(cell.target, compute)
    method, snapshots = cell.make_method(), len(cell.variant.snapshots)
    images = cell.family.images or len(cell.source.labels) // 2
    tested = cell.family.test_images or images
    fit = method.fit_passes(images, _support(cell.family))
    per_group = fit.trained * training + (fit.predicted + snapshots * tested) * predicting
    return Estimate(cell.groups * per_group, cell.groups * snapshots * ROW_BYTES, cell.groups * per_group)


def training_estimate(cell: Cell, compute: Compute) -> Estimate:
    """Time and disk of the meta-training of ``cell``, in the search and at last; without what it builds on.

    ``seconds`` if each training goes to its limit; at ``least``, validation stops each after the first check that counts.
    """
    training, predicting = image_seconds(cell.target, compute)
    plan, family, method = cell.training, cell.trained_on, cell.make_method()
    folds = family.validation_folds if plan.validation_groups else 0
    budget = plan.budget
    support = _support(family)
    step = method.meta_training_images(support, min(support + QUERY_IMAGES, family.images)) * training
    fit = method.fit_passes(family.images, support)
    check = plan.validation_groups * (fit.trained * training + (fit.predicted + family.images) * predicting)

    def search(groups: int) -> float:
        return groups * step + -(-groups // budget.check_every) * check

    shortest = min(budget.max_groups, (budget.patience + 1) * budget.check_every)
    last = min(budget.max_groups, budget.check_every) if folds else budget.max_groups
    states = sum(tensor.nbytes for tensor in method.state_dict().values())
    return Estimate(
        folds * search(budget.max_groups) + budget.max_groups * step,
        states * (folds + max(1, len(plan.milestones))),
        folds * search(shortest) + last * step,
    )


def _support(family: Family) -> int:
    return family.ways * min(SUPPORT_PER_CLASS, family.images_per_class // 2)
