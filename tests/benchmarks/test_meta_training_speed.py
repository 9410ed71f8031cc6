"""How close meta-training comes to the bare forward and backward passes of the same networks on the same images."""

from __future__ import annotations

from functools import partial
from itertools import islice

import pytest
import torch
from torch.func import functional_call

from pudnet_bench.methods.base import Budget, Episode, Session, TargetSpec
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.suites.groups import TrainingStream
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting

GROUPS = 10
GOAL = 0.75  # of the bare passes' images per second
PAIRS = (("digits", "convnet3"), ("fashion", "convnet3"), ("digits", "resnet18"))


def bare_passes(method: PudNet, episodes: list[Episode]) -> None:
    """Forward and backward passes of extractor, generators and target on these images, and nothing else."""
    for episode in episodes:
        kernels = method.hypernetwork(episode.fit.images)
        with method.autocast():
            images = torch.cat((episode.support.images, episode.query.images))
            features = functional_call(method.network, kernels, (images,))
        features.float().square().mean().backward()
        for parameter in method.modules.parameters():
            parameter.grad = None


@pytest.mark.parametrize(("family", "target"), PAIRS)
def test_meta_training_against_bare_passes(compare: Comparison, setting: Setting, family: str, target: str) -> None:
    torch.manual_seed(0)
    images, groups = setting.images(family), GROUPS if setting.measuring else 1
    method = PudNet(TargetSpec(target, images.image_shape), images.family.training_classes)
    method.autocast = setting.compute.autocast
    method.to(setting.compute.device)
    method.modules.train()
    stream = TrainingStream(images, seed=0)
    episodes = list(islice(stream.episodes(), groups))
    for episode in episodes:
        assert len(episode.fit)  # gathered now, so that the bare passes find their images ready
    ratio = compare(
        f"PudNet's meta-training, {groups} groups of {images.family.label}, {target}",
        lambda: method.meta_train(stream, Session(Budget(groups, groups, 1))),
        "forward and backward of its networks alone",
        partial(bare_passes, method, episodes),
        goal=GOAL,
        inverse=True,
    )
    assert ratio is None or ratio.met, str(ratio)
