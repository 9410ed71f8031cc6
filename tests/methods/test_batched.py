"""Several groups at once come to what each comes to alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch

from pudnet_bench.methods import batched
from pudnet_bench.methods.base import Dataset, MethodError, Snapshot, TargetSpec
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.pudnet.losses import Losses
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.scratch import Adam, Scratch
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

CONVNET, RESNET = TargetSpec("convnet3", (1, 8, 8)), TargetSpec("resnet18", (3, 8, 8))
SEEDS = (11, 12)


@pytest.fixture
def double() -> Iterator[None]:
    """Float64 throughout, where the order of sums hardly matters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_double(dataset: Dataset) -> Dataset:
    return replace(dataset, images=dataset.images.double())


def share_right(snapshot: Snapshot, test: Dataset) -> float:
    return float((snapshot.classifier(test.images).argmax(-1) == test.labels).double().mean())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("method", "target", "per_class"), [(Adam, CONVNET, 18), (GC, CONVNET, 18), (Adam, RESNET, 4)])
def test_parameters_statistics_and_logits_are_those_of_one_group_after_another(
    method: type[Scratch], target: TargetSpec, per_class: int, make_dataset
) -> None:
    datasets = [in_double(make_dataset(seed, target.image_shape, per_class=per_class)) for seed in SEEDS]
    trainer = method(target, 0, epochs=(1, 2), batch_size=7)  # the last batch of an epoch has one image
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = [
        [(s.name, s.epochs, {k: v.clone() for k, v in s.network.state_dict().items()}, s.classifier(d.images))
         for s, d in zip(snapshots, datasets, strict=True)]
        for snapshots in batched.fit(trainer, datasets, SEEDS)
    ]  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    for place, (seed, dataset) in enumerate(zip(SEEDS, datasets, strict=True)):
        torch.manual_seed(seed)
        for snapshots, alone in zip(together, trainer.fit(dataset), strict=True):
            name, epochs, state, logits = snapshots[place]
            assert (name, epochs) == (alone.name, alone.epochs)
            for key, value in alone.network.state_dict().items():
                torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-8, msg=key)
            torch.testing.assert_close(logits, alone.classifier(dataset.images), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(together[0][0][3], together[0][1][3])


@pytest.mark.parametrize("method", [Adam, GC])
def test_accuracies_of_digits_are_those_of_one_group_after_another(method: type[Scratch], digits: FamilyImages) -> None:
    groups = [digits.group("unseen", 0, index) for index in range(4)]
    trainer = method(CONVNET, 0, epochs=(1, 5))
    together = [
        [share_right(s, group.test) for s, group in zip(snapshots, groups, strict=True)]
        for snapshots in batched.fit(trainer, [group.fit for group in groups], range(4))
    ]
    alone = []
    for seed, group in enumerate(groups):
        torch.manual_seed(seed)
        alone.append([share_right(snapshot, group.test) for snapshot in trainer.fit(group.fit)])
    difference = torch.tensor(together).T - torch.tensor(alone)
    assert float(torch.tensor(together[-1]).mean()) > 0.9
    assert float(difference.abs().max()) <= 0.03


def test_groups_that_differ_in_size_and_the_plain_loop_are_refused(make_dataset) -> None:
    datasets = [make_dataset(0, (1, 8, 8)), make_dataset(1, (1, 8, 8), per_class=16)]
    with pytest.raises(MethodError, match="equal numbers of images and of classes"):
        next(batched.fit(Adam(CONVNET, 0), datasets, (0, 1)))
    with pytest.raises(MethodError, match="adam with loop=dataloader trains one group at a time"):
        next(batched.fit(Adam(CONVNET, 0, loop="dataloader"), datasets[:1], (0,)))


@pytest.mark.parametrize(("name", "noise"), [("convnet3", 1e-3), ("resnet18", 0.03)])
def test_gradients_of_meta_training_are_those_of_one_episode_after_another(
    name: str, noise: float, digits: FamilyImages
) -> None:
    """``noise``: PudNet keeps sums in float32, whose rounding twenty layers of BatchNorm enlarge."""
    torch.manual_seed(0)
    method = PudNet(TargetSpec(name, (1, 8, 8)), 6)
    method.modules.train()
    episodes = list(islice(TrainingStream(digits, 0, queries_per_group=20).episodes(), 3))
    statistics = [buffer.clone() for buffer in method.network.buffers()]

    def gradients(losses: list[Losses]) -> list[torch.Tensor]:
        method.modules.zero_grad()
        torch.stack([parts.total for parts in losses]).mean().backward()
        return [parameter.grad.clone() for parameter in method.modules.parameters()]

    together = gradients(batched.episode_losses(method, episodes))
    assert all(torch.equal(*pair) for pair in zip(method.network.buffers(), statistics, strict=True))
    alone = gradients([method.episode_losses(episode) for episode in episodes])
    for ours, theirs in zip(together, alone, strict=True):
        assert float(theirs.norm()) > 0
        assert float((ours - theirs).norm()) <= noise * float(theirs.norm())
