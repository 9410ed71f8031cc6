"""Families: which classes of a source are trained on, which are never seen, and how large a group is.

Paper, section 4.1. Imports no array library: listing families must be instant.
"""

from __future__ import annotations

from dataclasses import dataclass

from suites.declaration import pick


class FamilyError(Exception):
    """A family that is not known or does not fit its source; the message names it and the way out."""


@dataclass(frozen=True)
class Family:
    """A source, its class split, and the size of its groups.

    A group has ``images`` fit images, ``images / ways`` of each of ``ways`` classes, and ``test_images`` test images of
    the same classes (0: as many as fit images). ``validation_classes`` of the training classes are held out while the
    length of meta-training is chosen, ``validation_folds`` times, other ones each time.
    Methods meta-train on the family ``trained_on`` ("": this one).
    ``eta`` is the paper's share of the sketch in PudNet's initial residual, by target (section 4.3).
    ``meta_groups`` is the paper's number of training groups.
    """

    name: str
    label: str
    source: str
    training_classes: int
    unseen_classes: int
    ways: int
    images: int
    validation_classes: int
    meta_groups: int
    eta: tuple[tuple[str, float], ...] = ()
    gru_layers: tuple[tuple[str, int], ...] = ()
    image_size: int | None = None
    test_images: int = 0
    validation_folds: int = 1
    trained_on: str = ""

    @property
    def classes(self) -> int:
        return self.training_classes + self.unseen_classes

    @property
    def images_per_class(self) -> int:
        return self.images // self.ways

    @property
    def test_images_per_class(self) -> int:
        return (self.test_images or self.images) // self.ways

    def method_options(self, method: str, target: str) -> dict[str, float | int]:
        """The paper's settings of ``method`` for this family and target.

        Only PudNet has any: eta (section 4.3) and the number of stacked GRU layers (Table 11).
        """
        if method != "pudnet":
            return {}
        like = "resnet18" if target.startswith("resnet") else target  # the paper gives none for ResNet-34
        return {"eta": dict(self.eta).get(like, 0.2), "gru_layers": dict(self.gru_layers).get(like, 1)}


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "fashion", "Fashion-set", "fashion-mnist", 6, 4, 2, 600, 2, 2_000,
            eta=(("convnet3", 0.2), ("resnet18", 0.2)), gru_layers=(("resnet18", 2),), validation_folds=3,
        ),
        Family(
            "cifar100", "CIFAR100-set", "cifar-100", 80, 20, 5, 500, 16, 100_000,
            eta=(("convnet3", 0.1), ("resnet18", 0.5)), gru_layers=(("resnet18", 2),),
        ),
        Family(
            "imagenet", "ImageNet-set", "mini-imagenet", 80, 20, 5, 500, 16, 50_000,
            eta=(("convnet3", 0.3), ("resnet18", 0.5)), gru_layers=(("resnet18", 4),), image_size=84,
        ),
        Family("digits", "Digits-set", "digits", 6, 4, 2, 100, 2, 2_000, gru_layers=(("resnet18", 2),)),
        Family(
            "cifar100-20", "CIFAR100, 20 unseen classes", "cifar-100", 80, 20, 20, 10_000, 16, 100_000,
            test_images=2_000, trained_on="cifar100",
        ),
        Family(
            "digits-4", "Digits, 4 unseen classes", "digits", 6, 4, 4, 400, 2, 2_000,
            test_images=200, trained_on="digits",
        ),
    )
}  # fmt: skip


def family_of_folder(name: str, class_sizes: dict[str, int]) -> Family:
    """A family for a user's own image folder, split and sized after the paper's two kinds of families.

    Twenty classes or more: 80% training classes, 5 ways; fewer: 60%, 2 ways. Groups have up to 100 fit images per
    class, and never more than half of the smallest class. Raises FamilyError when there are too few classes or images.
    """
    n = len(class_sizes)
    ways, share = (5, 0.8) if n >= 20 else (2, 0.6)
    if n < 3 * ways:
        raise FamilyError(
            f"source '{name}' has {n} classes, and a family needs at least {3 * ways}: {ways} to train on, {ways} held out "
            f"to validate on and {ways} never seen; add class folders"
        )
    unseen = max(ways, n - round(share * n))
    smallest = min(class_sizes, key=lambda c: class_sizes[c])
    per_class = min(100, class_sizes[smallest] // 2)
    if per_class < 2 * 10:
        raise FamilyError(
            f"class '{smallest}' of source '{name}' has {class_sizes[smallest]} images, and a family needs at least 40 in "
            "every class (20 to fit, 20 to test); add images or remove the class"
        )
    return Family(name, name, name, n - unseen, unseen, ways, per_class * ways, max(ways, (n - unseen) // 5), 2_000)


def family(name: str) -> Family:
    """The built-in family ``name``. Raises SuiteError with the nearest name when there is none."""
    family: Family = pick("family", name, FAMILIES)
    return family
