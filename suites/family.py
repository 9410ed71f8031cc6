"""A family: which classes of a source are trained on, which are never seen, and how large a group is.

Imports no array library: listing families must be instant.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from pudnet_bench.errors import BenchError


class FamilyError(BenchError):
    """A family that is not known or does not fit its source; the message names it and the way out."""


@dataclass(frozen=True)
class Family:
    """A source, its class split, and the size of its groups.

    A group has ``images`` fit images, ``images / ways`` of each of ``ways`` classes, and ``test_images`` test images of
    the same classes (0: as many as fit images). With ``images`` 0 a group is every image of its classes, of each class
    one random half to fit and the other to test. ``unused_classes`` of the source are neither trained on nor tested.
    ``validation_classes`` of the training classes are held out while the length of meta-training is chosen,
    ``validation_folds`` times, other ones each time.
    Methods meta-train on the family ``trained_on`` ("": this one), whose mean and deviation normalise the images too.
    ``meta_groups`` is the paper's number of training groups. Of large groups at most ``most_groups`` are tested (0: any
    number): they are repeated splits of the same images.
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
