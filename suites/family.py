"""Families: which classes of a source are trained on, which stay unseen, and how large a group is.

Imports no array library, so that listing families is instant.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from pudnet_bench.errors import BenchError


class FamilyError(BenchError):
    """A family that does not fit its source, or that cannot be made from it."""


@dataclass(frozen=True)
class Family:
    """A source, its class split, and the size of its groups.

    Attributes:
        training_classes: Classes to meta-train on, those held out for validation included.
        unseen_classes: Classes of the measured groups.
        ways: Classes per group.
        images: Fit images per group, in equal parts of each class. 0: a group has every image of its classes, one random
            half of each class to fit and the other to test.
        validation_classes: Training classes held out while the length of meta-training is chosen.
        meta_groups: The paper's number of training groups.
        image_size: Side in pixels to which images are resized; None: the source's own.
        test_images: Test images per group, of the same classes; 0: as many as fit images.
        validation_folds: Trainings that choose the length, each with other validation classes held out.
        trained_on: Family to meta-train on and to take the normalisation from; "": this one.
        unused_classes: Classes of the source that are neither trained on nor tested.
        most_groups: Limit on measured groups, for large groups that are repeated splits of the same images; 0: none.
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
    _: KW_ONLY
    image_size: int | None = None
    test_images: int = 0
    validation_folds: int = 1
    trained_on: str = ""
    unused_classes: int = 0
    most_groups: int = 0

    @property
    def classes(self) -> int:
        return self.training_classes + self.unused_classes + self.unseen_classes

    @property
    def images_per_class(self) -> int:
        return self.images // self.ways

    @property
    def test_images_per_class(self) -> int:
        return (self.test_images or self.images) // self.ways
