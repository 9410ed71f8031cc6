"""Images and training groups of a mixture. Its code is part of the keys of what is trained on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from hashlib import blake2b
from itertools import count

import numpy as np
import torch

from pudnet_bench.methods.base import Dataset, Episode, Group
from pudnet_bench.suites.class_splits import SplitImages, UnseenGroup
from pudnet_bench.suites.groups import SPLITS, ClassSplit, FamilyImages, Split, TrainingStream
from pudnet_bench.suites.held_out_images import split_images
from pudnet_bench.suites.mixtures import MixedFamily
from pudnet_bench.suites.sources.content import Source


@dataclass(frozen=True)
class JoinedSource(Source):
    """The sources of a mixture's parts in colour; `images` and `labels` are empty, and only tell the images' shape."""

    _: KW_ONLY
    parts: tuple[Source, ...]

    @classmethod
    def of(cls, name: str, parts: Sequence[Source]) -> JoinedSource:
        """Join colour sources of one image size; a class is named by its source and itself."""
        names = tuple(f"{part.name} {label}" for part in parts for label in part.class_names)
        digest = blake2b(" ".join(part.fingerprint for part in parts).encode(), digest_size=16).hexdigest()
        images = np.empty((0, *parts[0].images.shape[1:]), np.uint8)
        return cls(name, images, np.empty(0, np.int64), names, digest, parts=tuple(parts))


def in_colour(source: Source) -> Source:
    """Return the source with three channels; grey images are repeated without being copied."""
    n, channels, height, width = source.images.shape
    if channels == 3:
        return source
    images = np.broadcast_to(source.images, (n, 3, height, width))
    return replace(source, images=images, fingerprint=f"{source.fingerprint}-colour")


class MixedImages(SplitImages):
    """The images of a mixture on a device: those of its parts, normalised alike, with one class split of each.

    Mean and deviation are over the training classes of all parts, each of which weighs the same. A class's id is its place
    among the classes of all parts in their order.
    """

    family: MixedFamily

    def __init__(self, family: MixedFamily, source: JoinedSource, device: torch.device) -> None:
        alone = [replace(part, trained_on="") for part in family.parts]
        parts = [split_images(part, each, device) for part, each in zip(alone, source.parts, strict=True)]
        self.family, self.device, self.fingerprint = family, device, source.fingerprint
        self.image_shape = parts[0].image_shape
        self._take(parts)

    def _take(self, parts: list[SplitImages]) -> None:
        """Take these parts, with the normalisation and the class split that follow from theirs."""
        means, deviations = (torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "std"))
        self.mean = means.mean(0)
        self.std = (deviations.square() + means.square()).mean(0).sub(self.mean.square()).sqrt()
        for part in parts:
            part.mean, part.std = self.mean, self.std
        self.parts, self.split_seed = parts, parts[0].split_seed
        self.first_ids = [sum(part.family.classes for part in parts[:n]) for n in range(len(parts))]
        self._join_splits()

    def _join_splits(self) -> None:
        def joined(name: str) -> tuple[int, ...]:
            parts = zip(self.first_ids, self.parts, strict=True)
            return tuple(first + c for first, part in parts for c in getattr(part.split, name))

        self.split = ClassSplit(joined("search"), joined("validation"), joined("unseen"))

    def of_split(self, seed: int, source: Source, trained_on: FamilyImages | None = None) -> MixedImages:
        if not isinstance(source, JoinedSource):
            raise TypeError(f"the images of a mixture come from a JoinedSource, not from '{source.name}'")
        other = copy(self)
        other._take([part.of_split(seed, each) for part, each in zip(self.parts, source.parts, strict=True)])
        return other

    def fold(self, fold: int) -> MixedImages:
        other = copy(self)
        other.parts = [part.fold(fold) for part in self.parts]
        other._join_splits()
        return other

    def group(self, split: Split, seed: int, index: int) -> Group:
        which, turn = self._turn(index)
        return replace(self.parts[which].group(split, seed, turn), index=index)

    def unseen(self, seed: int, index: int) -> UnseenGroup:
        """Return unseen group `index`; its class ids are those of its part."""
        which, turn = self._turn(index)
        return replace(self.parts[which].unseen(seed, turn), index=index)

    def _turn(self, index: int) -> tuple[int, int]:
        """The part that group `index` is of, and its number there."""
        turn, which = divmod(index, len(self.parts))
        return which, turn


class MixedStream(TrainingStream):
    """Training groups of a mixture (`methods.base.GroupStream`): the streams of its parts in turn.

    An episode's class ids are places among the training classes of all parts. A batch draws each image's part, then its
    class, then the image, all uniformly: a source with few classes counts as much as one with many.
    """

    def __init__(self, images: MixedImages, seed: int, validation: int = 0) -> None:
        self.images, self.seed, self.validation = images, seed, validation
        self.n_training_classes, self.image_shape = images.family.training_classes, images.image_shape
        self.split = "search" if validation else "training"
        self.classes = getattr(images.split, self.split)
        self.streams = [TrainingStream(part, seed, validation) for part in images.parts]
        self.ways = images.family.ways
        self.support_per_class = max(stream.support_per_class for stream in self.streams)
        self.queries_per_group = max(stream.queries_per_group for stream in self.streams)
        place = {c: number for number, c in enumerate(images.split.training)}
        self.places = [
            np.array([place[first + c] for c in stream.classes])
            for first, stream in zip(images.first_ids, self.streams, strict=True)
        ]
        self.place_tensors = [torch.from_numpy(places).to(images.device) for places in self.places]

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        for index in count(first, stride):
            turn, which = divmod(index, len(self.streams))
            episode = next(self.streams[which].episodes(turn))
            yield replace(episode, index=index, classes=self.place_tensors[which][episode.classes])

    def batches(self, images: int, first: int = 0, stride: int = 1) -> Iterator[Dataset]:
        for index in count(first, stride):
            rng = np.random.default_rng((self.seed, len(SPLITS), index))
            drawn = np.bincount(rng.integers(0, len(self.streams), images), minlength=len(self.streams))
            batches = [self._batch(which, n, rng) for which, n in enumerate(drawn)]
            yield Dataset(
                torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]),
                self.n_training_classes,
            )  # fmt: skip

    def _batch(self, which: int, images: int, rng: np.random.Generator) -> Dataset:
        stream, ranges = self.streams[which], self.streams[which].images.ranges
        chosen = rng.integers(0, len(stream.classes), images)
        classes = np.array(stream.classes)[chosen]
        positions = ranges.at(classes, rng.integers(0, ranges.sizes[classes]))
        return stream.images.dataset(positions, self.n_training_classes, self.places[which][chosen])
