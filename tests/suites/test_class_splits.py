"""Unseen groups: any class split, few class tuples in turn, and the class ids of each group."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from pudnet_bench.suites.class_splits import SplitImages, class_pool, enumerates_tuples
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import ClassSplit, FamilyImages
from pudnet_bench.suites.sources.content import Source

CPU = torch.device("cpu")
SMALL = Family("small", "Small-set", "small", 6, 4, 2, 20, 2, 100)
MANY = Family("many", "Many-set", "many", 6, 20, 5, 50, 2, 100)
HALVES = Family("halves", "Halves", "small", 0, 10, 10, 0, 0, 0)


def source(classes: int, per_class: int = 30) -> Source:
    """Images whose every pixel is the class, so that a group's images say which classes they are of."""
    labels = np.repeat(np.arange(classes), per_class)
    images = np.broadcast_to(labels[:, None, None, None], (len(labels), 1, 4, 4)).astype(np.uint8)
    return Source("small", images, labels, tuple(f"class {c}" for c in range(classes)), "0")


@given(unseen=st.integers(2, 9), ways=st.integers(2, 4), seed=st.integers(0, 5), turn=st.integers(0, 3))
def test_few_class_tuples_are_enumerated_equally_often(unseen: int, ways: int, seed: int, turn: int) -> None:
    assume(ways <= unseen)
    family = Family("few", "Few-set", "small", 6, unseen, ways, 10 * ways, 2, 100)
    tuples = math.comb(unseen, ways)
    assume(tuples <= 100)
    assert enumerates_tuples(family)
    pools = [class_pool(family, tuple(range(unseen)), seed, turn * tuples + i) for i in range(tuples)]
    assert len({frozenset(pool) for pool in pools}) == tuples
    assert all(len(set(pool)) == ways for pool in pools)


def test_the_order_of_tuples_and_of_the_labels_in_each_is_random() -> None:
    images = SplitImages(SMALL, source(10), CPU)
    groups = [images.unseen(0, index).classes for index in range(1200)]
    assert stats.chisquare(list(Counter(groups).values())).pvalue > 1e-3
    assert len(Counter(groups)) == 12
    assert stats.chisquare(list(Counter(frozenset(group) for group in groups[::6]).values())).pvalue > 1e-3


def test_of_many_class_tuples_each_group_draws_one_as_it_always_did() -> None:
    assert not enumerates_tuples(FAMILIES["cifar100"])
    images = source(26)
    ours, before = SplitImages(MANY, images, CPU), FamilyImages(MANY, images, CPU)
    for index in range(5):
        group, expected = ours.unseen(3, index), before.group("unseen", 3, index)
        assert torch.equal(group.fit.images, expected.fit.images)
        assert torch.equal(group.test.images, expected.test.images)


@pytest.mark.parametrize("family", [SMALL, MANY, HALVES], ids=lambda family: family.name)
def test_class_ids_are_those_of_the_images_by_label(family: Family) -> None:
    images = SplitImages(family, source(family.classes), CPU)
    for index in range(10):
        group = images.unseen(1, index)
        assert len(set(group.classes)) == family.ways
        assert set(group.classes) <= set(images.split.unseen)
        for part in (group.fit, group.test):
            pixels = (part.images * images.std + images.mean)[:, 0, 0, 0].round().long()
            assert torch.equal(pixels, torch.tensor(group.classes)[part.labels])


@given(seed=st.integers(0, 2), index=st.integers(0, 10**9))
def test_an_unseen_group_is_a_pure_function(seed: int, index: int) -> None:
    one, other = (SplitImages(SMALL, source(10), CPU).of_split(2, source(10)) for _ in range(2))
    other.unseen(seed, index + 1)
    first, second = one.unseen(seed, index), other.group("unseen", seed, index)
    assert torch.equal(first.fit.images, second.fit.images)
    assert first.classes == getattr(second, "classes", ())


def test_split_0_is_what_methods_always_trained_on() -> None:
    small = source(10)
    images, before = SplitImages(SMALL, small, CPU).of_split(0, small), FamilyImages(SMALL, small, CPU)
    assert images.split == before.split
    assert torch.equal(images.mean, before.mean)
    for split in ("search", "validation", "training"):
        group, expected = images.group(split, 0, 7), before.group(split, 0, 7)
        assert torch.equal(group.fit.images, expected.fit.images)


def test_another_class_split_changes_the_classes_and_the_normalisation() -> None:
    images, small = SplitImages(SMALL, source(10), CPU), source(10)
    for seed in (1, 2):
        other = images.of_split(seed, small)
        assert other.split == ClassSplit.of(SMALL, seed)
        assert other.images.data_ptr() == images.images.data_ptr()
        assert other.mean.item() == pytest.approx(np.mean(other.split.training))
        assert other.fold(1).split == ClassSplit.of(SMALL, seed, 1)
        assert images.of_split(seed, small, trained_on=images).mean is images.mean
    assert images.split == ClassSplit.of(SMALL)
