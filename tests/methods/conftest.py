"""Small data sets for the method tests: the real digits, and patterned images that differ from data set to data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pudnet_bench.methods.base import Dataset
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import load

MakeDataset = Callable[..., Dataset]


@pytest.fixture(scope="session")
def digits(cache_dir: Path) -> FamilyImages:
    """The digits family: 8x8 grey images, six training and four unseen classes."""
    return FamilyImages(FAMILIES["digits"], load("digits", data_dir=None, cache_dir=cache_dir), torch.device("cpu"))


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make(seed, shape, ways=2, per_class=15)`: each class is a blocky pattern of its own under noise."""

    def make(seed: int, shape: tuple[int, int, int], ways: int = 2, per_class: int = 15) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        channels, height, width = shape
        patterns = torch.randn(ways, channels, height // 4, width // 4, generator=generator)
        patterns = patterns.repeat_interleave(4, -1).repeat_interleave(4, -2)
        labels = torch.arange(ways).repeat_interleave(per_class)
        images = patterns[labels] + torch.randn(len(labels), *shape, generator=generator) / 2
        return Dataset(images.contiguous(memory_format=torch.channels_last), labels, ways)

    return make
