"""Estimate a cell's time and disk: images that pass through the target, times a speed measured now."""

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
from pudnet_bench.methods.base import Method, TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS
from pudnet_bench.methods.musml import MUSML
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import QUERY_IMAGES

TRAINING_BATCH = 32  # images per step of Adam; meta-training takes more, which changes little
PREDICTED_PIXELS = 200_000  # at once: activations larger than the caches, as those of a test set
PROBE_SECONDS = 0.3
ROW_BYTES = 200  # of Parquet per row


@dataclass(frozen=True)
class Estimate:
    """At most `seconds` on this device, `least` where validation stops every search at once, and `bytes` of disk."""

    seconds: float = 0.0
    bytes: float = 0.0
    least: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes, self.least + other.least)


@cache
def image_seconds(target: TargetSpec, compute: Compute) -> tuple[float, float]:
    """Seconds per image of a training step and of a prediction of the target, measured on this device."""
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

    to_train = images(2 * TRAINING_BATCH)
    labels = torch.arange(len(to_train), device=compute.device) % 2
    to_predict = images(max(TRAINING_BATCH, PREDICTED_PIXELS // (height * width)))

    def train() -> None:
        for batch in torch.randperm(len(to_train), device=compute.device).split(TRAINING_BATCH):
            with compute.autocast():
                logits = network(to_train[batch])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[batch])
            gradients = torch.autograd.grad(loss, [parameter for parameter, _, _ in moments])
            # Adam by hand: torch.optim takes seconds to import its compiler.
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
    """Seconds of each call of `work` that fits into `seconds`: at least one, after a warm-up."""
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
    """Time and disk of measuring `cell`, its artifact being cached."""
    training, predicting = image_seconds(cell.target, compute)
    method, snapshots = cell.make_method(), len(cell.variant.snapshots)
    images = cell.family.images or len(cell.source.labels) // 2
    tested = cell.family.test_images or images
    trained, predicted = _fit_images(method, images, cell.family)
    per_group = trained * training + (predicted + snapshots * tested) * predicting
    return Estimate(cell.groups * per_group, cell.groups * snapshots * ROW_BYTES, cell.groups * per_group)


def training_estimate(cell: Cell, compute: Compute) -> Estimate:
    """Time and disk of the meta-training of `cell`, its search included, its base excluded.

    `seconds` if each training reaches its limit; `least` if validation stops each after the first check that counts.
    """
    training, predicting = image_seconds(cell.target, compute)
    plan, family, method = cell.training, cell.trained_on, cell.make_method()
    folds = family.validation_folds if plan.validation_groups else 0
    budget = plan.budget
    step = _step_images(method, family) * training
    trained, predicted = _fit_images(method, family.images, family)
    check = plan.validation_groups * (trained * training + (predicted + family.images) * predicting)

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


def _step_images(method: Method, family: Family) -> int:
    """Images per step of meta-training that pass through the target forward and backward."""
    support = _support(family)
    episode = min(support + QUERY_IMAGES, family.images)
    if isinstance(method, MUSML):  # in every subspace: inner steps, then the meta loss
        return method.n_subspaces * (method.inner_steps * support + episode)
    return episode


def _fit_images(method: Method, images: int, family: Family) -> tuple[int, int]:
    """Images that pass forward and backward, and forward only, in a fit to a group of `images`."""
    epochs = getattr(method, "epochs", ())
    if epochs:
        return images * max(epochs), 0
    if isinstance(method, MUSML):
        return method.n_subspaces * method.inner_steps * _support(family), method.n_subspaces * images
    return 0, min(images, _support(family))
