"""A source before and after decoding: the types that the readers, the cache and `load` share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.copies import Copies

BLOCK_BYTES = 4_000_000  # of a block of images: large enough to amortise overhead, small enough to hold a dozen


@dataclass(frozen=True)
class Source:
    """A decoded image source.

    Attributes:
        images: uint8 [n, c, h, w], a read-only memory map shared by all processes.
        labels: int64 [n], ascending, so that the images of a class are contiguous; values 0..len(class_names)-1.
        fingerprint: Hexadecimal BLAKE2b of pixels, labels and class names, wherever the content lies on disk.
        copies: Images that equal others; groups are drawn as if those in `left_out` were not there.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    copies: Copies = field(default_factory=Copies)

    @property
    def left_out(self) -> np.ndarray:
        """Positions of the images that are in no group, int64, ascending."""
        return self.copies.left_out(self.labels)

    @property
    def class_sizes(self) -> dict[str, int]:
        """Number of images of each class that groups are drawn from."""
        kept = np.delete(self.labels, self.left_out)
        return dict(zip(self.class_names, np.bincount(kept, minlength=len(self.class_names)).tolist(), strict=True))


@dataclass(frozen=True)
class Content:
    """Pixels on their way to the cache, block by block, so that memory does not grow with the source.

    Attributes:
        shape: (n, c, h, w) of all images.
        labels: int64 [n], ascending.
        blocks: Yields uint8 [k, c, h, w] in the order of `labels`, once.
    """

    shape: tuple[int, int, int, int]
    labels: np.ndarray
    class_names: tuple[str, ...]
    blocks: Iterator[np.ndarray]


@dataclass(frozen=True)
class Listing:
    """The files of a source, found but not yet decoded.

    Attributes:
        stamps: (path relative to `path`, bytes, mtime_ns) of every file: enough to detect a change without reading any.
        decode: Reads them and resizes to the given side in pixels; None: the size as stored.
        reading: What else than the size decides what they decode to.
        warning: What was passed over, or may not be meant; "" for nothing.
        paths: File of each image in the order of labels; empty where a file holds many images.
    """

    path: Path
    stamps: list[tuple[str, int, int]]
    decode: Callable[[int | None], Content]
    reading: str = ""
    warning: str = ""
    paths: Sequence[str] = ()


Section = tuple[int, np.ndarray, np.ndarray]  # label, images uint8 [n, h, w] or [n, h, w, c], indices int64 [k] in them


def images_per_block(shape: tuple[int, ...]) -> int:
    """Return how many images of `shape` (c, h, w) are processed at a time."""
    return max(1, BLOCK_BYTES // math.prod(shape))


def fingerprint(shape: tuple[int, ...], blocks: Iterator[np.ndarray], labels: np.ndarray, names: Sequence[str]) -> str:
    """Return the hexadecimal BLAKE2b of uint8 blocks ([k, c, h, w], `shape` in all), int64 labels and class names."""
    digest = hashlib.blake2b(json.dumps([list(shape), list(names)]).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    for block in blocks:
        digest.update(np.ascontiguousarray(block).reshape(-1).data)
    return digest.hexdigest()


def list_files(root: Path, files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return the stamps of `files` for a `Listing` of `root`. Raises SourceError if a file is missing."""
    stamps = []
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise SourceError(f"cannot read {file}: {error.strerror}; put the file back or fetch it again") from error
        stamps.append((str(file.relative_to(root)), stat.st_size, stat.st_mtime_ns))
    return stamps


def content_of_arrays(sections: Sequence[Section], class_names: Sequence[str], size: int | None) -> Content:
    """Return the content of images that are in memory, all of one shape, resized to `size` pixels (None: as stored).

    The sections are in ascending order of label.
    """
    first = sections[0][1]
    height, width = (size, size) if size else first.shape[1:3]
    channels = first.shape[3] if first.ndim == 4 else 1
    labels = np.concatenate([np.full(len(indices), label, dtype=np.int64) for label, _, indices in sections])

    def blocks() -> Iterator[np.ndarray]:
        step = images_per_block((channels, height, width))
        for _, images, indices in sections:
            for start in range(0, len(indices), step):
                block = images[indices[start : start + step]]
                if block.shape[1:3] != (height, width):
                    block = np.stack([resized(Image.fromarray(image), width) for image in block])
                yield block.reshape(len(block), height, width, channels).transpose(0, 3, 1, 2)

    return Content((len(labels), channels, height, width), labels, tuple(class_names), blocks())


def resized(image: Image.Image, size: int) -> np.ndarray:
    """Return the pixels of `image` at `size` x `size`, bilinear with antialiasing; the aspect ratio may change."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
