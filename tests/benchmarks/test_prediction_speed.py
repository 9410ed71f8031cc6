"""PudNet's prediction against the bare forward pass of its parts, and how a large dataset streams through its sketch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods.pudnet.generator import WeightGenerator
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.pudnet.sketch import STREAM_PIXELS
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting
from tests.benchmarks.workloads import IMAGES, WAYS, predictor, random_dataset

GOALS = {"convnet3": 1.3, "resnet18": 2.0}
LARGE, STREAM_GOAL = 50_000, 1.2


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


def test_bare_pass_generates_the_same_shapes(setting: Setting) -> None:
    method, dataset = predictor("convnet3", setting.compute), random_dataset(50, setting.compute.device)
    kernels = bare_forward(method, dataset.images)
    assert [kernel.shape for kernel in kernels] == [k.shape for k in method.predicted(dataset).values()]


@pytest.mark.parametrize("with_target", [False, True], ids=["generators", "target"])
@pytest.mark.parametrize("target", GOALS)
def test_fit_against_bare_passes(compare: Comparison, setting: Setting, target: str, with_target: bool) -> None:
    torch.manual_seed(0)
    method = predictor(target, setting.compute)
    dataset = random_dataset(IMAGES if setting.measuring else 50, setting.compute.device)
    support = torch.cat([dataset.images[dataset.labels == c][:10] for c in range(WAYS)])
    kernels = method.predicted(dataset)

    @torch.no_grad()
    def bare() -> None:
        bare_forward(method, dataset.images)
        if with_target:
            method.features(kernels, support)

    ratio = compare(
        f"PudNet's fit, {IMAGES} images of 32x32, {WAYS} classes, {target}",
        lambda: next(method.fit(dataset)),
        "the same and the target's pass over the support images" if with_target else "bare extractor and generators",
        bare,
        rounds=15,
        goal=None if with_target else GOALS[target],
    )
    assert ratio is None or target != "convnet3" or ratio.met in (None, True), str(ratio)


def test_large_dataset_streams(compare: Comparison, setting: Setting) -> None:
    if setting.quick:
        pytest.skip("50,000 images are not for --quick")
    torch.manual_seed(0)
    method = predictor("convnet3", setting.compute)
    dataset = random_dataset(LARGE if setting.measuring else 300, setting.compute.device)
    chunk = STREAM_PIXELS[setting.compute.device.type] // dataset.images[0, 0].numel()

    @torch.no_grad()
    def extractor_alone() -> None:
        for images in dataset.images.split(chunk):
            method.hypernetwork.sketch.extractor(images)

    ratio = compare(
        f"PudNet's fit, {LARGE:,} images of 32x32, {WAYS} classes, convnet3",
        lambda: next(method.fit(dataset)),
        f"bare extractor, {chunk} images at a time",
        extractor_alone,
        rounds=5,
        goal=STREAM_GOAL,
    )
    assert ratio is None or ratio.met, str(ratio)
