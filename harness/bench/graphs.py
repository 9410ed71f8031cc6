"""What replaying steps as CUDA graphs gains in training from scratch, where there is a GPU to tell."""

from __future__ import annotations

from functools import partial

import torch

from pudnet_bench.harness.bench.prediction import IMAGES, WAYS, random_dataset
from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.scratch import epoch, trainer
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.scratch import Adam


def measure(setting: Setting) -> list[Ratio]:
    """An epoch of Adam for ConvNet-3 and ResNet-18, and of GC for ConvNet-3. Recording is not part of it."""
    if setting.compute.device.type != "cuda":
        setting.notes.append("CUDA graphs are a GPU's, and this device is a CPU: nothing was measured")
        return []
    torch.manual_seed(0)
    dataset = random_dataset(IMAGES, setting.compute.device)
    return [
        interleaved(
            f"{method.name}, one epoch of {IMAGES} images of 32x32, {WAYS} classes, {target}, replayed as CUDA graphs",
            partial(epoch, trainer(target, setting.compute, method, loop="graph"), dataset),
            "the same steps, kernel by kernel",
            partial(epoch, trainer(target, setting.compute, method), dataset),
            setting.compute.device,
            rounds=setting.turns(15),
            inverse=True,
        )
        for target, method in (("convnet3", Adam), ("convnet3", GC), ("resnet18", Adam))
    ]
