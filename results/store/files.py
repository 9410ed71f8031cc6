"""Atomic, checksummed file I/O. Standard library only, so that reading a file is instant."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pudnet_bench.errors import BenchError

READING = "while reading"  # the note of an error


class StoreError(BenchError):
    """A run folder that cannot be used."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that the name refers to the old file or the complete new one, even after a power cut.

    What is no regular file, such as a pipe, is written to as it is. Raises OSError with `path` if the folder is read-only or
    the disk full, leaving nothing behind.
    """
    with naming(path):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        try:
            _replace(path, data)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            _replace(path, data)  # the server has restarted, and its new name for the folder is found by looking again


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name `path`: that of a write names no file, and that of a temporary file not the user's."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let an OSError of the block say that it comes from reading `path`."""
    try:
        with naming(path):
            yield
    except OSError as error:
        error.add_note(READING)
        raise


def _replace(path: Path, data: bytes) -> None:
    # Not tempfile: its files are readable by their owner only, and a run is often shared.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  (tests make this very call fail)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # the rename itself; some network file systems cannot flush a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`, calling `on_wait` once if another process holds it and has to be waited for.

    The lock is the kernel's (flock): it ends with the process that holds it, however that process ends.
    """
    with path.open("a") as file:
        if not try_lock(file):
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: IO[str]) -> bool:
    """Lock `file`; False if another process holds it, True where the file system (some of a network) has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def checksummed(data: bytes) -> bytes:
    """Append the SHA-256 of `data` (32 bytes)."""
    return data + hashlib.sha256(data).digest()


def read_checksummed(data: bytes) -> bytes:
    """Strip and verify the SHA-256 that `checksummed` appended. Raises ValueError if it does not match."""
    content = data[:-32]
    if hashlib.sha256(content).digest() != data[-32:]:
        raise ValueError("its checksum does not match")
    return content


def checksummed_json(value: Mapping[str, Any]) -> bytes:
    """Encode `value` as indented JSON with a `checksum` beside its own fields."""
    plain = json.loads(json.dumps(value, default=str))
    text = json.dumps({**plain, "checksum": _json_checksum(plain)}, indent=2, ensure_ascii=False)
    # Names of files may hold bytes that are no UTF-8, which Python has as lone surrogates: JSON has an escape for them.
    return (text + "\n").encode(errors="backslashreplace")


def read_checksummed_json(data: bytes) -> dict[str, Any]:
    """Decode and verify what `checksummed_json` encoded. Raises ValueError if it is damaged."""
    value = json.loads(data)
    if not isinstance(value, dict) or "checksum" not in value:
        raise ValueError("it has no checksum")
    if value.pop("checksum") != _json_checksum(value):
        raise ValueError("its checksum does not match")
    return value


def _json_checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def quarantine(path: Path, reason: str, remedy: str = "repeat the `run` command to replace it") -> None:
    """Rename a damaged file or folder to `*.corrupt`, warning of the damage and the `remedy`."""
    corrupt = path.with_name(path.name + ".corrupt")
    try:
        if path.is_dir():
            shutil.rmtree(corrupt, ignore_errors=True)  # a folder replaces only an empty one
        path.replace(corrupt)
        outcome = f"It is set aside as {corrupt.name}"
    except OSError:  # a read-only run
        outcome = "It is skipped"
    warnings.warn(f"{path} is damaged ({reason}). {outcome}; {remedy}.", stacklevel=4)
