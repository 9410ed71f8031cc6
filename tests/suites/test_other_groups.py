"""The other group that a control is shown has other classes, as far as there are some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.other_groups import other_group
from pudnet_bench.suites.sources.loading import Source, load


@pytest.fixture(scope="module")
def source(cache_dir: Path) -> Source:
    return load("digits", data_dir=None, cache_dir=cache_dir)


@pytest.mark.parametrize(("ways", "unseen", "shared"), [(2, 4, 0), (3, 4, 2), (2, 3, 1)])
def test_it_shares_as_few_classes_as_possible(ways: int, unseen: int, shared: int, source: Source) -> None:
    family = replace(FAMILIES["digits"], ways=ways, unseen_classes=unseen, training_classes=10 - unseen, images=60)
    images = SplitImages(family, source, torch.device("cpu"))
    for split in (images, images.of_split(3, source)):
        for index in range(20):
            group = split.unseen(1, index)
            other = other_group(split, 1, group)
            assert other.index > index
            assert len({*group.classes} & {*other.classes}) <= shared
            assert {*group.classes} != {*other.classes}
            assert {*other.classes} <= {*split.split.unseen}
            again = other_group(split, 1, group)
            assert (again.index, again.classes) == (other.index, other.classes)


def test_the_only_class_tuple_is_followed_by_its_next_group(source: Source) -> None:
    images = SplitImages(FAMILIES["digits-4"], source, torch.device("cpu"))
    group = images.unseen(0, 5)
    assert other_group(images, 0, group).index == 6
