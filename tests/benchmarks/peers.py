"""Drawing tasks and training ProtoNet as learn2learn's own tasksets and its ProtoNet example do.

A dataset in memory, `TaskDataset` with NWays, KShots, LoadData, RemapLabels and ConsecutiveLabels, a network in torch's default
memory layout, `PrototypicalClassifier`, Adam. Source, training classes, ways, images of a class, network and optimiser are ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods.feature_learner import prototypical_classifier
from pudnet_bench.methods.meta_training import LEARNING_RATE
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.learn2learn_episodes import learn2learn_data


class LabelledImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The images of the training classes in the form of learn2learn's `MiniImagenet`: (an image, its class).

    Without `beforehand`, images are stored as bytes, like ours, and normalised when they are taken, as a transform does; with
    it, they are stored normalised, which takes four times the memory.
    """

    def __init__(self, images: FamilyImages, beforehand: bool) -> None:
        ranges, classes = images.ranges, images.split.training
        positions = ranges.positions(classes)
        self.labels = np.repeat(classes, [ranges.sizes[c] for c in classes]).tolist()
        self.images = images.images[torch.from_numpy(positions).to(images.device)]
        self.mean, self.std = images.mean[0], images.std[0]
        self.beforehand = beforehand
        if beforehand:
            self.images = self.images.float().sub_(self.mean).div_(self.std)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image if self.beforehand else image.float().sub_(self.mean).div_(self.std), self.labels[index]


def task_dataset(images: FamilyImages, shots: int, *, beforehand: bool = False, fused: bool = False) -> Any:
    """learn2learn's `TaskDataset` of tasks with `shots` images of each class, sorted by class.

    `fused` replaces NWays and KShots by `FusedNWaysKShots`, learn2learn's faster transform.
    """
    data, ways = learn2learn_data(), images.family.ways
    dataset, t = data.MetaDataset(LabelledImages(images, beforehand)), data.transforms
    drawn = [t.FusedNWaysKShots(dataset, ways, shots)] if fused else [t.NWays(dataset, ways), t.KShots(dataset, shots)]
    return data.TaskDataset(
        dataset, [*drawn, t.LoadData(dataset), t.RemapLabels(dataset), t.ConsecutiveLabels(dataset)]
    )


@dataclass
class PlainProtoNet:
    """ProtoNet's training step on learn2learn's pieces, with prototypes of `support` images of each class."""

    network: nn.Module
    ways: int
    support: int

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """`images` float [ways * k, c, h, w] sorted by class, the first of each class its support; `labels` int64."""
        features = self.network(images)
        supports = (torch.arange(len(labels), device=labels.device) % (len(labels) // self.ways)) < self.support
        classifier = prototypical_classifier("euclidean")
        classifier.fit_(features[supports], labels[supports])
        loss: Tensor = F.cross_entropy(classifier(features[~supports]), labels[~supports])
        return loss

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of Adam on one task."""
        loss = self.loss(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def plain_protonet(method: ProtoNet, stream: TrainingStream) -> PlainProtoNet:
    """The peer's ProtoNet, with a copy of our network in torch's default memory layout."""
    network = copy.deepcopy(method.modules["network"]).to(memory_format=torch.contiguous_format)
    return PlainProtoNet(network.train(), stream.ways, stream.support_per_class)
