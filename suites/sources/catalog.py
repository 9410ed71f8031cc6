"""The image sources known by name. Standard library only, so that listing them is instant."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pudnet_bench.errors import BenchError


class SourceError(BenchError):
    """An image source that cannot be found, read or cached."""


class Background(StrEnum):
    """What transparent pixels are laid on."""

    WHITE = "white"
    BLACK = "black"


@dataclass(frozen=True)
class SourceSpec:
    """An image source known by name."""

    name: str
    description: str
    classes: int  # of the complete source
    channels: int  # 1 (grey) or 3 (RGB)
    image_size: int  # side in pixels
    layouts: tuple[str, ...]  # paths under the data folder where it may be, for people
    origin: str  # where to get it
    torchvision: str | None = None  # class of `torchvision.datasets` that downloads it
    resize: int | None = None  # side in pixels to which `load` resizes by default, where images are of many sizes


SOURCES: dict[str, SourceSpec] = {
    spec.name: spec
    for spec in (
        # name, description, classes, channels, image size, layouts, origin
        SourceSpec("digits", "1,797 handwritten digits, 8x8 grey, 10 classes; comes with scikit-learn", 10, 1, 8,
                   ("part of scikit-learn",), "https://scikit-learn.org (installed with the harness)"),
        SourceSpec("fashion-mnist", "70,000 articles of clothing, 28x28 grey, 10 classes", 10, 1, 28,
                   ("FashionMNIST/raw/*-ubyte (or .gz)", "fashion-mnist/{train,test}/<class>/*"),
                   "https://github.com/zalandoresearch/fashion-mnist", torchvision="FashionMNIST"),
        SourceSpec("cifar-10", "60,000 photographs, 32x32 colour, 10 classes", 10, 3, 32,
                   ("cifar-10-batches-py/", "cifar-10/{train,test}/<class>/*"),
                   "https://www.cs.toronto.edu/~kriz/cifar.html", torchvision="CIFAR10"),
        SourceSpec("cifar-100", "60,000 photographs, 32x32 colour, 100 classes", 100, 3, 32,
                   ("cifar-100-python/", "cifar-100/{train,test}/<class>/*"),
                   "https://www.cs.toronto.edu/~kriz/cifar.html", torchvision="CIFAR100"),
        SourceSpec("mini-imagenet", "60,000 photographs, 84x84 colour, 100 classes of ImageNet", 100, 3, 84,
                   ("mini-imagenet/{train,val,test}/<class>/*", "mini-imagenet/<class>/*",
                    "mini-imagenet-cache-{train,validation,test}.pkl"),
                   "https://zenodo.org/record/7978538 (learn2learn's three .pkl files)"),
        SourceSpec("animals-10", "26,179 photographs of animals, of many sizes, colour, 10 classes", 10, 3, 84,
                   ("animals-10/<class>/*", "animals-10/{train,test}/<class>/*", "raw-img/<class>/*"),
                   "https://www.kaggle.com/datasets/alessiocorrado99/animals10", resize=84),
    )
}  # fmt: skip
