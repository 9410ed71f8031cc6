"""Estimates of a cell's time and disk: images that pass through the target, times a speed measured on this device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import torch

from pudnet_bench.harness.measuring.clock import Clock
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.isolation import isolated
from pudnet_bench.harness.planning.plan import Cell
from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Method, MethodError, TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS
from pudnet_bench.methods.own_code import place_of
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import QUERY_IMAGES

BATCH_SIZE = 32  # images of a step of Adam; meta-training has more, which changes the speed per image little
PROBE_PIXELS = 1_000_000  # at most in a step that is timed, so that planning large images takes about 1 GB
PREDICTED_PIXELS = 200_000  # per forward pass: their activations exceed the caches, as those of a test set do
PROBE_SECONDS = 0.3  # per speed
LONG_PROBES = 3  # as many `seconds` make a call that is not repeated
ROW_BYTES = 200  # of Parquet, per snapshot of a group


_OUTLINES: dict[tuple[object, ...], Method] = {}


@dataclass(frozen=True)
class Estimate:
    """Seconds on this device and bytes of disk; `least` is the time if every search stops as early as it can."""

    seconds: float = 0.0
    bytes: float = 0.0
    least: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes, self.least + other.least)


@cache
def image_seconds(target: TargetSpec, compute: Compute) -> tuple[float, float]:
    """Measure the seconds per image of the target in a training step and in a prediction, on this device."""
    features = targets.build(target)
    head = torch.nn.Linear(targets.feature_count(features, target.image_shape), 2)
    network = torch.nn.Sequential(features, head).to(compute.device)
    moments = [(each, torch.zeros_like(each), torch.zeros_like(each)) for each in network.parameters()]
    _, height, width = target.image_shape

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, *target.image_shape, device=compute.device).to(memory_format=torch.channels_last)

    batch_size = max(1, min(BATCH_SIZE, PROBE_PIXELS // (height * width)))
    to_train = images(2 * batch_size)
    labels = torch.arange(len(to_train), device=compute.device) % 2
    to_predict = images(max(batch_size, PREDICTED_PIXELS // (height * width)))

    def train() -> None:
        for batch in torch.randperm(len(to_train), device=compute.device).view(-1, batch_size):
            with compute.autocast():
                logits = network(to_train[batch])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[batch])
            gradients = torch.autograd.grad(loss, [parameter for parameter, _, _ in moments])
            # Adam by hand: creating the first torch.optim optimizer imports the compiler, which takes seconds.
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
    """Time as many calls of `work` as fit into `seconds`, at least one, after a warm-up; return the seconds of each.

    A warm-up that takes several times as long is the only call.
    """
    clock, end = Clock(device), time.perf_counter() + seconds
    taken: list[float] = []
    clock.start()
    work()
    if (first := clock.stop().wall_seconds) > LONG_PROBES * seconds:
        return [first]  # of which what is done only once is a small part
    while not taken or time.perf_counter() + taken[-1] < end:
        clock.start()
        work()
        taken.append(clock.stop().wall_seconds)
    return taken


def estimate(cell: Cell, compute: Compute) -> Estimate:
    """Estimate the time and disk of measuring `cell`, once its method is meta-trained."""
    training, predicting = image_seconds(cell.target, compute)
    snapshots, images = len(cell.variant.snapshots), cell.family.images or len(cell.source.labels) // 2
    tested = cell.family.test_images or images
    with isolated(cell.method):
        fit = _outline(cell).fit_passes(images, _support(cell.family))
    per_group = fit.trained * training + (fit.predicted + snapshots * tested) * predicting
    return Estimate(cell.groups * per_group, cell.groups * snapshots * ROW_BYTES, cell.groups * per_group)


def _constructed(cell: Cell) -> Method:
    """The cell's method. Raises MethodError where its class fails, as `run` would say of the cell."""
    try:
        return cell.make_method()
    except MethodError:
        raise
    except (Exception, SystemExit) as error:  # a method can fail in any way
        what = f"{type(error).__name__}: {error}{place_of(error)}"
        raise MethodError(f"method '{cell.variant.name}' cannot be constructed: {what}") from error


def training_estimate(cell: Cell, compute: Compute) -> Estimate:
    """Estimate the time and disk of the meta-training of `cell`: the search for a length and the final training.

    `seconds` holds if every training reaches its limit, `least` if validation stops each at the first check it can. A
    meta-training that this one builds on is not included.
    """
    training, predicting = image_seconds(cell.target, compute)
    plan, family = cell.training, cell.trained_on
    folds, budget = family.validation_folds if plan.validation_groups else 0, plan.budget
    support = _support(family)
    with isolated(cell.method):
        method = _outline(cell)
        step = method.meta_training_images(support, min(support + QUERY_IMAGES, family.images)) * training
        fit = method.fit_passes(family.images, support)
    check = plan.validation_groups * (fit.trained * training + (fit.predicted + family.images) * predicting)

    def search(groups: int) -> float:
        return groups * step + -(-groups // budget.check_every) * check

    shortest = min(budget.max_groups, (budget.patience + 1) * budget.check_every)
    shortest_final = min(budget.max_groups, budget.check_every) if folds else budget.max_groups
    state_bytes = sum(tensor.nbytes for tensor in method.state_dict().values())
    most = folds * search(budget.max_groups) + budget.max_groups * step
    least = folds * search(shortest) + shortest_final * step
    return Estimate(most, state_bytes * (folds + max(1, len(plan.milestones))), least)


def once_for_alike(of: Callable[[Cell, Compute], Estimate], compute: Compute) -> Callable[[Cell], Estimate]:
    """`of`, computed once for the cells that differ in their class split and seed only."""
    known: dict[tuple[object, ...], Estimate] = {}

    def found(cell: Cell) -> Estimate:
        alike = (
            cell.method, str(cell.options), cell.variant.snapshots, cell.family, cell.trained_on, cell.target, cell.groups,
            replace(cell.training, seed=0),
        )  # fmt: skip
        if alike not in known:
            known[alike] = of(cell, compute)
        return known[alike]

    return found


def _outline(cell: Cell) -> Method:
    """The cell's method without the values of its parameters, where its class can do without them."""
    alike = (cell.method, str(cell.options), cell.target, cell.trained_on.training_classes)
    if alike not in _OUTLINES:
        try:
            with torch.device("meta"):
                _OUTLINES[alike] = cell.make_method()
        except (Exception, SystemExit):  # it computes with values, or is at fault itself, which shows again
            return _constructed(cell)
    return _OUTLINES[alike]


def _support(family: Family) -> int:
    return family.ways * min(SUPPORT_PER_CLASS, family.images_per_class // 2)
