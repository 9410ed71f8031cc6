"""Groups: small datasets drawn from a family, each a pure function of (family, split, seed, index).

Any process can rebuild any group in any order; none is ever stored. The source's images lie on the device once, as
uint8, and a group is a handful of indices until it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
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
NORMALISATION_IMAGES = 10_000  # of the training classes, evenly spaced; enough for three digits of mean and deviation
QUERY_IMAGES = 100
SMALLEST_HALF = 10  # images of a class: enough for the support of every method


@dataclass(frozen=True)
class ClassSplit:
    """Class ids of the source by split. ``training`` is ``search`` and ``validation`` together, in that order."""

    search: tuple[int, ...]
    validation: tuple[int, ...]
    unseen: tuple[int, ...]

    @property
    def training(self) -> tuple[int, ...]:
        return self.search + self.validation

    @classmethod
    def of(cls, family: Family, seed: int = CLASS_SPLIT_SEED, fold: int = 0) -> ClassSplit:
        """The family's split: a permutation of its classes fixed by ``seed`` (section 4.1 chooses at random).

        ``fold`` says which training classes validate: the last ones of the permutation in fold 0, those before them in
        fold 1, and so on.
        """
        order = tuple(int(c) for c in np.random.default_rng(seed).permutation(family.classes))
        training, unseen = order[: family.training_classes], order[family.classes - family.unseen_classes :]
        end = family.training_classes - fold * family.validation_classes
        start = end - family.validation_classes
        return cls(training[:start] + training[end:], training[start:end], unseen)


class GroupIndices(NamedTuple):
    """A group as positions: ``classes`` int64 [ways], places within the split's tuple of classes; ``fit`` and ``test``
    int64 [ways, images_per_class] and [ways, test_images_per_class], positions of images in the source, in random order
    within a class, disjoint."""

    classes: np.ndarray
    fit: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class ClassRanges:
    """Where each class's images lie in a source sorted by label: ``starts`` and ``sizes``, int64 [n_classes]."""

    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> ClassRanges:
        sizes = np.bincount(labels)
        return cls(np.cumsum(sizes) - sizes, sizes)


def draw_group(
    family: Family, classes: tuple[int, ...], ranges: ClassRanges, split: Split, seed: int, index: int
) -> GroupIndices:
    """Group ``index`` of ``split``, whose source classes are ``classes``. Pure: same arguments, same group."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    chosen = rng.choice(len(classes), family.ways, replace=False)
    k = family.images_per_class
    images = np.empty((family.ways, k + family.test_images_per_class), dtype=np.int64)
    for row, place in enumerate(chosen):
        c = classes[place]
        images[row] = ranges.starts[c] + rng.choice(ranges.sizes[c], images.shape[1], replace=False)
    return GroupIndices(chosen, images[:, :k], images[:, k:])


def draw_halves(
    family: Family, classes: tuple[int, ...], ranges: ClassRanges, split: Split, seed: int, index: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A group of a family that is split in halves: for each class positions of the images to fit, and of those to test.

    Pure, as ``draw_group``. Classes may differ in size; the odd image of a class is a test image.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    fit, test = [], []
    for place in rng.choice(len(classes), family.ways, replace=False):
        c = classes[place]
        order = ranges.starts[c] + rng.permutation(ranges.sizes[c])
        half = len(order) // 2
        fit.append(order[:half])
        test.append(order[half:])
    return fit, test


def _channels_last(images: Tensor) -> Tensor:
    """``images`` [n, c, h, w] in channels-last memory, for which those of one channel are not copied.

    It comes after the arithmetic, which a channel beside the next one makes ten times as slow on a CPU.
    """
    n, c, h, w = images.shape
    if c == 1:
        return images.view(n, h, w, 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


class FamilyImages:
    """A family's images on a device, normalised as they are taken: the source of every Dataset.

    ``mean`` and ``std`` per channel are those of ``trained_on``, the images that methods meta-train on; without, they come
    from images of the training classes, or of all classes where none is trained on. Raises FamilyError when the source
    does not fit the family.
    """

    def __init__(
        self, family: Family, source: Source, device: torch.device, trained_on: FamilyImages | None = None
    ) -> None:
        if len(source.class_names) != family.classes:
            raise FamilyError(
                f"family '{family.name}' needs {family.classes} classes, and source '{source.name}' has "
                f"{len(source.class_names)}; complete the source's class folders"
            )
        self.family = family
        self.split = ClassSplit.of(family)
        self.ranges = ClassRanges.of(source.labels)
        smallest = int(self.ranges.sizes.argmin())
        to_fit, to_test = family.images_per_class or SMALLEST_HALF, family.test_images_per_class or SMALLEST_HALF
        if self.ranges.sizes[smallest] < to_fit + to_test:
            raise FamilyError(
                f"class '{source.class_names[smallest]}' of source '{source.name}' has {self.ranges.sizes[smallest]} images, "
                f"and a group of family '{family.name}' needs {to_fit + to_test} ({to_fit} to fit and {to_test} to test); "
                "add images to that class"
            )
        self.fingerprint = source.fingerprint
        self.device = device
        with warnings.catch_warnings():
            # torch warns that the memory map is read-only; on a CPU its pages stay shared, and nothing writes to them.
            warnings.simplefilter("ignore", UserWarning)
            self.images = torch.from_numpy(source.images).to(device)
        self.image_shape: tuple[int, int, int] = tuple(source.images.shape[1:])
        if trained_on is None:
            self.mean, self.std = (t.to(device) for t in self._normalisation(source))
        else:
            self.mean, self.std = trained_on.mean, trained_on.std

    def fold(self, fold: int) -> FamilyImages:
        """The same images, with the training classes of ``fold`` held out to validate on."""
        other = copy(self)
        other.split = ClassSplit.of(self.family, fold=fold)
        return other

    def _normalisation(self, source: Source) -> tuple[Tensor, Tensor]:
        positions = np.concatenate(
            [
                np.arange(self.ranges.starts[c], self.ranges.starts[c] + self.ranges.sizes[c])
                for c in self.split.training or self.split.unseen
            ]
        )
        sample = positions[:: max(1, len(positions) // NORMALISATION_IMAGES)]
        values = torch.from_numpy(source.images[sample]).to(torch.float32)
        std, mean = torch.std_mean(values, dim=(0, 2, 3), keepdim=True)
        return mean, std.clamp_min(1.0)

    def dataset(self, positions: np.ndarray, n_classes: int, labels: np.ndarray | None = None) -> Dataset:
        """Images at ``positions`` int64 [n_classes, k] (labels are rows) or [n] with ``labels`` int64 [n]."""
        if labels is None:
            labels = np.repeat(np.arange(n_classes), positions.shape[1])
        where = torch.from_numpy(positions.reshape(-1)).to(self.device)
        images = self.images.index_select(0, where).to(torch.float32).sub_(self.mean).div_(self.std)
        return Dataset(_channels_last(images), torch.from_numpy(labels).to(self.device), n_classes)

    def _ragged(self, positions: list[np.ndarray]) -> Dataset:
        """The images at ``positions``, int64 [k] for each class, k of its own."""
        labels = np.repeat(np.arange(len(positions)), [len(part) for part in positions])
        return self.dataset(np.concatenate(positions), len(positions), labels)

    def group(self, split: Split, seed: int, index: int) -> Group:
        """Group ``index`` of ``split``: its fit images and its test images."""
        if self.family.images == 0:
            halves = draw_halves(self.family, getattr(self.split, split), self.ranges, split, seed, index)
            return Group(index, *(self._ragged(half) for half in halves))
        drawn = draw_group(self.family, getattr(self.split, split), self.ranges, split, seed, index)
        return Group(index, self.dataset(drawn.fit, self.family.ways), self.dataset(drawn.test, self.family.ways))


class TrainingStream:
    """The training side of a family as a method sees it (``methods.base.GroupStream``).

    With ``validation`` groups > 0, the validation classes are held out of ``episodes`` and ``batches``; with 0, all
    training classes are trained on. Class ids are places in ``ClassSplit.training`` either way.
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
        """The episode of a group's ``classes`` int64 [ways] and ``fit`` positions int64 [ways, images_per_class]."""
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
            positions = ranges.starts[chosen] + rng.integers(0, ranges.sizes[chosen])
            yield self.images.dataset(positions, self.n_training_classes, labels)

    def validation_groups(self) -> Iterator[Group]:
        return (self.images.group("validation", self.seed, index) for index in range(self.validation))
