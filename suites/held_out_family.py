"""Families whose held-out training classes are measured in place of the unseen ones. Imports no array library."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields

from pudnet_bench.suites.family import Family, FamilyError

SUFFIX = ".held-out"


@dataclass(frozen=True)
class HeldOutFamily(Family):
    """The family `whole` for choices that must not look at its unseen classes.

    It meta-trains on the training classes of `whole` but for those that are held out for validation, and its groups are of
    these. The unseen classes of `whole` occur in neither.
    """

    _: KW_ONLY
    whole: Family


def held_out(whole: Family) -> HeldOutFamily:
    """Return `whole` with its held-out classes in place of the unseen ones. Raises FamilyError if it has none."""
    unseen = whole.validation_classes
    training = whole.training_classes - unseen
    if not unseen or whole.trained_on or training < 2 * whole.ways:
        raise FamilyError(
            f"family '{whole.name}' has too few training classes to hold some out and to validate on others"
        )
    values = {field.name: getattr(whole, field.name) for field in fields(Family)}
    values |= {
        "name": f"{whole.name}{SUFFIX}", "label": f"{whole.label}, held-out classes", "training_classes": training,
        "unseen_classes": unseen, "unused_classes": whole.unused_classes + whole.unseen_classes,
        "validation_classes": max(whole.ways, training // 5), "validation_folds": 1,
    }  # fmt: skip
    return HeldOutFamily(**values, whole=whole)
