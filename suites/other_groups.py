"""The other group that a control is shown beside an unseen group. Its code is part of the keys of controls' cells."""

from __future__ import annotations

from pudnet_bench.suites.class_splits import SplitImages, UnseenGroup
from pudnet_bench.suites.mixed_images import MixedImages

MOST_TRIED = 200  # groups that are drawn before one with some classes in common is accepted


def other_group(images: SplitImages, seed: int, group: UnseenGroup) -> UnseenGroup:
    """Return the next unseen group that has no class of `group`.

    Where the family has too few unseen classes for that, the next one with other classes; with a single class tuple, the
    next group. A pure function of the arguments.
    """
    family, own = images.family, set(group.classes)
    disjoint = 2 * family.ways <= family.unseen_classes

    def differs(other: UnseenGroup) -> bool:
        return own.isdisjoint(other.classes) if disjoint else own != set(other.classes)

    tried = (images.unseen(seed, group.index + step) for step in range(1, MOST_TRIED))
    return next(filter(differs, tried), None) or images.unseen(seed, group.index + 1)


def other_source_group(mixed: MixedImages, family: str, seed: int, group: UnseenGroup) -> UnseenGroup:
    """Return unseen group `group.index` of a part of the mixture other than `family`, which changes from group to group."""
    others = [part for part in mixed.parts if part.family.name != family]
    return others[group.index % len(others)].unseen(seed, group.index)
