"""How close meta-training comes to the bare forward and backward pass of the same networks on the same images."""

from __future__ import annotations

from functools import partial
from itertools import islice

import torch
from torch.func import functional_call

from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import Budget, Episode, Session, TargetSpec
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

GROUPS = 10
GOAL = 0.75  # of the bare passes' images per second
PAIRS = (("digits", "convnet3"), ("fashion", "convnet3"), ("digits", "resnet18"))


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


def meta_training(images: FamilyImages, target: str, compute: Compute, rounds: int, groups: int = GROUPS) -> Ratio:
    """PudNet's meta-training on so many groups: its images per second over those of its networks' bare passes."""
    torch.manual_seed(0)
    method = PudNet(TargetSpec(target, images.image_shape), images.family.training_classes)
    method.autocast = compute.autocast
    method.to(compute.device)
    method.modules.train()
    stream = TrainingStream(images, seed=0)
    episodes = list(islice(stream.episodes(), groups))
    for episode in episodes:
        assert len(episode.fit)  # gathered now, so that the bare passes find their images ready
    return interleaved(
        f"PudNet's meta-training, {groups} groups of {images.family.label}, {target}",
        lambda: method.meta_train(stream, Session(Budget(groups, groups, 1))),
        "forward and backward of its networks alone",
        partial(bare_passes, method, episodes),
        compute.device,
        rounds=rounds,
        goal=GOAL,
        inverse=True,
    )


def measure(setting: Setting) -> list[Ratio]:
    """Two families with ConvNet-3, and digits with ResNet-18; a family whose images are not found is left out."""
    found: dict[tuple[str, str], Ratio] = {}
    for family, target in PAIRS:
        images = setting.images(family)
        if (images.family.name, target) not in found:
            found[images.family.name, target] = meta_training(images, target, setting.compute, setting.turns(7))
    return list(found.values())
