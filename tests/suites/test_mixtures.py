"""Mixtures: one source at a time, each with its own class split, and nothing of what is unseen or left out in training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES, PARTS, measured_for, sources_of
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.groups import TrainingStream
from pudnet_bench.suites.mixed_images import JoinedSource, MixedImages, MixedStream, in_colour
from pudnet_bench.suites.mixtures import members, mixture, names_mixture
from pudnet_bench.suites.other_groups import other_source_group
from pudnet_bench.suites.sources.content import Source

CPU = torch.device("cpu")
FEW = Family("few", "Few-set", "grey", 6, 4, 2, 20, 2, 100, validation_folds=3)
MANY = Family("many", "Many-set", "colour", 14, 6, 3, 30, 4, 100)
OTHER = Family("other", "Other-set", "other", 5, 4, 2, 20, 2, 100)
MIXED, MEASURED = mixture("both", "Both", [FEW, MANY], [OTHER], image_size=4)


def source(name: str, classes: int, channels: int, first: int) -> Source:
    """Images whose every pixel is `first` plus the class, so that an image says which class of which source it is of."""
    labels = np.repeat(np.arange(classes), 30)
    images = np.broadcast_to((labels + first)[:, None, None, None], (len(labels), channels, 4, 4)).astype(np.uint8)
    return Source(name, images, labels, tuple(f"class {c}" for c in range(classes)), name)


GREY, COLOUR = source("grey", 10, 1, 0), source("colour", 20, 3, 100)
JOINED = JoinedSource.of("both", [in_colour(GREY), in_colour(COLOUR)])


@pytest.fixture(scope="module")
def images() -> MixedImages:
    return MixedImages(MIXED, JOINED, CPU)


def classes_of(images: MixedImages, tensor: torch.Tensor) -> list[int]:
    """Which class each image of a gathered tensor [n, 3, 4, 4] is of: its value before normalisation."""
    values = (tensor * images.std + images.mean).mean((1, 2, 3)).round().long()
    return [value if value < 100 else value - 100 + 10 for value in values.tolist()]


def test_a_mixture_has_the_classes_of_its_parts_and_measures_each_and_what_is_left_out() -> None:
    assert (MIXED.training_classes, MIXED.unseen_classes, MIXED.classes) == (20, 10, 30)
    assert [family.name for family in MEASURED] == ["few.both", "many.both", "other.both"]
    assert {family.trained_on for family in MEASURED} == {"both"}
    assert (MEASURED[2].training_classes, MEASURED[2].unseen_classes) == (0, 9)
    assert MIXED.parts == MEASURED[:2]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("fold", [0, 1, 2])
def test_splits_are_those_of_the_parts(images: MixedImages, seed: int, fold: int) -> None:
    split = images.of_split(seed, JOINED).fold(fold)
    for part, family, each, first in zip(split.parts, MEASURED, (GREY, COLOUR), (0, 10), strict=False):
        alone = SplitImages(replace(family, trained_on=""), in_colour(each), CPU).of_split(seed, each).fold(fold)
        for name in ("search", "validation", "unseen"):
            ids = [first + c for c in getattr(alone.split, name)]
            assert getattr(part.split, name) == getattr(alone.split, name)
            assert [c for c in getattr(split.split, name) if c in range(first, first + family.classes)] == ids
    parts = [set(getattr(split.split, name)) for name in ("search", "validation", "unseen")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30


@given(split=st.sampled_from(["search", "validation", "training", "unseen"]), index=st.integers(0, 400))
def test_group_k_is_of_part_k_and_of_its_classes_only(split: str, index: int) -> None:
    images = MixedImages(MIXED, JOINED, CPU)
    group = images.group(split, 1, index)  # type: ignore[arg-type]
    part = images.parts[index % 2]
    assert (group.index, group.fit.n_classes) == (index, part.family.ways)
    alone = part.group(split, 1, index // 2)  # type: ignore[arg-type]
    assert torch.equal(group.fit.images, alone.fit.images)
    assert torch.equal(group.test.labels, alone.test.labels)
    assert set(classes_of(images, group.fit.images)) <= set(getattr(images.split, split))


def test_labels_are_places_among_all_training_classes_in_episodes_and_batches(images: MixedImages) -> None:
    for validation in (0, 4):
        stream = MixedStream(images, 2, validation)
        allowed = images.split.search if validation else images.split.training
        assert set(stream.classes) == set(allowed)
        episodes = stream.episodes()
        for number in range(12):
            episode = next(episodes)
            assert episode.index == number
            found = [images.split.training[place] for place in episode.global_labels]
            assert found == classes_of(images, episode.query.images)
            assert set(found) <= set(allowed)
            assert len(episode.fit) == images.parts[number % 2].family.images
        batch = next(stream.batches(60))
        assert (len(batch), batch.n_classes) == (60, 20)
        assert [images.split.training[place] for place in batch.labels] == classes_of(images, batch.images)
        assert set(classes_of(images, batch.images)) <= set(allowed)
        checks = list(stream.validation_groups())
        assert [group.index for group in checks] == list(range(validation))
        for group in checks:
            assert set(classes_of(images, group.test.images)) <= set(images.split.validation)


@given(first=st.integers(0, 30), stride=st.integers(1, 5))
def test_a_stream_can_be_entered_anywhere(first: int, stride: int) -> None:
    stream = MixedStream(MixedImages(MIXED, JOINED, CPU), 0)
    whole, part = stream.episodes(), stream.episodes(first, stride)
    expected = [next(whole) for _ in range(first + stride + 1)][first::stride]
    for one, other in zip(expected, part, strict=False):
        assert one.index == other.index
        assert torch.equal(one.query.images, other.query.images)
        assert torch.equal(one.classes, other.classes)
    batches, later = stream.batches(16), stream.batches(16, first)
    for _ in range(first):
        next(batches)
    assert torch.equal(next(batches).labels, next(later).labels)


def test_an_episode_is_that_of_the_part_alone(images: MixedImages) -> None:
    """But for the numbers of its classes: mixing changes which source comes when, and nothing within a source."""
    episodes = MixedStream(images, 5).episodes()
    for number in range(8):
        episode, part = next(episodes), images.parts[number % 2]
        alone = next(TrainingStream(part, 5).episodes(number // 2))
        assert torch.equal(episode.support.images, alone.support.images)
        assert torch.equal(episode.query.labels, alone.query.labels)


def test_batches_draw_sources_and_their_classes_uniformly(images: MixedImages) -> None:
    batch = next(MixedStream(images, 0).batches(8_000))
    counts = Counter(classes_of(images, batch.images))
    grey = [counts[c] for c in images.split.training if c < 10]
    colour = [counts[c] for c in images.split.training if c >= 10]
    assert stats.binomtest(sum(grey), 8_000).pvalue > 1e-3
    assert stats.chisquare(grey).pvalue > 1e-3
    assert stats.chisquare(colour).pvalue > 1e-3


def test_both_sources_weigh_the_same_in_the_normalisation(images: MixedImages) -> None:
    for seed in (0, 2):
        split = images.of_split(seed, JOINED)
        values = []
        for part, first in zip(split.parts, (0, 100), strict=True):
            values.append(np.array(part.split.training, float) + first)
        means, squares = ([np.mean(v**power) for v in values] for power in (1, 2))
        expected = np.sqrt(np.mean(squares) - np.mean(means) ** 2)
        np.testing.assert_allclose(split.mean.flatten(), np.mean(means), rtol=1e-3)
        np.testing.assert_allclose(split.std.flatten(), expected, rtol=2e-2)
        assert all(torch.equal(part.mean, split.mean) for part in split.parts)


def test_grey_images_are_repeated_without_a_copy() -> None:
    colour = in_colour(GREY)
    assert colour.images.shape == (300, 3, 4, 4)
    assert np.shares_memory(colour.images, GREY.images)
    assert colour.fingerprint != GREY.fingerprint
    assert in_colour(COLOUR) is COLOUR


def test_the_group_of_another_source_is_never_of_the_same(images: MixedImages) -> None:
    for family, other in (("few.both", 1), ("many.both", 0)):
        own = images.parts[1 - other].unseen(0, 7)
        found = other_source_group(images, family, 0, own)
        assert torch.equal(found.fit.images, images.parts[other].unseen(0, 7).fit.images)
    left_out = other_source_group(images, "other.both", 0, images.parts[0].unseen(0, 1))
    assert torch.equal(left_out.fit.images, images.parts[1].unseen(0, 1).fit.images)


def test_the_built_in_mixture() -> None:
    assert [part.source for part in FAMILIES["mixed"].parts] == ["fashion-mnist", "cifar-100", "mini-imagenet"]
    assert [family.name for family in measured_for("mixed")] == [family.name for family in PARTS["mixed"]]
    assert sources_of("mixed") == {"fashion-mnist", "cifar-100", "mini-imagenet", "animals-10"}
    assert sources_of("animals10") == {"animals-10", "cifar-100"}
    assert measured_for("fashion") == (FAMILIES["fashion"],)


def test_names_declare_mixtures_and_what_cannot_be_mixed_is_named() -> None:
    assert members("fashion+cifar100@animals10@mine") == (("fashion", "cifar100"), ("animals10", "mine"))
    assert names_mixture("fashion+cifar100")
    assert not names_mixture("fashion")
    with pytest.raises(FamilyError, match="at least two families"):
        mixture("one", "One", [FEW], [])
    for part in (FAMILIES["cifar10"], FAMILIES["cifar100-3000"]):
        with pytest.raises(FamilyError, match=f"'{part.name}' cannot be trained on"):
            mixture("bad", "Bad", [FEW, part], [])
