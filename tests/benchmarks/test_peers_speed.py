"""Tasks and training steps a second against the same work on learn2learn's pieces.

A task is ready for use on both sides: its images float32 and normalised, its labels int64 0..ways-1, on the device. Ours
costs some calls of NumPy's generator and a copy of the images; the peer's a few calls of Python for each image and, where
NWays describes every image of the chosen classes, passes of Python's garbage collector over all that torch has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch

from pudnet_bench.harness.measuring.device import Compute, native_bf16
from pudnet_bench.methods.base import Budget, Session, TargetSpec
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.suites.groups import FamilyImages, TrainingStream, draw_group
from tests.benchmarks.peers import plain_protonet, task_dataset
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting
from tests.benchmarks.workloads import our_protonet

SAMPLING_GOAL, TRAINING_GOAL = 100.0, 3.0  # times the peer's tasks, and training episodes, a second
IMAGES, EPISODES = 20_000, 10  # in one round: images of the tasks that are drawn, episodes that are trained on


REAL = [pytest.param(family, marks=pytest.mark.measured_only) for family in ("fashion", "cifar100")]


@pytest.fixture(params=["digits", *REAL])
def images(request: pytest.FixtureRequest, setting: Setting) -> FamilyImages:
    if request.param == "fashion" and setting.quick:
        pytest.skip("Fashion-set is not for --quick")
    return setting.images(request.param)


@pytest.mark.parametrize("stored", ["bytes", "normalised", "no image loaded"])
@pytest.mark.parametrize("draws", ["NWays, KShots", "FusedNWaysKShots"])
def test_sampling(compare: Comparison, images: FamilyImages, draws: str, stored: str) -> None:
    family, shape = images.family, images.image_shape
    tasks_drawn = IMAGES // family.images
    tasks = task_dataset(images, family.images_per_class, beforehand=stored == "normalised", fused="Fused" in draws)
    numbers, with_images = count(), stored != "no image loaded"

    def positions() -> Iterator[np.ndarray]:
        for index in islice(numbers, tasks_drawn):
            yield draw_group(family, images.split.training, images.ranges, "training", 0, index).fit

    def ours() -> None:
        for drawn in positions():
            if with_images:
                images.dataset(drawn, family.ways)

    def theirs() -> None:
        for _ in range(tasks_drawn):
            if with_images:
                _, labels = tasks.sample()
                labels.to(images.device)
            else:
                tasks.sample_task_description()

    named = f"{family.label}, {family.ways}x{family.images_per_class} images of {shape[0]}x{shape[1]}x{shape[2]}"
    ratio = compare(
        f"{named}: {tasks_drawn} tasks as tensors" if with_images else f"{named}: positions of {tasks_drawn} tasks",
        ours,
        f"TaskDataset, {draws}, " + (f"images stored {stored}" if with_images else stored),
        theirs,
        goal=SAMPLING_GOAL,
        inverse=True,
    )
    if ratio is not None:
        assert ratio.value > 1, str(ratio)
        assert ratio.met or family.name != "fashion" or "Fused" in draws, str(ratio)


TARGET = "convnet3"
SCRIPT, PASSES = "learn2learn's pieces, fp32", "the network's forward and backward passes alone, fp32"


@pytest.mark.parametrize(("precision", "against"), [("fp32", SCRIPT), ("fp32", PASSES), ("bf16", SCRIPT)])
def test_protonet_training(compare: Comparison, images: FamilyImages, precision: Any, against: str) -> None:
    """float32 on both sides; against the bare passes, which bound that ratio; and in bfloat16 where it is native."""
    device = images.device
    if precision == "bf16" and not native_bf16(device):
        pytest.skip("this device has no instructions for bfloat16")
    spec, stream = TargetSpec(TARGET, images.image_shape), TrainingStream(images, seed=0)
    exact, method = (our_protonet(spec, Compute(device, "", each)) for each in ("fp32", precision))
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

    title = (
        f"{images.family.label}, {TARGET}: {EPISODES} episodes of {stream.ways}x{len(together) // stream.ways} images"
    )
    ratio = compare(
        f"{title}, ProtoNet, {precision}",
        partial(ours, method),
        against,
        theirs if against == SCRIPT else passes,
        goal=TRAINING_GOAL if (precision, against) == ("fp32", SCRIPT) else None,
        inverse=True,
    )
    assert ratio is None or against == PASSES or ratio.value > 1, str(ratio)
