"""The peer's side of a comparison does the same work as ours: the same tasks, the same loss, the same gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import Budget, Dataset, Episode, Session, TargetSpec
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from tests.benchmarks import peers
from tests.benchmarks.workloads import our_protonet


class OneEpisode(TrainingStream):
    """A stream of one episode, over and over."""

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        while True:
            yield self.only

    @property
    def only(self) -> Episode:
        return next(super().episodes(3))


def class_by_class(episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
    """The episode's images as the peer has a task: sorted by class, the support of each class first."""
    parts = [
        (part.images[part.labels == c], part.labels[part.labels == c])
        for c in range(episode.support.n_classes)
        for part in (episode.support, episode.query)
    ]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_loss_and_gradients_are_ours(digits_images: FamilyImages, compute: Compute) -> None:
    torch.manual_seed(0)
    stream = OneEpisode(digits_images, seed=0)
    method = our_protonet(TargetSpec("convnet3", digits_images.image_shape), compute)
    plain = peers.plain_protonet(method, stream)
    ours: dict[str, torch.Tensor] = {}
    for name, parameter in method.modules["network"].named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: ours.__setitem__(name, p.grad.detach().clone())
        )
    session = Session(Budget(1, 1, 1))
    method.meta_train(stream, session)

    images, labels = class_by_class(stream.only)
    loss = plain.loss(images.contiguous(), labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(session.curve[0]["loss"], rel=1e-5)
    theirs = {name: parameter.grad for name, parameter in plain.network.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient is not None
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_steps_lead_where_ours_lead(digits_images: FamilyImages, compute: Compute) -> None:
    torch.manual_seed(0)
    stream = OneEpisode(digits_images, seed=0)
    method = our_protonet(TargetSpec("convnet3", digits_images.image_shape), compute)
    plain = peers.plain_protonet(method, stream)
    images, labels = class_by_class(stream.only)
    session = Session(Budget(6, 6, 1))
    method.meta_train(stream, session)
    first = float(plain.loss(images, labels).detach())
    for _ in range(5):
        plain.step(images, labels)
    last = float(plain.loss(images, labels).detach())
    assert last == pytest.approx(session.curve[-1]["loss"], rel=1e-2)
    assert last < 0.5 * first


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("beforehand", [False, True])
def test_a_task_is_what_a_group_is(digits_images: FamilyImages, beforehand: bool, fused: bool) -> None:
    task, labels = peers.task_dataset(digits_images, 50, beforehand=beforehand, fused=fused).sample()
    ours: Dataset = digits_images.group("training", 0, 0).fit
    assert task.shape == ours.images.shape
    assert task.dtype == ours.images.dtype
    assert labels.dtype == ours.labels.dtype
    assert sorted(labels.tolist()) == ours.labels.tolist()
    assert len(set(labels[:50].tolist())) == len(set(labels[50:].tolist())) == 1  # sorted by class
    classes_of_all = np.repeat(np.arange(digits_images.family.classes), digits_images.ranges.sizes)
    stored = digits_images.dataset(np.arange(len(classes_of_all)), 10, classes_of_all)
    known = {row.numpy().tobytes(): int(c) for row, c in zip(stored.images.flatten(1), stored.labels, strict=True)}
    classes = [known[row.numpy().tobytes()] for row in task.flatten(1)]  # to the last bit, ours normalised
    assert set(classes) <= set(digits_images.split.training)
    assert len({(c, int(y)) for c, y in zip(classes, labels, strict=True)}) == 2
