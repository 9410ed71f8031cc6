"""Sources stored as arrays: torchvision's idx files and CIFAR batches, learn2learn's mini-ImageNet, digits."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.content import Content, Listing, Section, content_of_arrays, list_files
from pudnet_bench.suites.sources.pickles import read_pickle

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class CifarFiles:
    """A CIFAR source: MD5 of each file of images, name and MD5 of the file of class names, and keys in the two."""

    batches: dict[str, str]
    meta: tuple[str, str]
    label_key: str
    names_key: str


# MD5s of torchvision.datasets (a test compares them), copied because importing torchvision takes seconds.
CIFAR_10 = CifarFiles(
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"), "labels", "label_names",
)  # fmt: skip
CIFAR_100 = CifarFiles(
    {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ("meta", "7973b15100ade9c7d40fb424638fde48"), "fine_labels", "fine_label_names",
)  # fmt: skip


def list_digits() -> Listing:
    """List scikit-learn's 1,797 handwritten digits: [n, 1, 8, 8], grey levels 0..16 scaled to 0..255."""
    root = digits_file().parent

    def decode(size: int | None) -> Content:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        return content_of_arrays(_by_label(images, digits.target, 10, root), [str(i) for i in range(10)], size)

    return Listing(root, list_files(root, [digits_file()]), decode)


def digits_file() -> Path:
    """Return scikit-learn's file of digits, without importing scikit-learn (which takes a second)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise SourceError("the source 'digits' is part of scikit-learn, which is not installed: install scikit-learn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def list_idx(root: Path) -> Listing:
    """List torchvision's `FashionMNIST/raw`: four idx files, plain or .gz. Raises SourceError if one is missing."""
    pairs = [
        (_plain_or_packed(root, f"{split}-images-idx3-ubyte"), _plain_or_packed(root, f"{split}-labels-idx1-ubyte"))
        for split in ("train", "t10k")
    ]

    def decode(size: int | None) -> Content:
        images = [_read_idx(path, 3) for path, _ in pairs]
        labels = [_read_idx(path, 1) for _, path in pairs]
        for (image_path, label_path), batch, batch_labels in zip(pairs, images, labels, strict=True):
            if len(batch) != len(batch_labels):
                counts = f"{image_path} holds {len(batch)} images but {label_path} {len(batch_labels)} labels"
                raise SourceError(f"{counts}: delete both and fetch them again")
        sections = _by_label(np.concatenate(images), np.concatenate(labels), len(FASHION_CLASSES), root)
        return content_of_arrays(sections, FASHION_CLASSES, size)

    return Listing(root, list_files(root, [path for pair in pairs for path in pair]), decode)


def _plain_or_packed(root: Path, name: str) -> Path:
    packed = root / f"{name}.gz"
    return packed if packed.exists() and not (root / name).exists() else root / name


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array of an idx file: a magic number, one big-endian size per dimension, then the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{dimensions + 1}I", raw)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise SourceError(f"cannot read {path} ({error}): delete it and fetch it again") from error
    start = 4 * (dimensions + 1)
    if magic != 0x0800 + dimensions or len(raw) - start != math.prod(shape) or not len(raw) > start:
        raise SourceError(f"{path} is not a complete idx file of {dimensions} dimensions: delete it and fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def list_cifar(root: Path, files: CifarFiles) -> Listing:
    """List torchvision's CIFAR folder: pickled batches, read only if their MD5 is the published one."""
    published = dict([*files.batches.items(), files.meta])

    def decode(size: int | None) -> Content:
        for name, digest in published.items():
            if _md5(root / name) != digest:
                raise SourceError(f"{root / name} is not the published file: delete {root} and fetch it again")
        batches = [read_pickle(root / name) for name in files.batches]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([batch[files.label_key] for batch in batches])
        names = read_pickle(root / files.meta[0])[files.names_key]
        return content_of_arrays(_by_label(images, labels, len(names), root), names, size)

    return Listing(root, list_files(root, [root / name for name in published]), decode)


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise SourceError(f"cannot read {path} ({error.strerror}): delete it and fetch it again") from error


def mini_imagenet_pickles(root: Path) -> list[Path]:
    """Return learn2learn's files in `root`, in the order of their names."""
    return sorted(root.glob("mini-imagenet-cache-*.pkl"))


def list_mini_imagenet(root: Path) -> Listing:
    """List learn2learn's `mini-imagenet-cache-*.pkl`: splits pooled, classes in the order of their names.

    Nothing in a file is executed; decoding raises SourceError where it is not the expected dictionary.
    """
    paths = mini_imagenet_pickles(root)

    def decode(size: int | None) -> Content:
        found = [(name, images, indices) for path in paths for name, images, indices in _mini_imagenet_classes(path)]
        if len({images.shape[1:] for _, images, _ in found}) > 1:
            files = f"the mini-imagenet-cache-*.pkl files in {root}"
            raise SourceError(f"{files} hold images of several sizes: download them again")
        names = sorted({name for name, _, _ in found})
        sections = sorted(((names.index(name), images, indices) for name, images, indices in found), key=lambda s: s[0])
        return content_of_arrays(sections, names, size)

    return Listing(root, list_files(root, paths), decode)


def _mini_imagenet_classes(path: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (class name, images of the file, indices of the class) for each class of one file."""
    invalid = SourceError(
        f"{path} is not one of learn2learn's mini-ImageNet files (a dictionary of 'image_data', uint8 [n, h, w, 3], "
        "and 'class_dict', name -> indices): download it again from its origin, or use an image folder"
    )
    content: Any = read_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("class_dict"), dict) or not content["class_dict"]:
        raise invalid
    images = content.get("image_data")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise invalid
    classes = []
    for name, members in content["class_dict"].items():
        try:
            indices = np.asarray(members)
        except ValueError:
            raise invalid from None
        is_list = indices.ndim == 1 and len(indices) and indices.dtype.kind in "iu"
        if not is_list or indices.min() < 0 or indices.max() >= len(images):
            raise invalid
        classes.append((str(name), images, indices))
    return classes


def _by_label(images: np.ndarray, labels: np.ndarray, classes: int, root: Path) -> list[Section]:
    """Return one section per class for `content_of_arrays`, images in stored order."""
    if set(np.unique(labels)) != set(range(classes)):
        raise SourceError(f"{root} does not hold images of exactly {classes} classes: fetch it again")
    return [(label, images, np.flatnonzero(labels == label)) for label in range(classes)]
