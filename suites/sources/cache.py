"""Decoded sources on disk: written once, then memory-mapped by every process.

    <cache_dir>/sources/<name>-<fingerprint[:16]>[-<size>]/   images.npy, labels.npy, meta.json
    <cache_dir>/sources/index/<key>.json                      which of these folders a list of files decodes to

The index makes a second load cost one walk over the files and no decoding; since its key covers every file's size and
modification time, a changed source is decoded again. Folders are completed under a temporary name and then renamed, so
whoever sees one sees it whole; of two processes that decode the same source the second uses the first one's folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.content import BLOCK, Content, Listing, Source, fingerprint

DECODER = 1  # raise it when decoding changes, so that what older code decoded is not used
_UNFINISHED = ".unfinished-"


class _DamagedError(Exception):
    """A cache folder that is not what its meta.json says; the message names the file."""


def index_key(listing: Listing, name: str, size: int | None) -> str:
    """Key of a source's index entry: everything that decides what its files decode to, short of reading them."""
    # The resolved path is part of it: two folders may well hold files of equal names, sizes and times.
    parts = [DECODER, name, size, str(listing.path.resolve()), listing.stamps]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def recall(cache_dir: Path, key: str, name: str) -> Source | None:
    """The source stored for an index key; None, with a warning if something is damaged, where it must be decoded."""
    entry = _index_file(cache_dir, key)
    try:
        folder = cache_dir / "sources" / Path(_read_json(entry)["folder"]).name
        return _open(folder, name) if folder.is_dir() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceError(
            f"cannot read the image cache {cache_dir} ({error.strerror}): choose another cache folder"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _set_aside(entry, f"{entry}: {error}")
    except _DamagedError as error:
        _set_aside(folder, str(error))
    return None


def store(cache_dir: Path, key: str, name: str, size: int | None, content: Content) -> Source:
    """Write ``content`` to the cache, note it in the index and return it memory-mapped.

    Where the same content is there already, that is used.
    Raises ``SourceError`` if the cache cannot be written, and whatever decoding raises.
    """
    sources = cache_dir / "sources"
    unfinished = sources / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        _sweep(sources)
        digest = _write(unfinished, content, name)
        folder = sources / (f"{name}-{digest[:16]}" + (f"-{size}" if size else ""))
        source = _publish(unfinished, folder, name)
        _write_json(_index_file(cache_dir, key), {"folder": folder.name})
        return source
    except OSError as error:
        raise SourceError(
            f"cannot write the image cache {cache_dir} ({error.strerror or error}): "
            "free some space there or choose another cache folder"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, folder: Path, name: str) -> Source:
    """Give a finished folder its name; if that is taken, use what is there unless it is damaged."""
    if folder.exists():
        try:
            return _open(folder, name)
        except _DamagedError as error:
            _set_aside(folder, str(error))
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # a full or read-only disk, not another process that was faster
            raise
    try:
        return _open(folder, name)
    except _DamagedError as error:
        raise SourceError(f"the image cache cannot be kept ({error}): remove {folder} and try again") from error


def _write(folder: Path, content: Content, name: str) -> str:
    """Write the three files of a cache folder; returns the fingerprint."""

    def written() -> Iterator[np.ndarray]:
        # Plain writes, not a writable memory map: on a full disk a map kills the process instead of raising.
        with (folder / "images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": content.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in content.blocks:
                whole = np.ascontiguousarray(block)
                file.write(whole.data)
                yield whole

    np.save(folder / "labels.npy", content.labels, allow_pickle=False)
    digest = fingerprint(content.shape, written(), content.labels, content.class_names)
    meta = {
        "name": name,
        "fingerprint": digest,
        "shape": list(content.shape),
        "dtype": "uint8",
        "class_names": list(content.class_names),
        "bytes": {file: (folder / file).stat().st_size for file in ("images.npy", "labels.npy")},
    }
    _write_json(folder / "meta.json", meta)
    return digest


def _open(folder: Path, name: str) -> Source:
    """Map a cache folder. Raises ``_DamagedError`` if a byte is not what it was when it was written.

    All images are read for that, a gigabyte in about a second: a number from a damaged image would be a wrong one.
    """
    file = folder / "meta.json"
    try:
        meta = _read_json(file)
        for part, size in meta["bytes"].items():
            file = folder / part
            if file.stat().st_size != size:
                raise _DamagedError(f"{file} has {file.stat().st_size} bytes where {size} were written")
        file = folder / "images.npy"
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        file = folder / "labels.npy"
        labels = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _DamagedError(f"{file}: {error}") from error
    if list(images.shape) != meta["shape"] or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise _DamagedError(f"{folder} holds arrays of another shape than its meta.json says")
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    if fingerprint(images.shape, blocks, labels, meta["class_names"]) != meta["fingerprint"]:
        raise _DamagedError(f"{folder}: the images were changed after they were written")
    return Source(name, images, labels, tuple(meta["class_names"]), meta["fingerprint"])


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _index_file(cache_dir: Path, key: str) -> Path:
    return cache_dir / "sources" / "index" / f"{key}.json"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    unfinished.write_text(json.dumps(value | {"checksum": _checksum(value)}))
    unfinished.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    """What ``_write_json`` was given. Raises ValueError, KeyError or AttributeError where it is not what was written."""
    value: dict[str, Any] = json.loads(path.read_text())
    if value.pop("checksum") != _checksum(value):
        raise ValueError("it was changed after it was written")
    return value


def _set_aside(path: Path, damage: str) -> None:
    """Remove a damaged file or folder with a warning; by a rename first, so that nobody opens a half of it."""
    warnings.warn(f"the image cache is damaged and is built again: {damage}", stacklevel=5)
    aside = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as error:
        raise SourceError(f"the image cache is damaged ({damage}) and cannot be repaired: remove {path}") from error
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _sweep(sources: Path) -> None:
    """Remove what killed processes left more than a day ago."""
    for left in sources.glob(f"{_UNFINISHED}*"):
        try:
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue
