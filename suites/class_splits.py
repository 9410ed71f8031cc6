"""Unseen groups under any class split of a family.

Apart from `suites.groups`, whose code is part of an artifact's key: nothing here shapes what a method learns.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from pudnet_bench.methods.base import Group
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import CLASS_SPLIT_SEED, SPLITS, ClassSplit, FamilyImages, Split
from pudnet_bench.suites.sources.loading import Source

MOST_TUPLES = 100  # class tuples that the unseen groups enumerate; of more, each group draws one
_TUPLE_ORDER = len(SPLITS) + 1  # a random stream beside those of SPLITS and of batches


@dataclass(frozen=True)
class UnseenGroup(Group):
    """A group of unseen classes; `classes` are the source's class ids in the order of the group's labels."""

    classes: tuple[int, ...]


def enumerates_tuples(family: Family) -> bool:
    """Whether the unseen groups go through all class tuples in turn, as there are at most `MOST_TUPLES` of them."""
    return math.comb(family.unseen_classes, family.ways) <= MOST_TUPLES


def class_pool(family: Family, classes: tuple[int, ...], seed: int, index: int) -> tuple[int, ...]:
    """Return those of the unseen `classes` that unseen group `index` draws its classes from. A pure function.

    All of them, or one tuple where the family has few: every run of as many groups as there are tuples has each once, in
    an order of its own.
    """
    if not enumerates_tuples(family):
        return classes
    tuples = list(combinations(classes, family.ways))
    turn, place = divmod(index, len(tuples))
    order = np.random.default_rng((seed, _TUPLE_ORDER, turn)).permutation(len(tuples))
    return tuples[int(order[place])]


class SplitImages(FamilyImages):
    """A family's images on a device, with one of its class splits: split 0, and any other by `of_split`."""

    def __init__(
        self, family: Family, source: Source, device: torch.device, trained_on: FamilyImages | None = None
    ) -> None:
        super().__init__(family, source, device, trained_on)
        self.split_seed = CLASS_SPLIT_SEED

    def of_split(self, seed: int, source: Source, trained_on: FamilyImages | None = None) -> SplitImages:
        """Return the same images with another class split, and the normalisation that follows from it."""
        other = copy(self)
        other.split_seed, other.split = seed, ClassSplit.of(self.family, seed)
        if trained_on is None:
            other.mean, other.std = (t.to(self.device) for t in other._normalisation(source))
        else:
            other.mean, other.std = trained_on.mean, trained_on.std
        return other

    def fold(self, fold: int) -> SplitImages:
        other = copy(self)
        other.split = ClassSplit.of(self.family, self.split_seed, fold)
        return other

    def group(self, split: Split, seed: int, index: int) -> Group:
        return self.unseen(seed, index) if split == "unseen" else super().group(split, seed, index)

    def unseen(self, seed: int, index: int) -> UnseenGroup:
        """Return unseen group `index`."""
        pool = class_pool(self.family, self.split.unseen, seed, index)
        drawing = copy(self)
        drawing.split = replace(self.split, unseen=pool)
        group = super(SplitImages, drawing).group("unseen", seed, index)
        # The first draw of `draw_group` and `draw_halves`, again.
        rng = np.random.default_rng((seed, SPLITS.index("unseen"), index))
        chosen = rng.choice(len(pool), self.family.ways, replace=False)
        return UnseenGroup(group.index, group.fit, group.test, tuple(pool[place] for place in chosen))
