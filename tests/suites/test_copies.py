"""Images of equal pixels: found while a source is decoded, counted, and on one side of every split."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pudnet_bench.methods.base import Dataset
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.groups import (
    SPLITS,
    ClassRanges,
    ClassSplit,
    FamilyImages,
    TrainingStream,
    draw_group,
    draw_halves,
)
from pudnet_bench.suites.mixed_images import JoinedSource, MixedImages, MixedStream
from pudnet_bench.suites.mixtures import mixture
from pudnet_bench.suites.sources import SourceError
from pudnet_bench.suites.sources.copies import Copies, SourceWarning, hashes
from pudnet_bench.suites.sources.loading import Source, load, verify

CPU = torch.device("cpu")
SMALL = Family("small", "Small-set", "mine", 6, 4, 2, 20, 2, 100)
HALVES = Family("halves", "Halves", "mine", 0, 10, 10, 0, 0, 0)


def noise(seed: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def folder_of(root: Path, pixels: dict[str, list[int]]) -> Path:
    """An image folder; images of one number are equal."""
    for name, seeds in pixels.items():
        (root / name).mkdir(parents=True)
        for i, seed in enumerate(seeds):
            Image.fromarray(noise(seed)).save(root / name / f"{i:03}.png")
    return root


def ten_classes(images: int = 30) -> dict[str, list[int]]:
    """Ten classes; a third of the images of each are there twice, and neighbouring classes share two."""
    classes = {}
    for c in range(10):
        own = [1000 * (c + 1) + i for i in range(images)]
        shared = [10 + c, 10 + c, 10 + (c + 1) % 10]
        classes[f"class{c}"] = own + own[: images // 3] + shared
    return classes


def loaded(folder: Path, cache: Path, **options: bool) -> Source:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceWarning)
        return load("mine", data_dir=None, cache_dir=cache, folders={"mine": folder}, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("copies")
    return loaded(folder_of(root / "in", ten_classes()), root / "cache")


def seen(images: FamilyImages, *datasets: Dataset) -> set[bytes]:
    """What the images of datasets look like."""
    return {
        image.tobytes()
        for dataset in datasets
        for image in (dataset.images * images.std + images.mean).round().to(torch.uint8).numpy()
    }


# --- finding them ---


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=40))
@settings(deadline=None)
def test_copies_are_those_of_a_search_over_all_pairs(drawn: list[tuple[int, int]]) -> None:
    drawn.sort(key=lambda pair: pair[0])
    labels, pixels = np.array(drawn).T
    images = np.stack([noise(p) for p in pixels])
    copies = Copies.of(hashes(images))
    n = range(len(drawn))
    several = [i for i in n if any(pixels[i] == pixels[j] and labels[i] != labels[j] for j in n)]
    later = [i for i in n if i not in several and any(pixels[i] == pixels[j] for j in range(i))]
    assert copies.in_several_classes(labels).tolist() == several
    assert copies.in_one_class(labels).tolist() == later
    assert copies.left_out(labels).tolist() == sorted(several + later)


def test_copies_are_counted_by_kind_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"cat": [1, 2, 2, 3], "cow": [5, 5, 5, 7], "dog": [3, 4, 6]})
    with pytest.warns(SourceWarning) as caught:
        source = load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder})
    within, across = (str(warning.message) for warning in caught)
    assert within == (
        "3 of the 11 images of source 'mine' are copies of others of their class (cat/002.png is cat/001.png; cow/001.png "
        "is cow/000.png; ...): groups contain each image once; --allow-copies takes them all"
    )
    assert across == (
        "2 of the 11 images of source 'mine' are in several classes (dog/000.png is cat/003.png): groups contain none of "
        "them; --allow-copies takes them all"
    )
    assert source.left_out.tolist() == [2, 3, 5, 6, 8]
    assert source.class_sizes == {"cat": 2, "cow": 2, "dog": 2}
    assert len(source.images) == 11
    (folder / "cow" / "000.png").rename(folder / "cow" / "000a.png")  # the cache has this content already
    with pytest.warns(SourceWarning) as caught:
        verify("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder})
    assert "cat/002.png is cat/001.png; cow/001.png is cow/000a.png; ..." in str(caught[0].message)
    assert len(caught) == 2
    assert "allow-copies" not in str(caught[0].message)  # `data verify` takes no such option


def test_a_source_without_copies_says_nothing_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"cat": [1, 2], "dog": [3, 4]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strict, all_taken = (
            load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder}, allow_copies=allowed)
            for allowed in (False, True)
        )
    assert len(strict.left_out) == 0
    assert strict.fingerprint == all_taken.fingerprint


def test_allowed_copies_take_part_under_another_fingerprint(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", ten_classes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allowed = load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder}, allow_copies=True)
    strict = loaded(folder, tmp_path / "cache")
    assert allowed.fingerprint != strict.fingerprint
    assert sum(allowed.class_sizes.values()) == len(allowed.images) == 430
    assert sum(strict.class_sizes.values()) == 300
    images = FamilyImages(HALVES, allowed, CPU)
    group = images.group("unseen", 0, 0)
    assert len(group.fit) + len(group.test) == 430
    assert seen(images, group.fit) & seen(images, group.test)  # what allowing them means


def test_copies_are_remembered_by_the_cache(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", ten_classes())
    first, second = (loaded(folder, tmp_path / "cache") for _ in range(2))
    assert len(first.left_out) == 130
    np.testing.assert_array_equal(first.left_out, second.left_out)
    (cached,) = (tmp_path / "cache").glob("images-v*/mine-*/meta.json")
    cached.write_text(cached.read_text().replace('"positions": [', '"positions": [0, '))
    with pytest.warns(UserWarning, match=r"is damaged .*decoded again"):
        np.testing.assert_array_equal(loaded(folder, tmp_path / "cache").left_out, first.left_out)


# --- one side of every split ---


@pytest.mark.parametrize("family", [SMALL, HALVES], ids=lambda family: family.name)
def test_no_image_is_both_in_fit_and_in_test(family: Family, source: Source) -> None:
    images = SplitImages(family, source, CPU)
    for split in ("search", "validation", "training", "unseen") if family is SMALL else ("unseen",):
        for index in range(10):
            group = images.group(split, 0, index)
            fit, test = seen(images, group.fit), seen(images, group.test)
            assert not fit & test
            assert (len(fit), len(test)) == (len(group.fit), len(group.test))  # none is there twice


@pytest.mark.parametrize("validation", [0, 3])
def test_no_image_is_both_trained_on_and_unseen_nor_both_support_and_query(validation: int, source: Source) -> None:
    images = SplitImages(SMALL, source, CPU)
    stream = TrainingStream(images, 0, validation)
    trained_on: set[bytes] = set()
    for episode in islice(stream.episodes(), 30):
        assert not seen(images, episode.support) & seen(images, episode.query)
        trained_on |= seen(images, episode.fit)
    for batch in islice(stream.batches(64), 30):
        trained_on |= seen(images, batch)
    assert len(trained_on) == 30 * len(stream.classes)  # every image but those in several classes
    unseen = (images.unseen(0, index) for index in range(20))
    validating = stream.validation_groups()
    for group in (*unseen, *validating):
        assert not trained_on & seen(images, group.fit, group.test)


def test_batches_of_a_mixture_leave_out_what_groups_do(source: Source) -> None:
    part = Family("a", "A", "mine", 6, 4, 2, 20, 2, 100)
    mixed, _ = mixture("a+b", "Mixed", [part, part], [])
    images = MixedImages(mixed, JoinedSource.of("a+b", [source, source]), CPU)
    shown: set[bytes] = set()
    for batch in islice(MixedStream(images, 0).batches(64), 60):
        shown |= seen(images, batch)
    left_out = {image.tobytes() for image in source.images[source.copies.in_several_classes(source.labels)]}
    assert not shown & left_out
    assert len(shown) == 30 * 6


def test_images_in_several_classes_are_not_in_the_normalisation(source: Source) -> None:
    kept = np.delete(np.arange(len(source.labels)), source.left_out)
    split = ClassSplit.of(SMALL)
    training = source.images[kept[np.isin(source.labels[kept], split.training)]].astype(np.float64)
    np.testing.assert_allclose(FamilyImages(SMALL, source, CPU).mean.flatten(), training.mean((0, 2, 3)), rtol=1e-6)


# --- classes that get small ---


def few(counts: list[int], left_out: list[int]) -> Source:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    starts = np.cumsum(counts) - counts
    copies = np.concatenate([start + np.arange(1, 1 + n) for start, n in zip(starts, left_out, strict=True)])
    firsts = np.concatenate([np.full(n, start) for start, n in zip(starts, left_out, strict=True)])
    return Source("few", images, labels, tuple(f"class {c}" for c in range(len(counts))), "0", Copies(copies, firsts))


def test_where_copies_leave_too_few_images_a_group_has_fewer_test_images_of_each_class() -> None:
    family = Family("small", "Small-set", "few", 6, 4, 4, 80, 2, 100)  # 20 to fit, 20 to test
    left_out = [0] * 10
    last = ClassSplit.of(family).unseen[0]
    left_out[last] = 4
    group = SplitImages(family, few([40] * 10, left_out), CPU).unseen(0, 0)
    assert torch.bincount(group.fit.labels).tolist() == [20] * 4
    assert torch.bincount(group.test.labels).tolist() == [16] * 4
    group = SplitImages(family, few([41] * 10, left_out), CPU).unseen(0, 0)
    assert torch.bincount(group.test.labels).tolist() == [17] * 4


def test_a_class_that_copies_leave_too_small_is_named() -> None:
    family = Family("small", "Small-set", "few", 6, 4, 4, 80, 2, 100)
    said = r"class 'class 3' of source 'few' has 29 images \(without 11 that equal others\), and a group .* needs 40"
    with pytest.raises(FamilyError, match=said):
        FamilyImages(family, few([40] * 10, [0, 0, 0, 11, 0, 0, 0, 0, 0, 0]), CPU)
    assert FamilyImages(family, few([40] * 10, [0, 0, 0, 10, 0, 0, 0, 0, 0, 0]), CPU).ranges.sizes[3] == 30


# --- sources without copies ---


def test_groups_of_a_source_without_copies_never_move() -> None:
    """The digests were computed before copies were left out of groups: published results depend on these draws."""
    counts = [41 + (7 * c) % 23 for c in range(10)]
    labels = np.repeat(np.arange(10), counts)
    family, ranges = Family("small", "Small-set", "small", 6, 4, 2, 40, 2, 100), ClassRanges.of(labels)
    digest = blake2b(digest_size=16)
    for split in SPLITS:
        classes = getattr(ClassSplit.of(family, 3), split)
        for index in range(20):
            drawn = draw_group(family, classes, ranges, split, 5, index)
            halves = draw_halves(family, classes, ranges, split, 5, index)
            for part in (*drawn, *halves[0], *halves[1]):
                digest.update(part.astype("<i8").tobytes())
    assert digest.hexdigest() == "16bb5dcab39751c10101b7a30c24bd44"

    pixels = np.zeros((len(labels), 1, 4, 4), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    images = FamilyImages(family, Source("small", pixels, labels, tuple(map(str, range(10))), "x"), CPU)
    images.mean, images.std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    def datasets(stream: TrainingStream) -> Iterator[Dataset]:
        yield from islice(stream.batches(32), 10)
        for episode in islice(stream.episodes(), 10):
            yield from (episode.support, episode.query, episode.fit)
        for group in stream.validation_groups():
            yield from (group.fit, group.test)

    digest = blake2b(digest_size=16)
    for validation in (0, 3):
        for dataset in datasets(TrainingStream(images, 7, validation)):
            positions = dataset.images[:, 0, 0, 0] * 256 + dataset.images[:, 0, 0, 1]
            digest.update(positions.numpy().astype("<i8").tobytes())
            digest.update(dataset.labels.numpy().astype("<i8").tobytes())
    assert digest.hexdigest() == "9877b4c86f6bd6e5139414cf5b5cb499"


# --- one folder under two names ---


def test_a_class_that_is_linked_twice_is_one_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"cat": [1, 2], "dog": [3, 4]})
    (folder / "a link").symlink_to("cat")
    (folder / "zebra").symlink_to(folder / "dog")
    with pytest.warns(SourceWarning, match=r"passed over 2 links to folders that are read already \(a link, zebra\)$"):
        source = load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder})
    assert source.class_names == ("cat", "dog")
    assert len(source.images) == 4
    assert len(source.left_out) == 0


def test_of_two_links_the_one_with_the_folders_own_name_is_the_class(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", {"dog": [1, 2], "emu": [3, 4]})
    (tmp_path / "in").mkdir()
    for name, target in {"alias": "dog", "dog": "dog", "fox": "emu", "gnu": "emu"}.items():
        (tmp_path / "in" / name).symlink_to(elsewhere / target)
    with pytest.warns(SourceWarning, match=r"read already \(alias, gnu\)$"):
        source = load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": tmp_path / "in"})
    assert source.class_names == ("dog", "fox")


@pytest.mark.parametrize("linked", ["split", "class"])
def test_a_split_or_its_class_that_is_a_link_is_taken_once(tmp_path: Path, linked: str) -> None:
    folder = folder_of(tmp_path / "in", {"train/cat": [1, 2], "train/dog": [3, 4]})
    if linked == "split":
        (folder / "val").symlink_to("train")
    else:
        folder_of(folder, {"val/dog": [5]})
        (folder / "val" / "cat").symlink_to("../train/cat")
    with pytest.warns(SourceWarning, match=r"read already \((val|cat)\)$"):
        source = load("mine", data_dir=None, cache_dir=tmp_path / "cache", folders={"mine": folder})
    assert source.class_names == ("cat", "dog")
    assert len(source.images) == (4 if linked == "split" else 5)
    assert len(source.left_out) == 0


@pytest.mark.parametrize("target", [".", "..", "cat/..", "loop"])
@pytest.mark.parametrize("layout", [".", "train"])
def test_a_link_to_a_folder_around_it_or_to_itself_is_no_class(tmp_path: Path, target: str, layout: str) -> None:
    folder = folder_of(tmp_path / "in" / layout, {"cat": [1, 2], "dog": [3, 4]})
    (folder / "loop").symlink_to(target)
    assert loaded(tmp_path / "in", tmp_path / "cache").class_names == ("cat", "dog")


def test_an_image_that_links_to_itself_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"cat": [1, 2], "dog": [3, 4]})
    (folder / "dog" / "7.png").symlink_to("7.png")
    with pytest.raises(SourceError, match=r"cannot decode .*dog/7\.png \(Too many levels"):
        loaded(folder, tmp_path / "cache")


def test_linked_images_are_copies(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"cat": [1, 2], "dog": [3, 4]})
    os.link(folder / "cat" / "000.png", folder / "cat" / "000 (1).png")
    (folder / "dog" / "cat.png").symlink_to("../cat/001.png")
    source = loaded(folder, tmp_path / "cache")
    assert source.class_sizes == {"cat": 1, "dog": 2}
