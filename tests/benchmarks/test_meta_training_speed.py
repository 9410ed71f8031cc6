"""How close meta-training comes to the bare forward and backward pass of the same networks on the same images.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each step only runs once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.func import functional_call

from harness.compute import choose
from methods.base import Budget, Episode, Session, TargetSpec
from methods.pudnet.method import PudNet
from suites.families import FAMILIES
from suites.groups import FamilyImages, TrainingStream
from suites.sources.loading import load

ROUNDS, GROUPS = 7, 10


def bare_passes(method: PudNet, episodes: list[Episode]) -> None:
    """Forward and backward of extractor, generators and target on these images, and nothing else."""
    for episode in episodes:
        kernels = method.hypernetwork(episode.fit.images)
        with method.autocast():
            features = functional_call(
                method.network, kernels, (torch.cat((episode.support.images, episode.query.images)),)
            )
        features.float().square().mean().backward()
        for parameter in method.modules.parameters():
            parameter.grad = None


def elapsed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("family", "target"), [("digits", "convnet3"), ("fashion", "convnet3"), ("digits", "resnet18")]
)
def test_meta_training_against_bare_passes(
    benchmark: Any, family: str, target: str, cache_dir: Path, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue("real_data") if family == "fashion" else None
    source = load(FAMILIES[family].source, data_dir=data, cache_dir=cache_dir)
    compute = choose()
    images = FamilyImages(FAMILIES[family], source, compute.device)
    torch.manual_seed(0)
    method = PudNet(TargetSpec(target, images.image_shape), FAMILIES[family].training_classes)
    method.autocast = compute.autocast
    method.to(compute.device)
    stream = TrainingStream(images, seed=0)
    episodes = list(islice(stream.episodes(), GROUPS))
    for episode in episodes:
        assert len(episode.fit)  # gathered now, so that the bare passes find their images ready

    def meta_training() -> None:
        method.meta_train(stream, Session(Budget(GROUPS, GROUPS, 1)))

    method.modules.train()
    bare_passes(method, episodes)
    meta_training()
    rounds = ROUNDS if benchmark.enabled else 1
    pairs = [(elapsed(lambda: bare_passes(method, episodes)), elapsed(meta_training)) for _ in range(rounds)]
    benchmark.extra_info["share_of_bare_speed"] = median(bare / whole for bare, whole in pairs)
    benchmark.pedantic(meta_training, rounds=1)
    print(
        f"\n{family} {target}: {benchmark.extra_info['share_of_bare_speed']:.0%} of the bare passes' images per second"
    )
    if benchmark.enabled:
        assert benchmark.extra_info["share_of_bare_speed"] >= 0.6
