"""Find, download, decode and verify image sources by name."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from pudnet_bench.suites.sources import array_files, cache
from pudnet_bench.suites.sources.catalog import SOURCES, Background, SourceError, SourceSpec
from pudnet_bench.suites.sources.content import Content, Listing, Source
from pudnet_bench.suites.sources.copies import Copies, SourceWarning
from pudnet_bench.suites.sources.folder_layout import counted
from pudnet_bench.suites.sources.image_folders import list_image_folder

__all__ = ["Source", "SourceSummary", "fetch", "load", "locate", "verify"]

Folders = Mapping[str, Path]  # a user's image folders, by source name
NO_FOLDERS: Folders = MappingProxyType({})


@dataclass(frozen=True)
class SourceSummary:
    """Outcome of `verify`: counts, `size` as (height, width) in pixels, and the source's folder."""

    name: str
    images: int
    classes: int
    size: tuple[int, int]
    channels: int
    fingerprint: str
    path: Path


class _Place(NamedTuple):
    """Folder of a source, and how to list its files."""

    path: Path
    listing: Callable[[], Listing]


def load(
    name: str,
    *,
    data_dir: Path | None,
    cache_dir: Path,
    folders: Folders = NO_FOLDERS,
    size: int | None = None,
    background: Background = Background.WHITE,
    allow_copies: bool = False,
) -> Source:
    """Return the source `name`, decoded once into `cache_dir` and memory-mapped from there afterwards.

    Training, validation and test images of a class are pooled. Images that groups leave out as they equal others are
    counted in a SourceWarning.

    Args:
        name: A known source, or a key of `folders`.
        data_dir: Folder in which to look for known sources.
        folders: The user's image folders by name, which take precedence over known sources.
        size: Side in pixels to which every image is brought; None: the source's default. Images of the user's folders are
            resized by their shorter side and the centre is cut out; both sides of others are resized.
        background: What transparent pixels are laid on.
        allow_copies: Leave no image out; the fingerprint of a source that has copies is then another one.

    Raises:
        SourceError: The source is unknown, missing, incomplete, damaged, of mixed sizes, or has a class of equal images; or
            the cache is not writable.
    """
    source, listing = _load(name, data_dir, cache_dir, folders, size, background, check=False)
    if allow_copies and len(source.left_out):
        return replace(source, copies=Copies(), fingerprint=f"{source.fingerprint}-copies")
    _warn_of_copies(source, listing, "; --allow-copies takes them all")
    return source


def locate(name: str, *, data_dir: Path | None, folders: Folders = NO_FOLDERS) -> Path | None:
    """Return the folder in which `load` would find the source (for `digits`, scikit-learn's own); None if it is missing.

    Use `verify` to check that it is complete. Raises SourceError if the name is unknown.
    """
    _check_name(name, folders)
    place = _find(name, data_dir, folders)
    return place.path if place else None


def fetch(name: str, data_dir: Path) -> Path:
    """Download the source into `data_dir` through torchvision, unless it is there, and return its folder.

    Raises SourceError if torchvision cannot download the source, or the download fails.
    """
    _check_name(name, NO_FOLDERS)
    spec = SOURCES[name]
    place = _find(name, data_dir, NO_FOLDERS)
    by_hand = f"get it from {spec.origin} and put it under {data_dir} as {' or '.join(spec.layouts)}"
    if spec.torchvision is None:
        if place is None:
            raise SourceError(f"{name} cannot be downloaded for you: {by_hand}")
        return place.path
    if place is not None and place.path == data_dir / name:
        return place.path  # an image folder; torchvision completes a folder of its own
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"cannot write the data folder {data_dir} ({error.strerror}): choose another") from error
    from torchvision import datasets

    try:
        getattr(datasets, spec.torchvision)(data_dir, download=True)
    except Exception as error:  # no network, a mirror that is down, a wrong checksum, a full disk, ...
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"cannot download {name} ({reason}): try again with a network, or {by_hand}") from error
    place = _find(name, data_dir, NO_FOLDERS)
    if place is None:
        raise _missing(spec, data_dir)
    return place.path


def verify(
    name: str,
    *,
    data_dir: Path | None,
    cache_dir: Path,
    folders: Folders = NO_FOLDERS,
    size: int | None = None,
    background: Background = Background.WHITE,
) -> SourceSummary:
    """Decode every image again, compare all bytes of the cache with the result, and summarise the source.

    A cache that differs is replaced, with a warning; copies are counted in another. Takes the arguments of `load`, and
    raises SourceError as it does.
    """
    source, listing = _load(name, data_dir, cache_dir, folders, size, background, check=True)
    _warn_of_copies(source, listing)
    n, channels, height, width = source.images.shape
    return SourceSummary(name, n, len(source.class_names), (height, width), channels, source.fingerprint, listing.path)


def _warn_of_copies(source: Source, listing: Listing, way_out: str = "") -> None:
    def named(position: int) -> str:
        if listing.paths:
            return os.path.relpath(listing.paths[position], listing.path)
        c = source.labels[position]
        return f"image {position - np.searchsorted(source.labels, c)} of {source.class_names[c]}"

    for sentence in source.copies.described(source.name, source.labels, named):
        warnings.warn(f"{sentence}{way_out}", SourceWarning, stacklevel=3)


def _load(
    name: str,
    data_dir: Path | None,
    cache_dir: Path,
    folders: Folders,
    size: int | None,
    background: Background,
    *,
    check: bool,
) -> tuple[Source, Listing]:
    _check_name(name, folders)
    if size is not None and size < 1:
        raise SourceError(f"images of {name} cannot be resized to {size} pixels: give a size of at least 1")
    spec = None if name in folders else SOURCES[name]
    place = _find(name, data_dir, folders, background)
    if place is None:
        if spec is None:
            raise SourceError(f"the folder {folders[name]} of the source {name!r} does not exist: give another folder")
        raise _missing(spec, data_dir)
    listing, size = place.listing(), size or (spec.resize if spec else None)
    if listing.warning:
        warnings.warn(listing.warning, SourceWarning, stacklevel=3)
    key = cache.index_key(listing, name, size)
    stored = None if check else cache.recall(cache_dir, key, name)
    if stored is None:
        content = listing.decode(size)
        if spec:
            _check_complete(spec, content, listing.path)
        stored = cache.store(cache_dir, key, name, size, content)
    _check_variety(stored, listing.path)
    return stored, listing


def _check_name(name: str, folders: Folders) -> None:
    known = sorted({*SOURCES, *folders})
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise SourceError(f"there is no source {name!r}: {hint}")
    if not re.fullmatch(r"\w[\w.+-]*", name):  # it names a folder of the cache
        raise SourceError(f"{name!r} cannot name a source: use letters, digits, '.', '_', '+' and '-'")


def _find(
    name: str, data_dir: Path | None, folders: Folders, background: Background = Background.WHITE
) -> _Place | None:
    """Return the first layout of the source that exists."""
    if name in folders:
        folder = Path(folders[name])
        listing = partial(list_image_folder, folder, None, crop=True, background=background)
        return _Place(folder, listing) if folder.is_dir() else None
    if name == "digits":
        return _Place(array_files.digits_file().parent, array_files.list_digits)
    try:
        return next(_places(SOURCES[name], Path(data_dir)), None) if data_dir is not None else None
    except OSError as error:  # a folder without permission
        raise SourceError(f"cannot look into the data folder {data_dir} ({error.strerror}): choose another") from error


def _places(spec: SourceSpec, data_dir: Path) -> Iterator[_Place]:
    raw = data_dir / "FashionMNIST" / "raw"
    if spec.name == "fashion-mnist" and any(raw.glob("*-ubyte*")):  # a failed download leaves the folder empty
        yield _Place(raw, partial(array_files.list_idx, raw))
    if spec.name == "cifar-10" and (batches := data_dir / "cifar-10-batches-py").is_dir():
        yield _Place(batches, partial(array_files.list_cifar, batches, array_files.CIFAR_10))
    if spec.name == "cifar-100" and (batches := data_dir / "cifar-100-python").is_dir():
        yield _Place(batches, partial(array_files.list_cifar, batches, array_files.CIFAR_100))
    if spec.name == "mini-imagenet":
        for root in (data_dir, data_dir / spec.name):
            if array_files.mini_imagenet_pickles(root):
                yield _Place(root, partial(array_files.list_mini_imagenet, root))
    # Kaggle's archive of Animals-10 unpacks to raw-img.
    inner = (f"{spec.name}/raw-img", spec.name, "raw-img") if spec.name == "animals-10" else (spec.name,)
    for folder in (data_dir / path for path in inner):
        if folder.is_dir():
            yield _Place(folder, partial(list_image_folder, folder, spec.channels))


def _missing(spec: SourceSpec, data_dir: Path | None) -> SourceError:
    if data_dir is None:
        where = "no data folder is given; pass --data DIR or set PUDNET_BENCH_DATA"
    elif not Path(data_dir).is_dir():
        where = f"the data folder {data_dir} does not exist; create it"
    else:
        where = f"it is not under {data_dir}; get it"
    command = f"`python -m harness data fetch {spec.name}` downloads it"
    how = command if spec.torchvision else f"it is published at {spec.origin}"
    return SourceError(
        f"the source {spec.name!r} is missing: {where}, and put {' or '.join(spec.layouts)} there; {how}"
    )


def _check_variety(source: Source, path: Path) -> None:
    """Raise SourceError for a class without two different images: no method can learn from it, and something went wrong."""
    equal = []
    starts = np.flatnonzero(np.diff(source.labels, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(source.labels)], strict=True):
        first = source.images[start]
        if end - start > 1 and all(np.array_equal(first, source.images[i]) for i in range(start + 1, end)):
            equal.append(source.class_names[source.labels[start]])
    if equal:
        others = len(equal) - 1
        more = f", and those of {counted(others, 'other class')}" if others else ""
        raise SourceError(
            f"all images of the class {equal[0]!r} in {path} are equal{more}: give it different images; if they differ in "
            "what is transparent, try the other --alpha-background"
        )


def _check_complete(spec: SourceSpec, content: Content, path: Path) -> None:
    """Raise SourceError for an incomplete copy, whose class splits would silently mean something else."""
    if len(content.class_names) != spec.classes:
        raise SourceError(
            f"{path} holds {len(content.class_names)} classes where {spec.name} has {spec.classes}: complete it "
            f"({' or '.join(spec.layouts)}), or use it under another name with --source NAME={path}"
        )
