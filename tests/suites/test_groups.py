"""Groups: pure functions of (family, split, seed, index), with the right classes and disjoint images."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pudnet_bench.methods.base import Dataset
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.groups import (
    SPLITS,
    ClassRanges,
    ClassSplit,
    FamilyImages,
    Split,
    TrainingStream,
    draw_group,
    draw_halves,
)
from pudnet_bench.suites.sources.content import Source

CPU = torch.device("cpu")
SMALL = Family("small", "Small-set", "small", 6, 4, 2, 20, 2, 100)


def source(per_class: int | list[int] = 30, channels: int = 3, size: int = 4, classes: int = 10) -> Source:
    """Every image carries its class in its first pixel, and a number of its own in the next two."""
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), channels, size, size), dtype=np.uint8)
    images[:, 0, 0, 0] = 20 * labels
    images[:, 0, 0, 1], images[:, 0, 0, 2] = np.divmod(np.arange(len(labels)), 256)
    return Source("small", images, labels, tuple(f"class {c}" for c in range(len(counts))), "fingerprint")


@pytest.fixture(scope="module")
def images() -> FamilyImages:
    return FamilyImages(SMALL, source(), CPU)


def pixels(images: FamilyImages, dataset: Dataset) -> np.ndarray:
    """The dataset's images as they were before normalisation, uint8."""
    return (dataset.images * images.std + images.mean).round().to(torch.uint8).numpy()


def classes_of(images: FamilyImages, dataset: Dataset) -> list[int]:
    """Source class of every image, read from its own pixels."""
    return (pixels(images, dataset)[:, 0, 0, 0] // 20).tolist()


def numbers_of(images: FamilyImages, dataset: Dataset) -> list[int]:
    """Position in the source of every image, read from its own pixels."""
    shown = pixels(images, dataset).astype(int)
    return (shown[:, 0, 0, 1] * 256 + shown[:, 0, 0, 2]).tolist()


@st.composite
def families(draw: st.DrawFn) -> Family:
    ways = draw(st.integers(1, 5))
    search, validation, unseen = (draw(st.integers(ways, 12)) for _ in range(3))
    k = draw(st.integers(1, 8))
    return Family("any", "Any", "any", search + validation, unseen, ways, k * ways, validation, 10)


# --- the class split ---


@given(families(), st.integers(0, 1000))
def test_a_split_partitions_the_classes(family: Family, seed: int) -> None:
    split = ClassSplit.of(family, seed)
    assert sorted(split.search + split.validation + split.unseen) == list(range(family.classes))
    assert split.training == split.search + split.validation
    sizes = len(split.training), len(split.validation), len(split.unseen)
    assert sizes == (family.training_classes, family.validation_classes, family.unseen_classes)
    assert ClassSplit.of(family, seed) == split


def test_another_seed_is_another_split_and_the_split_is_not_the_order_of_the_classes() -> None:
    family = FAMILIES["cifar100"]
    splits = {ClassSplit.of(family, seed).unseen for seed in range(5)}
    assert len(splits) == 5
    assert set(ClassSplit.of(family).unseen) != set(range(80, 100))


@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_the_default_split_never_moves(name: str) -> None:
    """Results depend on it, and numpy promises the same permutation for a seed only within one version."""
    assert ClassSplit.of(FAMILIES[name]) == ClassSplit((4, 6, 2, 7), (3, 5), (9, 0, 8, 1))


# --- drawing ---


@given(families(), st.sampled_from(SPLITS), st.integers(0, 2**40), st.integers(0, 2**40), st.data())
@settings(deadline=None)
def test_a_group_has_the_right_classes_and_disjoint_images(family, split: Split, seed, index, data) -> None:
    k = family.images_per_class
    counts = data.draw(st.lists(st.integers(2 * k, 2 * k + 9), min_size=family.classes, max_size=family.classes))
    ranges = ClassRanges.of(np.repeat(np.arange(family.classes), counts))
    classes = getattr(ClassSplit.of(family), split)
    drawn = draw_group(family, classes, ranges, split, seed, index)
    assert len(set(drawn.classes.tolist())) == family.ways
    assert drawn.fit.shape == drawn.test.shape == (family.ways, k)
    positions = np.concatenate((drawn.fit, drawn.test), 1)
    assert len(np.unique(positions)) == positions.size
    for place, row in zip(drawn.classes, positions, strict=True):
        start = sum(counts[: classes[place]])
        assert (start <= row).all()
        assert (row < start + counts[classes[place]]).all()
    again = draw_group(family, classes, ranges, split, seed, index)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_groups_are_the_same_in_any_order_and_all_different() -> None:
    ranges = ClassRanges.of(source().labels)
    keys = [(split, seed, index) for split in SPLITS for seed in range(3) for index in range(20)]

    def draw(split: Split, seed: int, index: int) -> bytes:
        drawn = draw_group(SMALL, (0, 1, 2, 3), ranges, split, seed, index)
        return np.concatenate((drawn.fit, drawn.test)).tobytes()

    forwards = {key: draw(*key) for key in keys}
    backwards = {key: draw(*key) for key in reversed(keys)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(keys)


def test_all_classes_and_all_images_are_drawn_equally_often() -> None:
    family, ranges = FAMILIES["cifar100"], ClassRanges.of(np.repeat(np.arange(100), 600))
    classes = ClassSplit.of(family).training
    groups = [draw_group(family, classes, ranges, "training", 0, index) for index in range(1000)]
    per_class = np.bincount(np.concatenate([g.classes for g in groups]), minlength=80)
    assert stats.chisquare(per_class).pvalue > 1e-3
    within = np.concatenate([(g.fit % 600).reshape(-1) for g in groups])  # image number within its class
    assert stats.chisquare(np.bincount(within, minlength=600)).pvalue > 1e-3
    # Fit and test halves and places within a group are alike, too.
    assert stats.chisquare(np.bincount([g.classes[0] for g in groups], minlength=80)).pvalue > 1e-3
    assert stats.chisquare(np.bincount([g.test[0, 0] % 600 // 60 for g in groups], minlength=10)).pvalue > 1e-3


# --- images ---


@pytest.mark.parametrize("split", SPLITS)
def test_a_groups_images_are_of_the_splits_classes_and_labelled_by_them(split: Split, images: FamilyImages) -> None:
    allowed = set(getattr(images.split, split))
    for index in range(20):
        group = images.group(split, 0, index)
        named: dict[int, int] = {}
        for dataset in (group.fit, group.test):
            assert torch.bincount(dataset.labels).tolist() == [10, 10]
            for label, c in zip(dataset.labels.tolist(), classes_of(images, dataset), strict=True):
                assert named.setdefault(label, c) == c
        assert len(set(named.values())) == 2
        assert set(named.values()) <= allowed
        assert not set(numbers_of(images, group.fit)) & set(numbers_of(images, group.test))
        assert group.index == index


def test_images_of_one_channel_have_the_strides_of_channels_last_too() -> None:
    """Convolutions choose their memory format by strides, also where both formats hold the same bytes."""
    group = FamilyImages(SMALL, source(channels=1), CPU).group("unseen", 0, 0)
    assert group.fit.images.stride() == (16, 1, 4, 1)


def test_images_are_kept_as_bytes_and_handed_out_normalised(images: FamilyImages) -> None:
    assert images.images.dtype == torch.uint8
    group = images.group("unseen", 0, 0)
    for dataset in (group.fit, group.test):
        assert dataset.images.dtype == torch.float32
        assert dataset.images.is_contiguous(memory_format=torch.channels_last)
        assert dataset.labels.dtype == torch.int64
        assert (len(dataset), dataset.n_classes) == (20, 2)
    whole = source()
    raw = whole.images[numbers_of(images, group.fit)].astype(np.float64)
    training = whole.images[np.isin(whole.labels, images.split.training)].astype(np.float64)
    mean, std = training.mean((0, 2, 3), keepdims=True), training.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(group.fit.images.numpy(), (raw - mean) / std, rtol=1e-3, atol=1e-3)


def test_normalisation_sees_training_classes_only(images: FamilyImages) -> None:
    for split, same in (("unseen", True), ("validation", False), ("search", False)):
        changed = source()
        changed.images[np.isin(changed.labels, getattr(images.split, split)), :, 1:] = 255
        others = FamilyImages(SMALL, changed, CPU)
        assert torch.equal(others.mean, images.mean) == same
        assert torch.equal(others.std, images.std) == same


def test_normalisation_of_many_images_takes_a_sample_of_all_training_classes() -> None:
    many = source(per_class=2500, channels=1, size=3)
    exact = many.images[np.isin(many.labels, ClassSplit.of(SMALL).training)].astype(float)
    found = FamilyImages(SMALL, many, CPU)
    assert float(found.mean) == pytest.approx(exact.mean(), rel=0.02)
    assert float(found.std) == pytest.approx(exact.std(), rel=0.02)


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    flat = source()
    flat.images[:, 1] = 7
    values = FamilyImages(SMALL, flat, CPU).group("unseen", 0, 0).fit.images
    assert torch.isfinite(values).all()
    assert (values[:, 1] == 0).all()


def test_a_source_with_other_classes_than_the_family_is_refused() -> None:
    with pytest.raises(FamilyError, match="'small' needs 10 classes, and source 'small' has 9"):
        FamilyImages(SMALL, source(classes=9), CPU)


def test_a_class_with_too_few_images_is_named() -> None:
    counts = [30] * 10
    counts[7] = 19
    with pytest.raises(FamilyError, match=r"class 'class 7' of source 'small' has 19 images.* needs 20"):
        FamilyImages(SMALL, source(counts), CPU)
    counts[7] = 20
    assert FamilyImages(SMALL, source(counts), CPU).ranges.sizes[7] == 20


# --- other shapes of family ---


@given(st.lists(st.integers(20, 60), min_size=10, max_size=10), st.integers(0, 2**32), st.integers(0, 10**6))
def test_halves_take_every_image_of_the_classes_once(counts: list[int], seed: int, index: int) -> None:
    family = Family("halves", "Halves", "small", 6, 4, 4, 0, 2, 0)
    ranges, unseen = ClassRanges.of(np.repeat(np.arange(10), counts)), ClassSplit.of(family).unseen
    fit, test = draw_halves(family, unseen, ranges, "unseen", seed, index)
    assert [len(t) - len(f) for f, t in zip(fit, test, strict=True)] == [
        sum(len(part) for part in pair) % 2 for pair in zip(fit, test, strict=True)
    ]
    drawn = [np.sort(np.concatenate(pair)) for pair in zip(fit, test, strict=True)]
    every = [np.arange(ranges.starts[c], ranges.starts[c] + counts[c]) for c in unseen]
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, every))
    again = draw_halves(family, unseen, ranges, "unseen", seed, index)
    assert all((a == b).all() for a, b in zip(fit + test, again[0] + again[1], strict=True))
    other, _ = draw_halves(family, unseen, ranges, "unseen", seed, index + 1)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(fit, other, strict=True))


def test_a_group_of_halves_has_classes_of_different_sizes() -> None:
    counts = [30, 21, 40, 25, 33, 30, 30, 30, 30, 30]
    halves = FamilyImages(Family("halves", "Halves", "small", 0, 10, 10, 0, 0, 0), source(counts), CPU)
    group = halves.group("unseen", 0, 3)
    assert group.fit.n_classes == group.test.n_classes == 10
    fit, test = numbers_of(halves, group.fit), numbers_of(halves, group.test)
    assert sorted(fit + test) == list(range(sum(counts)))
    for dataset in (group.fit, group.test):  # a label is one class, whatever its number
        pairs = set(zip(dataset.labels.tolist(), classes_of(halves, dataset), strict=True))
        assert len(pairs) == 10
    with pytest.raises(FamilyError, match=r"class 'class 1' .*has 19 images.* needs 20 \(10 to fit and 10 to test\)"):
        FamilyImages(halves.family, source([30, 19] + [30] * 8), CPU)


def test_images_of_another_source_are_normalised_as_those_trained_on(images: FamilyImages) -> None:
    family = Family("other", "Other", "small", 0, 10, 10, 0, 0, 0, trained_on="small")
    darker = replace(source(), images=source().images // 2)
    other = FamilyImages(family, darker, CPU, images)
    assert torch.equal(other.mean, images.mean)
    assert torch.equal(other.std, images.std)
    assert not torch.equal(FamilyImages(family, darker, CPU).mean, images.mean)


def test_unused_classes_are_in_no_split_and_change_no_unseen_group(images: FamilyImages) -> None:
    fewer = FamilyImages(replace(SMALL, training_classes=4, unused_classes=2), source(), CPU)
    assert fewer.split.unseen == images.split.unseen
    assert fewer.split.training == images.split.training[:4]
    one, other = (found.group("unseen", 1, 7) for found in (fewer, images))
    assert numbers_of(fewer, one.fit) == numbers_of(images, other.fit)
    assert numbers_of(fewer, one.test) == numbers_of(images, other.test)
    seen = {c for e in islice(TrainingStream(fewer, 0).episodes(), 40) for c in classes_of(fewer, e.fit)}
    assert seen == set(fewer.split.training)


# --- the training stream ---


@pytest.mark.parametrize("validation", [0, 3])
def test_episodes_are_groups_cut_into_support_and_queries(validation: int, images: FamilyImages) -> None:
    stream = TrainingStream(images, seed=5, validation=validation, support_per_class=4, queries_per_group=10)
    assert (stream.support_per_class, stream.queries_per_group) == (4, 10)
    split: Split = "search" if validation else "training"
    classes = getattr(images.split, split)
    for index, episode in enumerate(islice(stream.episodes(), 15)):
        assert episode.index == index
        assert torch.bincount(episode.support.labels).tolist() == [4, 4]
        assert torch.bincount(episode.query.labels).tolist() == [5, 5]
        support, query = (set(numbers_of(images, d)) for d in (episode.support, episode.query))
        fit = set(numbers_of(images, episode.fit))
        assert not support & query
        assert support | query <= fit
        assert fit == set(numbers_of(images, images.group(split, 5, index).fit))
        for dataset, ids in (
            (episode.support, episode.classes[episode.support.labels]),
            (episode.query, episode.global_labels),
        ):
            assert [images.split.training[i] for i in ids.tolist()] == classes_of(images, dataset)
        assert set(classes_of(images, episode.fit)) <= set(classes)


def test_episodes_repeat_themselves_and_depend_on_the_seed(images: FamilyImages) -> None:
    def numbers(seed: int) -> list[list[int]]:
        return [numbers_of(images, e.fit) for e in islice(TrainingStream(images, seed).episodes(), 5)]

    assert numbers(0) == numbers(0)
    assert numbers(0) != numbers(1)
    stream = TrainingStream(images, 0)
    episodes = list(islice(stream.episodes(), 5))  # asked for late, an episode still gives its own images
    assert [numbers_of(images, e.fit) for e in episodes] == numbers(0)


@given(st.integers(1, 20), st.integers(2, 200), st.integers(2, 40))
@settings(deadline=None)
def test_support_and_queries_never_exceed_the_group(support: int, queries: int, per_class: int) -> None:
    family = replace(SMALL, images=2 * per_class)
    stream = TrainingStream(FamilyImages(family, source(2 * per_class, 1, 3), CPU), 0, 0, support, queries)
    episode = next(stream.episodes())
    assert 1 <= stream.support_per_class <= support
    assert len(episode.support) == 2 * stream.support_per_class
    assert len(episode.query) == stream.queries_per_group
    assert 2 <= stream.queries_per_group <= queries
    assert len(episode.support) + len(episode.query) <= len(episode.fit) == 2 * per_class


@pytest.mark.parametrize("validation", [0, 3])
def test_batches_draw_from_all_classes_in_training_with_global_labels(validation: int, images: FamilyImages) -> None:
    stream = TrainingStream(images, seed=1, validation=validation)
    batches = list(islice(stream.batches(64), 40))
    seen = set()
    for batch in batches:
        assert (len(batch), batch.n_classes) == (64, SMALL.training_classes)
        classes = classes_of(images, batch)
        assert classes == [images.split.training[label] for label in batch.labels.tolist()]
        seen |= set(classes)
    assert seen == set(images.split.search if validation else images.split.training)
    numbers = [numbers_of(images, batch) for batch in batches]
    assert len({tuple(n) for n in numbers}) == 40
    assert numbers == [numbers_of(images, batch) for batch in islice(stream.batches(64), 40)]
    images_seen = {number for batch in numbers for number in batch}
    assert len(images_seen) == 30 * len(seen)  # every image has its turn


def test_validation_groups_are_fixed_and_of_held_out_classes(images: FamilyImages) -> None:
    stream = TrainingStream(images, seed=1, validation=4)
    groups = list(stream.validation_groups())
    assert [group.index for group in groups] == [0, 1, 2, 3]
    for group, again in zip(groups, stream.validation_groups(), strict=True):
        assert set(classes_of(images, group.fit)) <= set(images.split.validation)
        assert torch.equal(group.fit.images, again.fit.images)
    assert list(TrainingStream(images, seed=1).validation_groups()) == []


@pytest.mark.parametrize("name", ["fashion", "cifar100"])
def test_the_folds_validation_classes_are_disjoint_training_classes(name: str) -> None:
    family = FAMILIES[name]
    whole = ClassSplit.of(family)
    folds = [ClassSplit.of(family, fold=fold) for fold in range(family.validation_folds)]
    assert folds[0] == whole
    for split in folds:
        assert split.unseen == whole.unseen
        assert sorted(split.training) == sorted(whole.training)
        assert len(split.validation) == family.validation_classes
    held_out = [c for split in folds for c in split.validation]
    assert len(set(held_out)) == len(held_out)


def test_a_group_can_have_fewer_test_images_than_fit_images() -> None:
    family, ranges = FAMILIES["cifar100-20"], ClassRanges.of(np.repeat(np.arange(100), 600))
    drawn = draw_group(family, ClassSplit.of(family).unseen, ranges, "unseen", 0, 3)
    assert (drawn.fit.shape, drawn.test.shape) == ((20, 500), (20, 100))
    assert not set(drawn.fit.flat) & set(drawn.test.flat)


# --- on a GPU ---


@pytest.mark.cuda
def test_groups_are_the_same_on_both_devices_bit_for_bit(cuda) -> None:
    on_cpu, on_gpu = (FamilyImages(SMALL, source(), device) for device in (CPU, cuda))

    def equal(one: Dataset, other: Dataset) -> bool:
        assert other.images.is_cuda
        assert other.images.stride() == one.images.stride()
        return torch.equal(one.images, other.images.cpu()) and torch.equal(one.labels, other.labels.cpu())

    assert torch.equal(on_cpu.images, on_gpu.images.cpu())  # uint8
    for split in SPLITS:
        for index in range(3):
            one, other = on_cpu.group(split, 0, index), on_gpu.group(split, 0, index)
            assert equal(one.fit, other.fit)
            assert equal(one.test, other.test)
    streams = (TrainingStream(images, 0, support_per_class=4) for images in (on_cpu, on_gpu))
    for one, other in zip(*(islice(stream.episodes(), 3) for stream in streams), strict=True):
        assert equal(one.support, other.support)
        assert equal(one.query, other.query)
        assert equal(one.fit, other.fit)
        assert torch.equal(one.global_labels, other.global_labels.cpu())
