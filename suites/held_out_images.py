"""Images of a family whose held-out training classes are measured. Its code is part of the keys of what is trained on one."""

from __future__ import annotations

from copy import copy

import torch

from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.family import Family
from pudnet_bench.suites.groups import CLASS_SPLIT_SEED, ClassSplit, FamilyImages
from pudnet_bench.suites.held_out_family import HeldOutFamily
from pudnet_bench.suites.sources.content import Source


class HeldOutImages(SplitImages):
    """The images of a `HeldOutFamily`, with the classes that its `whole` holds out in fold 0 as unseen ones."""

    family: HeldOutFamily

    def __init__(
        self, family: HeldOutFamily, source: Source, device: torch.device, trained_on: FamilyImages | None = None
    ) -> None:
        super().__init__(family, source, device, trained_on)
        self._split(source, CLASS_SPLIT_SEED, trained_on)

    def of_split(self, seed: int, source: Source, trained_on: FamilyImages | None = None) -> HeldOutImages:
        other = copy(self)
        other._split(source, seed, trained_on)
        return other

    def fold(self, fold: int) -> HeldOutImages:
        other = copy(self)
        other.split = split_of(self.family, self.split_seed, fold)
        return other

    def _split(self, source: Source, seed: int, trained_on: FamilyImages | None) -> None:
        self.split_seed, self.split = seed, split_of(self.family, seed)
        if trained_on is None:
            self.mean, self.std = (t.to(self.device) for t in self._normalisation(source))
        else:
            self.mean, self.std = trained_on.mean, trained_on.std


def split_of(family: HeldOutFamily, seed: int, fold: int = 0) -> ClassSplit:
    """Return the class split: the training classes of `family.whole` without those that it holds out, which are unseen."""
    whole = ClassSplit.of(family.whole, seed)
    end = len(whole.search) - fold * family.validation_classes
    start = end - family.validation_classes
    return ClassSplit(whole.search[:start] + whole.search[end:], whole.search[start:end], whole.validation)


def split_images(
    family: Family, source: Source, device: torch.device, trained_on: FamilyImages | None = None
) -> SplitImages:
    """Return the images of a family of one source, whether its unseen or its held-out classes are measured."""
    kind = HeldOutImages if isinstance(family, HeldOutFamily) else SplitImages
    return kind(family, source, device, trained_on)  # type: ignore[arg-type]
