"""A family: which classes of a source are trained on, which are never seen, and how large a group is.

Imports no array library: listing families must be instant.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    ``eta`` is the paper's share of the sketch in PudNet's initial residual, by target (section 4.3).
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
    eta: tuple[tuple[str, float], ...] = ()
    gru_layers: tuple[tuple[str, int], ...] = ()
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

    def method_options(self, method: str, target: str) -> dict[str, float | int]:
        """The paper's settings of ``method`` for this family and target.

        Only PudNet has any: eta (section 4.3) and the number of stacked GRU layers (Table 11).
        """
        if method != "pudnet":
            return {}
        like = "resnet18" if target.startswith("resnet") else target  # the paper gives none for ResNet-34
        return {"eta": dict(self.eta).get(like, 0.2), "gru_layers": dict(self.gru_layers).get(like, 1)}
