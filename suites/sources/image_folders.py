"""Image folders: `DIR/<class>/*` or `DIR/{train,val,test}/<class>/*`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.content import BLOCK, Content, Listing, resized

SPLITS = frozenset({"train", "val", "valid", "validation", "test"})
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Raster formats only: Pillow's EPS reader, for one, would run Ghostscript on untrusted files.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
GREY = SIXTEEN_BIT | {"1", "L"}

T = TypeVar("T")
R = TypeVar("R")


def list_image_folder(root: Path, channels: int | None) -> Listing:
    """List the images under `root`: those of a class pooled over the splits, classes in the order of their names.

    Images have 1 or 3 `channels`; None: 1 if every image is grey, else 3. Dotfiles, and files without an image's suffix, are
    ignored. Raises SourceError if the folder has no class, a class has no image, or a file cannot be read.
    """
    tops = _folders(root)
    if not tops:
        raise SourceError(f"{root} has no class folders: put the images of each class into {root}/<class>/")
    if {top.name for top in tops} <= SPLITS and not any(_images(top) for top in tops):
        classes = [folder for split in tops for folder in _folders(Path(split.path))]
        if not classes:
            raise SourceError(f"{root} has no class folders: put the images of each class into {tops[0].path}/<class>/")
    else:
        classes = tops

    files: dict[str, list[str]] = {}
    stamps = []
    for folder in classes:
        images = _images(folder)
        if not images:
            raise SourceError(f"the class folder {folder.path} has no image: put its images there or remove the folder")
        inside = os.path.relpath(folder.path, root)
        for image in images:
            try:
                stat = image.stat()
            except OSError as error:
                raise SourceError(f"cannot read {image.path}: {error.strerror}; replace it or remove it") from error
            stamps.append((f"{inside}/{image.name}", stat.st_size, stat.st_mtime_ns))
        files.setdefault(folder.name, []).extend(image.path for image in images)
    return Listing(root, stamps, lambda size: _decode(files, channels, size))


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Return the entries of a folder in the order of their names, without dotfiles."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f"cannot read the folder {os.fspath(folder)}: {error.strerror}") from error


def _folders(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _images(folder: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    # "not a folder" instead of "a file", so that a broken link becomes an error and is not ignored
    return [entry for entry in _entries(folder) if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]


def _decode(files: dict[str, list[str]], channels: int | None, size: int | None) -> Content:
    names = sorted(files)
    paths = [path for name in names for path in files[name]]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(files[name]) for name in names])
    batches = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    n_channels = channels or (1 if all(_in_threads(_all_grey, batches)) else 3)
    height, width = _pixels(paths[0], n_channels, size).shape[:2]

    def block(batch: Sequence[str]) -> np.ndarray:
        out = np.empty((len(batch), n_channels, height, width), dtype=np.uint8)
        for i, path in enumerate(batch):
            pixels = _pixels(path, n_channels, size)
            if pixels.shape[:2] != (height, width):
                sizes = f"{paths[0]} is {width}x{height} pixels but {path} is {pixels.shape[1]}x{pixels.shape[0]}"
                raise SourceError(f"{sizes}: resize them to one size first")
            out[i] = pixels if n_channels == 1 else pixels.transpose(2, 0, 1)
        return out

    return Content((len(paths), n_channels, height, width), labels, tuple(names), _in_threads(block, batches))


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`map` over threads, in order: Pillow releases the interpreter lock while it decodes."""
    Image.init()  # loading Pillow's readers is not thread-safe
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield from pool.map(work, items)
        finally:  # after an error, or if the consumer stops early, do not decode the rest
            pool.shutdown(wait=True, cancel_futures=True)


def _all_grey(paths: Sequence[str]) -> bool:
    for path in paths:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.mode not in GREY:
                    return False
        except Exception as error:
            raise _undecodable(path, error) from error
    return True


def _pixels(path: str, channels: int, size: int | None) -> np.ndarray:
    """Return uint8 [h, w] for one channel, [h, w, 3] for three."""
    try:
        with Image.open(path, formats=FORMATS) as stored:
            # Pillow would clip 16-bit grey at 255; take the high byte.
            sixteen_bit = stored.mode in SIXTEEN_BIT
            high = (np.asarray(stored).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8) if sixteen_bit else None
            image = (stored if high is None else Image.fromarray(high)).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's readers raise nearly every kind of exception on a damaged file
        raise _undecodable(path, error) from error
    return np.asarray(image) if size is None or image.size == (size, size) else resized(image, size)


def _undecodable(path: str, error: Exception) -> SourceError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return SourceError(f"cannot decode the image {path} ({reason}): replace it or remove it")
