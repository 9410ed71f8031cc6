"""The same work written with learn2learn's public pieces: tasks a second, and training steps of ProtoNet a second.

The peer's side is what learn2learn's own tasksets and its ProtoNet example do: a dataset in memory, ``TaskDataset`` with
NWays, KShots, LoadData, RemapLabels and ConsecutiveLabels, a network in torch's default memory layout,
``PrototypicalClassifier``, Adam. Source, training classes, ways, images of a class, network and optimiser are ours.

A task is ready for use on both sides: its images float32 and normalised, its labels int64 0..ways-1, on the device. Ours
costs some calls of numpy's generator and a copy of the images; the peer's a few calls of Python for each image and, where
NWays describes every image of the chosen classes, passes of Python's garbage collector over all that torch has loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute, Precision, native_bf16
from pudnet_bench.methods.base import Budget, Session, TargetSpec
from pudnet_bench.methods.feature_learner import prototypical_classifier
from pudnet_bench.methods.meta_training import LEARNING_RATE
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.suites.groups import FamilyImages, TrainingStream, draw_group
from pudnet_bench.suites.learn2learn_episodes import learn2learn_data

SAMPLING_GOAL, TRAINING_GOAL = 100.0, 3.0  # times the peer's tasks, and training episodes, a second
IMAGES, EPISODES = 20_000, 10  # in one measurement: images of the tasks that are drawn, episodes that are trained on


class LabelledImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The images of the training classes as learn2learn's ``MiniImagenet`` has them: (an image, its class).

    Without ``beforehand`` the images are stored as bytes, as ours are, and an item is normalised when it is taken, as a
    transform does; with it they are stored normalised, at four times the memory.
    """

    def __init__(self, images: FamilyImages, beforehand: bool) -> None:
        ranges, classes = images.ranges, images.split.training
        positions = np.concatenate([ranges.starts[c] + np.arange(ranges.sizes[c]) for c in classes])
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
    """learn2learn's ``TaskDataset`` of tasks with ``shots`` images of each class, sorted by class.

    ``fused`` draws by ``FusedNWaysKShots``, learn2learn's faster transform, in the place of NWays and KShots.
    """
    data, ways = learn2learn_data(), images.family.ways
    dataset, t = data.MetaDataset(LabelledImages(images, beforehand)), data.transforms
    drawn = [t.FusedNWaysKShots(dataset, ways, shots)] if fused else [t.NWays(dataset, ways), t.KShots(dataset, shots)]
    return data.TaskDataset(
        dataset, [*drawn, t.LoadData(dataset), t.RemapLabels(dataset), t.ConsecutiveLabels(dataset)]
    )


def sampling(images: FamilyImages, rounds: int = 7) -> list[Ratio]:
    """Tasks a second against ``TaskDataset``: tensors ready for use, and positions of the images alone."""
    family, device = images.family, images.device
    numbers, tasks_drawn = count(), IMAGES // family.images

    def drawn(index: int) -> np.ndarray:
        return draw_group(family, images.split.training, images.ranges, "training", 0, index).fit

    def our_positions() -> None:
        for index in islice(numbers, tasks_drawn):
            drawn(index)

    def our_tasks() -> None:
        for index in islice(numbers, tasks_drawn):
            images.dataset(drawn(index), family.ways)

    def their_positions(tasks: Any) -> None:
        for _ in range(tasks_drawn):
            tasks.sample_task_description()

    def their_tasks(tasks: Any) -> None:
        for _ in range(tasks_drawn):
            _, labels = tasks.sample()
            labels.to(device)

    found = []
    for draws, fused in (("NWays, KShots", False), ("FusedNWaysKShots", True)):
        for state, beforehand in (("bytes", False), ("normalised", True)):
            tasks = task_dataset(images, family.images_per_class, beforehand=beforehand, fused=fused)
            found.append(
                interleaved(
                    f"{_named(images)}: {tasks_drawn} tasks as tensors",
                    our_tasks,
                    f"TaskDataset, {draws}, images stored {state}",
                    partial(their_tasks, tasks),
                    device,
                    rounds=rounds,
                    goal=SAMPLING_GOAL,
                    inverse=True,
                )
            )
        found.append(
            interleaved(
                f"{_named(images)}: positions of {tasks_drawn} tasks",
                our_positions,
                f"TaskDataset, {draws}, no image loaded",
                partial(their_positions, tasks),
                device,
                rounds=rounds,
                goal=SAMPLING_GOAL,
                inverse=True,
            )
        )
    return found


def _named(images: FamilyImages) -> str:
    family, shape = images.family, images.image_shape
    return f"{family.label}, {family.ways}x{family.images_per_class} images of {shape[0]}x{shape[1]}x{shape[2]}"


@dataclass
class PlainProtoNet:
    """ProtoNet's training step on learn2learn's pieces; ``support`` images of each class make its prototype."""

    network: nn.Module
    ways: int
    support: int

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """``images`` float [ways * k, c, h, w] sorted by class, the first of each class its support; ``labels`` int64."""
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


def our_protonet(spec: TargetSpec, compute: Compute) -> ProtoNet:
    """The project's ProtoNet, freshly initialised, on the device."""
    method = ProtoNet(spec, 0)
    method.autocast = compute.autocast
    method.to(compute.device)
    return method


def plain_protonet(method: ProtoNet, stream: TrainingStream) -> PlainProtoNet:
    """The peer's, with a copy of the network of ours in torch's default memory layout."""
    network = copy.deepcopy(method.modules["network"]).to(memory_format=torch.contiguous_format)
    return PlainProtoNet(network.train(), stream.ways, stream.support_per_class)


def training(images: FamilyImages, target: str = "convnet3", rounds: int = 7) -> list[Ratio]:
    """Training episodes of ProtoNet a second, in float32 on both sides.

    What bounds the ratio is measured too: forward and backward of the network alone on an episode's images; and where the
    device has instructions for bfloat16, ours in its autocast against the peer's float32.
    """
    device = images.device
    spec, stream = TargetSpec(target, images.image_shape), TrainingStream(images, seed=0)
    exact = our_protonet(spec, Compute(device, "", Precision.FP32))
    plain = plain_protonet(exact, stream)
    tasks = task_dataset(images, stream.support_per_class + stream.queries_per_class)
    episode = next(stream.episodes())
    together = torch.cat((episode.support.images, episode.query.images))

    def ours(method: ProtoNet) -> None:
        method.meta_train(stream, Session(Budget(EPISODES, EPISODES, 1)))

    def theirs() -> None:
        for _ in range(EPISODES):
            task, labels = tasks.sample()
            plain.step(task, labels.to(device))

    def passes() -> None:
        for _ in range(EPISODES):
            exact.modules["network"](together).square().mean().backward()
            exact.modules.zero_grad()

    def compared(
        name: str, work: Callable[[], Any], against: str, other: Callable[[], Any], goal: float | None
    ) -> Ratio:
        title = f"{images.family.label}, {target}: {EPISODES} episodes of {stream.ways}x{len(together) // stream.ways} images, "
        return interleaved(title + name, work, against, other, device, rounds=rounds, goal=goal, inverse=True)

    script, bare = "learn2learn's pieces, fp32", "the network's forward and backward passes alone, fp32"
    found = [
        compared("ProtoNet, fp32", partial(ours, exact), script, theirs, TRAINING_GOAL),
        compared("ProtoNet, fp32", partial(ours, exact), bare, passes, None),
    ]
    if native_bf16(device):
        mixed = our_protonet(spec, Compute(device, "", Precision.BF16))
        found.append(compared("ProtoNet, bf16", partial(ours, mixed), script, theirs, None))
    return found


def measure(setting: Setting) -> list[Ratio]:
    """Sampling and ProtoNet's training with ConvNet-3 against learn2learn, on the images of CIFAR100-set."""
    images, rounds = setting.images("cifar100"), setting.turns(7)
    return sampling(images, rounds) + training(images, rounds=rounds)
