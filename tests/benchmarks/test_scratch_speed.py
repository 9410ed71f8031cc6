"""Training from scratch at its best against a plain script's loop, and what each difference between them is worth."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import Tensor

from pudnet_bench.methods.scratch import Adam
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting
from tests.benchmarks.workloads import IMAGES, WAYS, random_dataset, train, trainer

ROUNDS = {"convnet3": 7, "resnet18": 3, "resnet34": 1}
PLAIN = "the plain loop (DataLoader, eager float32, unfused)"


class Unfused(Adam):
    """Adam with torch's defaults."""

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr)


VARIANTS = {
    PLAIN: partial(trainer, loop="dataloader"),
    "the best in float32": partial(trainer, autocast=False),
    "the best with torch's default Adam": partial(trainer, kind=Unfused),
}


RESNETS = [pytest.param(target, PLAIN, marks=pytest.mark.measured_only) for target in ("resnet18", "resnet34")]


@pytest.mark.parametrize(("target", "name"), [*(("convnet3", name) for name in VARIANTS), *RESNETS])
def test_variant_against_training_at_its_best(compare: Comparison, setting: Setting, target: str, name: str) -> None:
    if target != "convnet3" and setting.quick:
        pytest.skip("ResNets are not for --quick")
    torch.manual_seed(0)
    dataset = random_dataset(IMAGES if setting.measuring else 40, setting.compute.device)
    ratio = compare(
        f"{name}, {target}",
        partial(train, VARIANTS[name](target, setting.compute), dataset),
        f"training at its best, one epoch of {IMAGES} images of 32x32, {WAYS} classes",
        partial(train, trainer(target, setting.compute), dataset),
        rounds=ROUNDS[target],
    )
    assert ratio is None or name != PLAIN or ratio.value > 1, str(ratio)
