"""Cache of decoded sources: written once, then memory-mapped by every process.

    <cache_dir>/images-v<FORMAT>/<name>-<fingerprint[:16]>[-<size>]/   images.npy, labels.npy, meta.json
    <cache_dir>/images-v<FORMAT>/index/<key>.json                      the folder that a list of files decodes to

With the index, a second load walks over the files and decodes nothing. Its key covers every file's size and modification
time, so a changed source is decoded again. A folder is written under a temporary name and then renamed, so it is never seen
half-written; of two processes that decode the same source, the second uses the folder of the first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pudnet_bench.results.store.files import checksummed_json, quarantine, read_checksummed_json, write_atomically
from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.content import Content, Listing, Source, fingerprint, images_per_block
from pudnet_bench.suites.sources.copies import Copies, hashes

# Raise it when decoding or the files change: caches of other versions are then neither used nor taken for damaged ones.
FORMAT = 3
TEMPORARY = ".temporary-"
REMEDY = "the source is decoded again"
SWEEP_SECONDS = 86_400  # age at which files of killed processes, and damaged ones, are removed


class _DamagedError(Exception):
    """A cache folder that is not what its meta.json says."""


def index_key(listing: Listing, name: str, size: int | None) -> str:
    """Return the key of a source's index entry: everything that decides what its files decode to, short of their bytes."""
    # With the resolved path: two folders may hold files of equal names, sizes and times.
    parts = [name, size, listing.reading, str(listing.path.resolve()), listing.stamps]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def recall(cache_dir: Path, key: str, name: str) -> Source | None:
    """Return the source cached under an index key; None, with a warning if something is damaged, if it must be decoded."""
    root = _root(cache_dir)
    entry = root / "index" / f"{key}.json"
    try:
        folder = root / Path(read_checksummed_json(entry.read_bytes())["folder"]).name
        return _open(folder, name) if folder.is_dir() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = f"cannot read the image cache {cache_dir} ({error.strerror})"
        raise SourceError(f"{reason}: choose another cache folder") from error
    except ValueError as error:
        quarantine(entry, str(error), REMEDY)
    except _DamagedError as error:
        quarantine(folder, str(error), REMEDY)
    return None


def store(cache_dir: Path, key: str, name: str, size: int | None, content: Content) -> Source:
    """Write `content` to the cache, add it to the index and return it memory-mapped.

    If the cache already holds the same content, that is used. Raises SourceError if the cache cannot be written; errors of
    decoding pass through.
    """
    root = _root(cache_dir)
    temporary = root / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        _sweep(root)
        digest = _write(temporary, content, name)
        folder = root / (f"{name}-{digest[:16]}" + (f"-{size}" if size else ""))
        source = _publish(temporary, folder, name)
        (root / "index").mkdir(exist_ok=True)
        write_atomically(root / "index" / f"{key}.json", checksummed_json({"folder": folder.name}))
        return source
    except OSError as error:
        reason = f"cannot write the image cache {cache_dir} ({error.strerror or error})"
        raise SourceError(f"{reason}: free some space there or choose another cache folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path, name: str) -> Source:
    """Rename a complete temporary folder to `folder`; if that exists and is sound, use it instead."""
    if folder.exists():
        try:
            return _open(folder, name)
        except _DamagedError as error:
            quarantine(folder, str(error), REMEDY)
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # a full or read-only disk, and not another process that was faster
            raise
    try:
        return _open(folder, name)
    except _DamagedError as error:
        raise SourceError(f"the image cache {folder} is damaged ({error}): remove it and try again") from error


def _write(folder: Path, content: Content, name: str) -> str:
    """Write the three files of a cache folder and return the fingerprint."""
    found = []

    def written() -> Iterator[np.ndarray]:
        # Plain writes, not a writable memory map: on a full disk a map kills the process instead of raising.
        with (folder / "images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": content.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in map(np.ascontiguousarray, content.blocks):
                file.write(block.data)
                found.append(hashes(block))
                yield block

    np.save(folder / "labels.npy", content.labels, allow_pickle=False)
    digest = fingerprint(content.shape, written(), content.labels, content.class_names)
    copies = Copies.of(np.concatenate(found))
    meta = {
        "name": name,
        "fingerprint": digest,
        "shape": content.shape,
        "dtype": "uint8",
        "class_names": content.class_names,
        "copies": {"positions": copies.positions.tolist(), "firsts": copies.firsts.tolist()},
        "bytes": {file: (folder / file).stat().st_size for file in ("images.npy", "labels.npy")},
    }
    write_atomically(folder / "meta.json", checksummed_json(meta))
    return digest


def _open(folder: Path, name: str) -> Source:
    """Memory-map a cache folder; raises _DamagedError if a byte is not what was written.

    All images are read to verify them, at about a gigabyte per second: numbers from a damaged image would be wrong.
    """
    file = folder / "meta.json"
    try:
        meta = read_checksummed_json(file.read_bytes())
        for part, size in meta["bytes"].items():
            file = folder / part
            if file.stat().st_size != size:
                raise _DamagedError(f"{part} has {file.stat().st_size} bytes where {size} were written")
        images = np.load(file := folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(file := folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _DamagedError(f"{file.name}: {error}") from error
    if list(images.shape) != meta["shape"] or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise _DamagedError("the arrays have another shape than meta.json says")
    blocks = _stored_blocks(folder / "images.npy", images)
    if fingerprint(images.shape, blocks, labels, meta["class_names"]) != meta["fingerprint"]:
        raise _DamagedError("the images were changed after they were written")
    copies = Copies(**{part: np.array(values, np.int64) for part, values in meta["copies"].items()})
    return Source(name, images, labels, tuple(meta["class_names"]), meta["fingerprint"], copies)


def _stored_blocks(file: Path, images: np.memmap) -> Iterator[np.ndarray]:
    """The pixels of a memory-mapped file, as plain reads: every page of a map that is touched is this process's memory."""
    with file.open("rb") as stored:
        stored.seek(images.offset)
        while block := stored.read(images_per_block(images.shape[1:]) * images[0].nbytes):
            yield np.frombuffer(block, np.uint8)


def _root(cache_dir: Path) -> Path:
    return cache_dir / f"images-v{FORMAT}"


def _sweep(root: Path) -> None:
    """Remove old folders that killed processes left behind or that were damaged."""
    for left in [*root.glob(f"{TEMPORARY}*"), *root.glob("*.corrupt")]:
        try:
            if time.time() - left.stat().st_mtime > SWEEP_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue
