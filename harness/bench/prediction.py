"""PudNet's prediction against the bare forward pass of its parts, and how a large dataset streams through its sketch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import Dataset, TargetSpec
from pudnet_bench.methods.pudnet.generator import WeightGenerator
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.pudnet.sketch import STREAM_PIXELS

IMAGE_SHAPE, WAYS, IMAGES, LARGE = (3, 32, 32), 5, 500, 50_000
GOALS = {"convnet3": 1.3, "resnet18": 2.0}
STREAM_GOAL = 1.2


def predictor(target: str, compute: Compute) -> PudNet:
    """An untrained PudNet in evaluation mode: its time does not depend on what it has learned."""
    method = PudNet(TargetSpec(target, IMAGE_SHAPE), 80)
    method.autocast = compute.autocast
    method.to(compute.device)
    method.modules.eval()
    return method


def random_dataset(images: int, device: torch.device) -> Dataset:
    """``images`` images of 32x32 of `WAYS` classes, sorted by class as a group's are."""
    values = torch.randn(images, *IMAGE_SHAPE, device=device).to(memory_format=torch.channels_last)
    return Dataset(values, torch.arange(WAYS, device=device).repeat_interleave(images // WAYS), WAYS)


@torch.no_grad()
def bare_forward(method: PudNet, images: Tensor) -> list[Tensor]:
    """Extractor and generators as a plain script has them: all images at once, every layer by its own module."""
    sketch = method.hypernetwork.sketch
    context = sketch.project(sketch.extractor(images).mean(0))
    return [_kernel(generator, context) for generator in method.hypernetwork.generators]


def _kernel(generator: nn.Module, context: Tensor) -> Tensor:
    assert isinstance(generator, WeightGenerator)
    size = generator.shape[-1]
    grid = F.gelu(generator.linear(context)).view(1, generator.hidden, size, size)
    kernel: Tensor = generator.expand(F.gelu(generator.mix(grid))).view(generator.shape)
    return kernel


def fit(method: PudNet, dataset: Dataset) -> None:
    """One prediction, from labelled images to a classifier."""
    next(method.fit(dataset))


def measure(setting: Setting) -> list[Ratio]:
    """The fit of a group for each target; but for a quick look also of 50,000 images against their extractor alone."""
    compute, rounds = setting.compute, setting.turns(15)
    torch.manual_seed(0)
    found = []
    for target, goal in GOALS.items():
        method, dataset = predictor(target, compute), random_dataset(IMAGES, compute.device)
        support = torch.cat([dataset.images[dataset.labels == c][:10] for c in range(WAYS)])
        kernels = method.predicted(dataset)

        def bare(method: PudNet = method, images: Tensor = dataset.images) -> None:
            bare_forward(method, images)

        @torch.no_grad()
        def bare_with_support(
            method: PudNet = method, images: Tensor = dataset.images, support: Tensor = support, k: dict = kernels
        ) -> None:
            bare_forward(method, images)
            method.features(k, support)

        def predict(method: PudNet = method, dataset: Dataset = dataset) -> None:
            fit(method, dataset)

        title = f"PudNet's fit, {IMAGES} images of 32x32, {WAYS} classes, {target}"
        found += [
            interleaved(title, predict, "bare extractor and generators", bare, compute.device, rounds=rounds, goal=goal),
            interleaved(
                title, predict, "the same and the target's pass over the support images", bare_with_support,
                compute.device, rounds=rounds,
            ),
        ]  # fmt: skip
    if setting.quick:
        return found
    method, dataset = predictor("convnet3", compute), random_dataset(LARGE, compute.device)
    sketch = method.hypernetwork.sketch

    chunk = STREAM_PIXELS[compute.device.type] // dataset.images[0, 0].numel()

    @torch.no_grad()
    def extractor_alone() -> None:
        for images in dataset.images.split(chunk):
            sketch.extractor(images)

    found.append(
        interleaved(
            f"PudNet's fit, {LARGE:,} images of 32x32, {WAYS} classes, convnet3",
            lambda: fit(method, dataset),
            f"bare extractor, {chunk} images at a time",
            extractor_alone,
            compute.device,
            rounds=setting.turns(5),
            goal=STREAM_GOAL,
        )
    )
    return found
