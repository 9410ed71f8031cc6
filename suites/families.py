"""The built-in families (paper, sections 4.1 and A.3), and families made from a user's image folder."""

from __future__ import annotations

from dataclasses import replace

from pudnet_bench.suites.declaration import pick
from pudnet_bench.suites.family import Family, FamilyError
from pudnet_bench.suites.held_out_family import SUFFIX, held_out
from pudnet_bench.suites.mixtures import MixedFamily, mixture

FAMILIES = {
    family.name: family
    for family in (
        # name, label, source, classes: training, unseen; ways, images, validation classes, training groups
        Family("fashion", "Fashion-set", "fashion-mnist", 6, 4, 2, 600, 2, 2_000, validation_folds=3),
        Family("cifar100", "CIFAR100-set", "cifar-100", 80, 20, 5, 500, 16, 100_000),
        Family("imagenet", "ImageNet-set", "mini-imagenet", 80, 20, 5, 500, 16, 50_000, image_size=84),
        Family("digits", "Digits-set", "digits", 6, 4, 2, 100, 2, 2_000),
        # Table 5: large groups of all unseen classes.
        Family("cifar100-20", "CIFAR100, 20 unseen classes", "cifar-100", 80, 20, 20, 10_000, 16, 100_000,
               test_images=2_000, trained_on="cifar100", most_groups=5),
        Family("digits-4", "Digits, 4 unseen classes", "digits", 6, 4, 4, 200, 2, 2_000,
               test_images=200, trained_on="digits", most_groups=5),
        # Tables 3, 6 and 7: all images of another source, at the size of the images trained on.
        Family("animals10", "CIFAR100→Animals10", "animals-10", 0, 10, 10, 0, 0, 0,
               image_size=32, trained_on="cifar100", most_groups=5),
        Family("cifar10", "CIFAR100→CIFAR10", "cifar-10", 0, 10, 10, 0, 0, 0, trained_on="cifar100", most_groups=5),
        Family("animals10-84", "ImageNet→Animals10", "animals-10", 0, 10, 10, 0, 0, 0,
               image_size=84, trained_on="imagenet", most_groups=5),
        Family("cifar10-84", "ImageNet→CIFAR10", "cifar-10", 0, 10, 10, 0, 0, 0,
               image_size=84, trained_on="imagenet", most_groups=5),
        Family("digits-halves", "Digits, all of 4 unseen classes", "digits", 6, 4, 4, 0, 2, 2_000,
               trained_on="digits", most_groups=5),
        # Table 10: fewer training classes, the same unseen ones.
        Family("cifar100-c20", "CIFAR100-set, 20 training classes", "cifar-100", 20, 20, 5, 500, 5, 50_000,
               unused_classes=60),
        Family("digits-c4", "Digits-set, 4 training classes", "digits", 4, 4, 2, 100, 2, 2_000, unused_classes=2),
        # Figure 1: 3,000 images of all classes, without meta-training.
        Family("fashion-3000", "Fashion-MNIST", "fashion-mnist", 0, 10, 10, 3_000, 0, 0),
        Family("cifar100-3000", "CIFAR-100", "cifar-100", 0, 100, 100, 3_000, 0, 0),
        Family("imagenet-3000", "Mini-ImageNet", "mini-imagenet", 0, 100, 100, 3_000, 0, 0, image_size=84),
        Family("digits-400", "Digits", "digits", 0, 10, 10, 400, 0, 0),
    )
}  # fmt: skip

# Three sources to train on, and one that is left out: whether a prediction pays where the images come from elsewhere.
_MIXED, _MEASURED = mixture(
    "mixed", "Mixed-set", [FAMILIES[name] for name in ("fashion", "cifar100", "imagenet")],
    [replace(FAMILIES["animals10"], label="Animals-10", ways=5, images=500, most_groups=0)],
)  # fmt: skip
FAMILIES["mixed"] = _MIXED
_HELD_OUT, _HELD_OUT_MEASURED = mixture(
    f"mixed{SUFFIX}", "Mixed-set", [held_out(FAMILIES[name]) for name in ("fashion", "cifar100", "imagenet")], []
)
PARTS = {_MIXED.name: _MEASURED, _HELD_OUT.name: _HELD_OUT_MEASURED}
"""The families that are measured for a mixture, by its name."""
_UNLISTED = {family.name: family for family in (_HELD_OUT, *_MEASURED, *_HELD_OUT_MEASURED)}


def measured_for(name: str) -> tuple[Family, ...]:
    """Return the built-in families that are measured for `name`: those of a mixture, or the one itself."""
    return PARTS.get(name) or (family(name),)


def sources_of(name: str) -> set[str]:
    """Return the names of the sources that measuring the built-in family `name` needs."""
    needed = {each for fam in measured_for(name) for each in (fam, family(fam.trained_on or fam.name))}
    parts = {part for fam in needed for part in (fam.parts if isinstance(fam, MixedFamily) else (fam,))}
    return {part.source for part in parts}


def family_of_folder(name: str, class_sizes: dict[str, int], left_out: int = 0) -> Family:
    """Return a family for a user's image folder, split and sized like the paper's two kinds of families.

    With twenty classes or more, 80% are training classes and groups have 5 ways; with fewer, 60% and 2 ways. Groups have up
    to 100 fit images per class, and at most half of the smallest class.

    Source and family are called `name`; `class_sizes` are images per class, without the `left_out` ones that equal others.
    Raises FamilyError if there are too few classes or images.
    """
    n = len(class_sizes)
    ways, share = (5, 0.8) if n >= 20 else (2, 0.6)
    if n < 3 * ways:
        raise FamilyError(
            f"source '{name}' has {n} classes, and a family needs at least {3 * ways}: {ways} for training, {ways} for "
            f"validation and {ways} unseen; add class folders"
        )
    unseen = max(ways, n - round(share * n))
    smallest = min(class_sizes, key=lambda c: class_sizes[c])
    per_class = min(100, class_sizes[smallest] // 2)
    if per_class < 2 * 10:
        copies, way_out = (" that equal no other", ", or take copies with --allow-copies") if left_out else ("", "")
        raise FamilyError(
            f"class '{smallest}' of source '{name}' has {class_sizes[smallest]} images{copies}, and a family needs at least "
            f"40 per class (20 to fit, 20 to test); add images or remove the class{way_out}"
        )
    return Family(name, name, name, n - unseen, unseen, ways, per_class * ways, max(ways, (n - unseen) // 5), 2_000)


def family(name: str) -> Family:
    """Return the built-in family `name`, or the `held_out` form of one by its name.

    Raises SuiteError, which suggests the nearest name, if there is none, and FamilyError if it has no held-out form.
    """
    if name in _UNLISTED:
        return _UNLISTED[name]
    whole = name.removesuffix(SUFFIX)
    return pick("family", name, FAMILIES) if whole == name else held_out(family(whole))
