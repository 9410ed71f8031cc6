"""Groups: small datasets drawn from a family, each a pure function of (family, class split, split, seed, index).

Any process can rebuild any group in any order, and none is ever stored. The source's images are on the device once, as
uint8; a group is a handful of indices until it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pudnet_bench.methods.base import Dataset, Episode, Group
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.sources.loading import Source

Split = Literal["search", "validation", "training", "unseen"]
SPLITS: tuple[Split, ...] = ("search", "validation", "training", "unseen")
CLASS_SPLIT_SEED = 0
NORMALISATION_IMAGES = 10_000  # evenly spaced in the training classes: enough for three digits of mean and deviation
NORMALISATION_VALUES = 1_000_000  # pixel values taken at a time, 8 MB
QUERY_IMAGES = 100
SMALLEST_HALF = 10  # images per class: enough for the support of every method


@dataclass(frozen=True)
class ClassSplit:
    """Class ids of the source by split."""

    search: tuple[int, ...]
    validation: tuple[int, ...]
    unseen: tuple[int, ...]

    @property
    def training(self) -> tuple[int, ...]:
        """All training classes: `search`, then `validation`."""
        return self.search + self.validation

    @classmethod
    def of(cls, family: Family, seed: int = CLASS_SPLIT_SEED, fold: int = 0) -> ClassSplit:
        """Return the family's split: a permutation of its classes fixed by `seed` (section 4.1 chooses at random).

        `fold` selects the validation classes: the last training classes of the permutation in fold 0, those before them in
        fold 1, and so on.
        """
        order = tuple(int(c) for c in np.random.default_rng(seed).permutation(family.classes))
        training, unseen = order[: family.training_classes], order[family.classes - family.unseen_classes :]
        end = family.training_classes - fold * family.validation_classes
        start = end - family.validation_classes
        return cls(training[:start] + training[end:], training[start:end], unseen)


class GroupIndices(NamedTuple):
    """A group as indices; `fit` and `test` are disjoint positions in the source, in random order within a class."""

    classes: np.ndarray  # int64 [ways], places in the split's tuple of classes
    fit: np.ndarray  # int64 [ways, images_per_class]
    test: np.ndarray  # int64 [ways, test_images_per_class], or fewer


@dataclass(frozen=True)
class ClassRanges:
    """The images of each class that groups are drawn from, in a source sorted by label.

    Attributes:
        starts, sizes: Each class's range in `members`, int64 [n_classes].
        members: Positions in the source, int64 [n], ascending.
    """

    starts: np.ndarray
    sizes: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, left_out: Sequence[int] | np.ndarray = ()) -> ClassRanges:
        """Return the ranges of ascending `labels`, int64 [n], without the positions `left_out`."""
        members = np.delete(np.arange(len(labels)), np.asarray(left_out, np.int64))
        sizes = np.bincount(labels[members], minlength=labels[-1] + 1)
        return cls(np.cumsum(sizes) - sizes, sizes, members)

    def at(self, classes: int | np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the positions of the images at `places` int64 [n] of a class, or each of its own of `classes` int64 [n]."""
        positions: np.ndarray = self.members[self.starts[classes] + places]
        return positions

    def positions(self, classes: tuple[int, ...]) -> np.ndarray:
        """Return the positions of all images of `classes`, class by class, int64 [n]."""
        return np.concatenate([self.at(c, np.arange(self.sizes[c])) for c in classes])


def draw_group(
    family: Family, classes: tuple[int, ...], ranges: ClassRanges, split: Split, seed: int, index: int
) -> GroupIndices:
    """Return group `index` of `split`, whose source classes are `classes`. A pure function.

    Where one of its classes has too few images, as copies are left out, each class has as many test images as that one.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    chosen = rng.choice(len(classes), family.ways, replace=False)
    k = family.images_per_class
    drawn = min(k + family.test_images_per_class, *(ranges.sizes[classes[place]] for place in chosen))
    images = np.empty((family.ways, drawn), dtype=np.int64)
    for row, place in enumerate(chosen):
        c = classes[place]
        images[row] = ranges.at(c, rng.choice(ranges.sizes[c], drawn, replace=False))
    return GroupIndices(chosen, images[:, :k], images[:, k:])


def draw_halves(
    family: Family, classes: tuple[int, ...], ranges: ClassRanges, split: Split, seed: int, index: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a group that has every image of its classes, one random half of each class to fit and the other to test.

    Returns positions in the source of the fit images and of the test images, int64 [k] for each class. Classes may differ in
    size; the odd image of a class is a test image. A pure function, like `draw_group`.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    chosen = [classes[place] for place in rng.choice(len(classes), family.ways, replace=False)]
    orders = [ranges.at(c, rng.permutation(ranges.sizes[c])) for c in chosen]
    return [order[: len(order) // 2] for order in orders], [order[len(order) // 2 :] for order in orders]


def _ranges(family: Family, source: Source) -> ClassRanges:
    """Return the images of each class. Raises FamilyError if they are too few for a group."""
    ranges, counts = ClassRanges.of(source.labels, source.left_out), np.bincount(source.labels)
    n_fit, n_test = family.images_per_class or SMALLEST_HALF, family.test_images_per_class or SMALLEST_HALF
    few = (counts < n_fit + n_test) | (ranges.sizes < n_fit + min(n_test, SMALLEST_HALF))
    if few.any():
        smallest = int(np.where(few, ranges.sizes, counts.max() + 1).argmin())
        copies = counts[smallest] - ranges.sizes[smallest]
        raise FamilyError(
            f"class '{source.class_names[smallest]}' of source '{source.name}' has {ranges.sizes[smallest]} images"
            + (f" (without {copies} that equal others)" if copies else "")
            + f", and a group of family '{family.name}' needs {n_fit + n_test} ({n_fit} to fit and {n_test} to test); "
            "add images to that class"
        )
    return ranges


def _channels_last(images: Tensor) -> Tensor:
    """Return `images` [n, c, h, w] in channels-last memory; images of one channel are not copied.

    Call it after arithmetic over channels, which is ten times as slow in channels-last memory on a CPU.
    """
    n, c, h, w = images.shape
    if c == 1:
        return images.view(n, h, w, 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


class FamilyImages:
    """A family's images on a device, normalised when they are gathered into a Dataset.

    Mean and deviation per channel are those of `trained_on`, the images that methods meta-train on. If it is None, they come
    from the training classes, or from all classes of a family without training classes. Raises FamilyError if the source
    does not fit the family. Images that equal others (`Source.left_out`) are in no group.
    """

    def __init__(
        self, family: Family, source: Source, device: torch.device, trained_on: FamilyImages | None = None
    ) -> None:
        if len(source.class_names) != family.classes:
            needed = f"family '{family.name}' needs {family.classes} classes"
            found = f"source '{source.name}' has {len(source.class_names)}"
            raise FamilyError(f"{needed}, and {found}; complete the source's class folders")
        self.family = family
        self.split = ClassSplit.of(family)
        self.ranges = _ranges(family, source)
        self.fingerprint = source.fingerprint
        self.device = device
        with warnings.catch_warnings():
            # torch warns that the memory map is read-only; nothing writes to it, and on a CPU processes share its pages.
            warnings.simplefilter("ignore", UserWarning)
            self.images = torch.from_numpy(source.images).to(device)
        self.image_shape: tuple[int, int, int] = tuple(source.images.shape[1:])
        if trained_on is None:
            self.mean, self.std = (t.to(device) for t in self._normalisation(source))
        else:
            self.mean, self.std = trained_on.mean, trained_on.std

    def fold(self, fold: int) -> FamilyImages:
        """Return the same images, with the training classes of `fold` held out for validation."""
        other = copy(self)
        other.split = ClassSplit.of(self.family, fold=fold)
        return other

    def _normalisation(self, source: Source) -> tuple[Tensor, Tensor]:
        """Return mean and deviation per channel, float32 [1, c, 1, 1]."""
        positions = self.ranges.positions(self.split.training or self.split.unseen)
        sample = positions[:: max(1, len(positions) // NORMALISATION_IMAGES)]
        _, c, h, w = source.images.shape
        total, squares = torch.zeros(2, c, dtype=torch.float64)
        step = max(1, NORMALISATION_VALUES // (c * h * w))
        # Block by block, so that memory does not grow with the images; sums of integers in float64 are exact.
        for start in range(0, len(sample), step):
            values = torch.from_numpy(source.images[sample[start : start + step]]).to(torch.float64)
            total += values.sum((0, 2, 3))
            squares += values.square_().sum((0, 2, 3))
        n = len(sample) * h * w
        mean = total / n
        std = ((squares - n * mean.square()) / max(1, n - 1)).clamp_min(1.0).sqrt()
        return mean.to(torch.float32).view(1, c, 1, 1), std.to(torch.float32).view(1, c, 1, 1)

    def dataset(self, positions: np.ndarray, n_classes: int, labels: np.ndarray | None = None) -> Dataset:
        """Return images at `positions` int64 [n_classes, k] (labels are rows), or [n] with `labels` int64 [n]."""
        if labels is None:
            labels = np.repeat(np.arange(n_classes), positions.shape[1])
        indices = torch.from_numpy(positions.reshape(-1)).to(self.device)
        images = self.images.index_select(0, indices).to(torch.float32).sub_(self.mean).div_(self.std)
        return Dataset(_channels_last(images), torch.from_numpy(labels).to(self.device), n_classes)

    def group(self, split: Split, seed: int, index: int) -> Group:
        """Return group `index` of `split`."""
        ways, where = self.family.ways, (self.family, getattr(self.split, split), self.ranges, split, seed, index)
        if self.family.images:
            drawn = draw_group(*where)
            return Group(index, self.dataset(drawn.fit, ways), self.dataset(drawn.test, ways))
        halves = draw_halves(*where)
        labels = [np.repeat(np.arange(ways), [len(part) for part in half]) for half in halves]
        return Group(index, *(self.dataset(np.concatenate(h), ways, y) for h, y in zip(halves, labels, strict=True)))


class TrainingStream:
    """Training groups of a family, as a method sees them (`methods.base.GroupStream`).

    Class ids are places in `ClassSplit.training`. If there are `validation` groups, the validation classes are held out of
    `episodes` and `batches`. Support images of an episode are at most half of a group's fit images, and query images at most
    the remaining ones.
    """

    def __init__(
        self,
        images: FamilyImages,
        seed: int,
        validation: int = 0,
        support_per_class: int = 10,
        queries_per_group: int = QUERY_IMAGES,
    ) -> None:
        family = images.family
        self.images, self.seed, self.validation = images, seed, validation
        self.n_training_classes = family.training_classes
        self.image_shape = images.image_shape
        self.ways = family.ways
        self.support_per_class = min(support_per_class, family.images_per_class // 2)
        self.queries_per_class = min(queries_per_group // family.ways, family.images_per_class - self.support_per_class)
        self.queries_per_group = self.queries_per_class * family.ways
        self.split: Split = "search" if validation else "training"
        self.classes: tuple[int, ...] = getattr(images.split, self.split)

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        images = self.images
        for index in count(first, stride):
            drawn = draw_group(images.family, self.classes, images.ranges, self.split, self.seed, index)
            yield self.episode(index, drawn.classes, drawn.fit)

    def episode(self, index: int, classes: np.ndarray, fit: np.ndarray) -> Episode:
        """Return the episode of a group's `classes` int64 [ways] and `fit` positions int64 [ways, images_per_class]."""
        images, ways, cut = self.images, self.ways, self.support_per_class
        return Episode(
            index,
            images.dataset(fit[:, :cut], ways),
            images.dataset(fit[:, cut : cut + self.queries_per_class], ways),
            torch.from_numpy(classes).to(images.device),
            lambda: images.dataset(fit, ways),
        )

    def batches(self, images: int, first: int = 0, stride: int = 1) -> Iterator[Dataset]:
        ranges, classes = self.images.ranges, np.array(self.classes)
        for index in count(first, stride):
            rng = np.random.default_rng((self.seed, len(SPLITS), index))
            labels = rng.integers(0, len(classes), images)
            chosen = classes[labels]
            positions = ranges.at(chosen, rng.integers(0, ranges.sizes[chosen]))
            yield self.images.dataset(positions, self.n_training_classes, labels)

    def validation_groups(self) -> Iterator[Group]:
        return (self.images.group("validation", self.seed, index) for index in range(self.validation))
