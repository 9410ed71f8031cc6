"""Networks and random images that several benchmarks time."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import Dataset, TargetSpec
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.scratch import Adam, Scratch

IMAGE_SHAPE, WAYS, IMAGES = (3, 32, 32), 5, 500


def random_dataset(images: int, device: torch.device) -> Dataset:
    """A dataset of `images` images of 32x32 in `WAYS` classes, sorted by class like those of a group."""
    values = torch.randn(images, *IMAGE_SHAPE, device=device).to(memory_format=torch.channels_last)
    return Dataset(values, torch.arange(WAYS, device=device).repeat_interleave(images // WAYS), WAYS)


def predictor(target: str, compute: Compute) -> PudNet:
    """An untrained PudNet in evaluation mode: its time does not depend on what it has learned."""
    method = PudNet(TargetSpec(target, IMAGE_SHAPE), 80)
    method.autocast = compute.autocast
    method.to(compute.device)
    method.modules.eval()
    return method


def our_protonet(spec: TargetSpec, compute: Compute) -> ProtoNet:
    """The project's ProtoNet, freshly initialised, on the device."""
    method = ProtoNet(spec, 0)
    method.autocast = compute.autocast
    method.to(compute.device)
    return method


def trainer(
    target: str, compute: Compute, kind: type[Scratch] = Adam, loop: str = "device", autocast: bool = True
) -> Scratch:
    """One epoch of training `target` from scratch."""
    method = kind(TargetSpec(target, IMAGE_SHAPE), 0, epochs=(1,), loop=loop)
    method.autocast = compute.autocast if autocast else nullcontext
    return method


def train(method: Scratch, dataset: Dataset) -> None:
    """Fit to the last snapshot."""
    for _ in method.fit(dataset):
        pass
