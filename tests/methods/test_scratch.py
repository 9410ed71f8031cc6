"""Where training from scratch begins."""

from __future__ import annotations

import torch

from methods.base import Dataset, TargetSpec
from methods.scratch import Adam

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
