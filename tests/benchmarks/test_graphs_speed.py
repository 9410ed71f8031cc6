"""What replaying steps as CUDA graphs gains in training from scratch. Recording them is not timed."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.scratch import Adam, Scratch
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting
from tests.benchmarks.workloads import IMAGES, WAYS, random_dataset, train, trainer


@pytest.mark.parametrize(("target", "method"), [("convnet3", Adam), ("convnet3", GC), ("resnet18", Adam)])
def test_graphs_against_kernel_by_kernel(
    compare: Comparison, setting: Setting, target: str, method: type[Scratch]
) -> None:
    if setting.compute.device.type != "cuda":
        pytest.skip("CUDA graphs need a GPU, and this device is a CPU")
    torch.manual_seed(0)
    dataset = random_dataset(IMAGES, setting.compute.device)
    compare(
        f"{method.name}, one epoch of {IMAGES} images of 32x32, {WAYS} classes, {target}, replayed as CUDA graphs",
        partial(train, trainer(target, setting.compute, method, loop="graph"), dataset),
        "the same steps, kernel by kernel",
        partial(train, trainer(target, setting.compute, method), dataset),
        rounds=15,
        inverse=True,
    )
