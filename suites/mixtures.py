"""Mixtures: families to meta-train on whose groups come from one of several sources at a time.

A mixture has parts, each a family with its own class split, ways and images; all are resized and in colour, so that one
network takes them. What is measured are its parts' unseen classes, and sources that it was not trained on at all, each as a
family of its own with `trained_on` set to the mixture. Imports no array library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

from pudnet_bench.suites.family import Family, FamilyError

IMAGE_SIZE = 32  # pixels: the side of its images
JOIN, LEAVE_OUT = "+", "@"  # in the name of a mixture: "fashion+cifar100@animals10"


@dataclass(frozen=True)
class MixedFamily(Family):
    """A family of several sources, as it is meta-trained on; group k is of part k modulo their number.

    `ways` and `images` are the largest of the parts.
    """

    _: KW_ONLY
    parts: tuple[Family, ...]


def mixture(
    name: str, label: str, parts: Sequence[Family], left_out: Sequence[Family], image_size: int = IMAGE_SIZE
) -> tuple[MixedFamily, tuple[Family, ...]]:
    """Return the mixture of `parts`, and the families that are measured: the parts, then the sources `left_out` of it.

    Raises FamilyError for parts that cannot be mixed.
    """
    if len(parts) < 2:
        raise FamilyError(f"the mixture '{name}' needs at least two families to train on, such as fashion+cifar100")
    for part in parts:
        if not part.training_classes or not part.images or part.trained_on:
            raise FamilyError(
                f"family '{part.name}' cannot be trained on in the mixture '{name}': it has no training classes of its own"
            )

    def measured(family: Family, role: str) -> Family:
        label = f"{family.label}, {role} a mixture"
        return replace(family, name=f"{family.name}.{name}", label=label, trained_on=name, image_size=image_size)

    of = tuple(measured(part, "of") for part in parts)
    outside = tuple(measured(_unseen(family), "left out of") for family in left_out)
    mixed = MixedFamily(
        name=name, label=label, source=JOIN.join(part.source for part in parts),
        training_classes=sum(part.training_classes for part in parts), unseen_classes=sum(p.unseen_classes for p in parts),
        ways=max(part.ways for part in parts), images=max(part.images for part in parts),
        validation_classes=sum(part.validation_classes for part in parts), meta_groups=100_000, image_size=image_size,
        unused_classes=sum(part.unused_classes for part in parts), parts=of,
    )  # fmt: skip
    return mixed, (*of, *outside)


def _unseen(family: Family) -> Family:
    """`family` with every class unseen."""
    return replace(
        family, training_classes=0, unseen_classes=family.classes, validation_classes=0, unused_classes=0, trained_on=""
    )


def names_mixture(name: str) -> bool:
    """Whether a family's name declares a mixture."""
    return JOIN in name


def members(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the parts and of the left-out families that a mixture's name declares."""
    parts, *left_out = name.split(LEAVE_OUT)
    return tuple(parts.split(JOIN)), tuple(left_out)
