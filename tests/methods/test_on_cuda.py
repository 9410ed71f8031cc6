"""On a GPU methods learn and classify as on a CPU, in float32 without TF32, up to the order of sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pudnet_bench.harness.authoring.checks import runs_on_gpu
from pudnet_bench.harness.authoring.subject import subject_of
from pudnet_bench.harness.measuring.clock import PeakMemory
from pudnet_bench.methods import registry
from pudnet_bench.methods.base import Budget, Checkpoint, Dataset, Method, Session, TargetSpec
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.scratch import Adam, Scratch
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.sources.loading import load

CPU = torch.device("cpu")
TARGETS = {name: TargetSpec(name, (1, 8, 8)) for name in ("convnet3", "resnet18")}
pytestmark = pytest.mark.cuda
ImagesOn = Callable[[torch.device], FamilyImages]


@pytest.fixture(scope="module")
def images_on(cache_dir: Path) -> ImagesOn:
    """The digits family on a device."""
    return partial(FamilyImages, FAMILIES["digits"], load("digits", data_dir=None, cache_dir=cache_dir))


def made(method: type[Method], target: str, device: torch.device, **options: Any) -> Method:
    """A method with the same initial state on every device, where it is drawn on the CPU."""
    torch.manual_seed(0)
    instance = method(TARGETS[target], FAMILIES["digits"].training_classes, **options)
    instance.to(device)
    return instance


def meta_trained(method: type[Method], target: str, images: FamilyImages, groups: int) -> tuple[Method, Session]:
    instance, session = made(method, target, images.device), Session(Budget(groups, 1, groups))
    instance.meta_train(TrainingStream(images, seed=0), session)
    return instance, session


def last_logits(method: Method, fit: Dataset, test: Dataset) -> Tensor:
    """Logits on the CPU of the last snapshot, taken while it is valid."""
    torch.manual_seed(0)
    for snapshot in method.fit(fit):
        logits = snapshot.classifier(test.images)
    return logits.cpu()


def close(one: Tensor, other: Tensor, share: float = 1e-3) -> bool:
    """Whether no element is apart by more than `share` of the largest."""
    return bool((one - other).abs().max() <= share * other.abs().max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [PudNet, ProtoNet])
def test_what_was_learned_classifies_the_same_on_both_devices(
    method: type[Method], target: str, cuda: torch.device, images_on: ImagesOn
) -> None:
    learned, _ = meta_trained(method, target, images_on(CPU), 2)
    there = made(method, target, cuda)
    there.load_state_dict({name: value.to(cuda) for name, value in learned.state_dict().items()})
    for index in range(3):
        here, group = (images_on(device).group("unseen", 0, index) for device in (CPU, cuda))
        assert close(last_logits(there, group.fit, group.test), last_logits(learned, here.fit, here.test))


@pytest.mark.parametrize("method", [PudNet, ProtoNet])
def test_the_first_step_of_meta_training_has_the_same_losses(
    method: type[Method], cuda: torch.device, images_on: ImagesOn
) -> None:
    (here,), (there,) = (meta_trained(method, "convnet3", images_on(device), 1)[1].curve for device in (CPU, cuda))
    assert there == pytest.approx(here, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("method", [Adam, GC])
def test_training_from_scratch_on_whole_batches_is_the_same(
    method: type[Scratch], cuda: torch.device, images_on: ImagesOn
) -> None:
    """A batch of all images: the order within it is drawn by each device in its own way, and changes sums alone."""
    logits = {}
    for device in (CPU, cuda):
        group = images_on(device).group("unseen", 0, 0)
        training = made(method, "convnet3", device, epochs=(3,), batch_size=len(group.fit))
        logits[device.type] = last_logits(training, group.fit, group.test)
    assert close(logits["cuda"], logits["cpu"], share=2e-2)


@pytest.mark.parametrize("method", [PudNet, ProtoNet])
def test_a_stopped_meta_training_goes_on_where_it_was(
    method: type[Method], cuda: torch.device, images_on: ImagesOn
) -> None:
    images = images_on(cuda)
    whole, _ = meta_trained(method, "convnet3", images, 6)
    saved: list[Checkpoint] = []

    def save(progress: Checkpoint) -> None:
        # Through the CPU and without the layout in memory, as files keep tensors.
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in progress.tensors.items()}
        saved.append(Checkpoint(progress.numbers, tensors))

    stopped = made(method, "convnet3", cuda)
    stopped.meta_train(
        TrainingStream(images, seed=0), Session(Budget(3, 3, 1), save_checkpoint=save, checkpoint_due=lambda: True)
    )
    assert "random/cuda" in saved[-1].tensors
    torch.manual_seed(99)
    resumed = method(TARGETS["convnet3"], FAMILIES["digits"].training_classes)
    resumed.to(cuda)
    resumed.meta_train(TrainingStream(images, seed=0), Session(Budget(6, 6, 1), checkpoint=saved[-1]))
    assert saved[-1].numbers["seen"] == 3

    def apart(one: Method, other: Method) -> float:
        states = one.state_dict(), other.state_dict()
        values = [
            (states[0][name] - value).abs().flatten() for name, value in states[1].items() if value.is_floating_point()
        ]
        return float(torch.cat(values).mean())

    assert apart(resumed, whole) < 0.02 * apart(stopped, whole)


@pytest.mark.parametrize("name", [name for name in registry.entries() if name != "pretrained-imagenet"])
def test_every_method_has_finite_logits_there(name: str, cuda: torch.device, cache_dir: Path) -> None:
    assert runs_on_gpu(subject_of(registry.find(name), "convnet3", {}, cache_dir))


def test_memory_of_a_prediction_does_not_grow_with_the_dataset(cuda: torch.device) -> None:
    """Beyond the images themselves: they stream through the sketch, and the support is a few of each class."""
    method = PudNet(TargetSpec("convnet3", (3, 32, 32)), 80)
    method.to(cuda)
    peaks = []
    for images in (5_000, 20_000):
        values = torch.randn(images, 3, 32, 32, device=cuda).to(memory_format=torch.channels_last)
        dataset = Dataset(values, torch.arange(5, device=cuda).repeat_interleave(images // 5), 5)
        memory = PeakMemory(cuda)
        next(method.fit(dataset))  # libraries take their own memory at first
        memory.reset()
        before = memory.read()
        next(method.fit(dataset))
        peaks.append(memory.read() - before)
    assert peaks[0] > 1e6
    assert peaks[1] < 1.2 * peaks[0] + 50e6
