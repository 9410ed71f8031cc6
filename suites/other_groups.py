"""The other group that a control is shown beside an unseen group. Its code is part of the keys of controls' cells."""

from __future__ import annotations

from pudnet_bench.suites.class_splits import SplitImages, UnseenGroup

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
