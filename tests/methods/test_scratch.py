"""Where training from scratch begins, and its two loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from pudnet_bench.methods.base import Dataset, MethodError, TargetSpec
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.scratch import Adam, Scratch

TARGET = TargetSpec("convnet3", (1, 8, 8))
DATASET = Dataset(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), 2)


def start(method: Adam) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in method.fitted_network(DATASET).parameters()])


def test_every_fit_begins_with_a_network_of_its_own() -> None:
    torch.manual_seed(0)
    method = Adam(TARGET, 0)
    assert not torch.equal(start(method), start(method))


def test_with_an_initial_seed_all_begin_with_the_same_and_draw_the_same_afterwards() -> None:
    torch.manual_seed(0)
    method = Adam(TARGET, 0, initial_seed=3)
    before = torch.get_rng_state()
    first = start(method)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(start(method), first)
    assert not torch.equal(start(Adam(TARGET, 0, initial_seed=4)), first)


def test_the_snapshot_shows_the_trained_network() -> None:
    torch.manual_seed(0)
    method = Adam(TARGET, 0, epochs=(1,), initial_seed=3)
    images = torch.randn(40, 1, 8, 8)
    (snapshot,) = method.fit(Dataset(images, torch.arange(40) % 2, 2))
    assert snapshot.network is not None
    trained = torch.cat([parameter.flatten() for parameter in snapshot.network.parameters()])
    assert trained.shape == start(method).shape
    assert not torch.equal(trained, start(method))


def test_a_dataset_of_at_most_so_many_images_keeps_the_shares_of_its_classes() -> None:
    labels = torch.arange(4).repeat_interleave(30)
    dataset = Dataset(torch.arange(120.0).view(-1, 1, 1, 1), labels, 4)
    assert dataset.at_most(120) is dataset
    fewer = dataset.at_most(50)
    assert len(fewer) == 40
    assert torch.bincount(fewer.labels).tolist() == [10] * 4
    assert (fewer.images.flatten().long() // 30 == fewer.labels).all()


@pytest.mark.parametrize("method", [Adam, GC])
def test_the_plain_loop_learns_what_training_at_its_best_learns(method: type[Scratch], make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8), per_class=24)
    accuracies = []
    for loop in ("device", "dataloader"):
        torch.manual_seed(0)
        *_, snapshot = method(TARGET, 0, epochs=(1, 6), loop=loop).fit(dataset)
        accuracies.append(float((snapshot.classifier(dataset.images).argmax(-1) == dataset.labels).float().mean()))
    assert min(accuracies) > 0.95


def test_an_epoch_of_the_plain_loop_is_every_image_once_in_an_order_of_the_groups_seed(make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8), per_class=20)
    method = Adam(TARGET, 0, loop="dataloader")

    def epoch(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        batches = list(next(method._loaded(dataset)))
        assert [len(labels) for _, labels in batches] == [32, 8]
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        places = torch.cdist(images.flatten(1), dataset.images.flatten(1)).argmin(1)
        assert torch.equal(dataset.labels[places], labels)
        assert torch.equal(places.sort().values, torch.arange(40))
        return places

    assert torch.equal(epoch(0), epoch(0))
    assert not torch.equal(epoch(0), epoch(1))


def test_the_plain_loop_computes_in_float32_whatever_the_harness_chose(make_dataset) -> None:
    dataset = make_dataset(0, (1, 8, 8))

    def logits(loop: str, precision: Callable[[], Any]) -> torch.Tensor:
        torch.manual_seed(0)
        method = Adam(TARGET, 0, epochs=(1,), loop=loop)
        method.autocast = precision
        (snapshot,) = method.fit(dataset)
        return snapshot.classifier(dataset.images)

    bfloat16 = partial(torch.autocast, "cpu", torch.bfloat16)
    assert torch.equal(logits("dataloader", bfloat16), logits("dataloader", nullcontext))
    assert not torch.equal(logits("device", bfloat16), logits("device", nullcontext))


def test_another_loop_is_refused() -> None:
    with pytest.raises(MethodError, match="adam's loop is device, dataloader or graph, not 'fast'"):
        Adam(TARGET, 0, loop="fast")
