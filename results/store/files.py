"""Files that are whole or not there, and known to be what was written. Standard library only, so that reading one is instant."""

from __future__ import annotations

import contextlib
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


class StoreError(BenchError):
    """A run folder that cannot be used: one clear sentence that names the thing and the way out."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that the name holds the old file or the whole new one, also after a power cut.

    Raises OSError (read-only, full disk), and then leaves nothing behind.
    """
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
def holding(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of the file ``path``; ``waiting()`` is called once where another process has it and is waited for.

    The lock is the kernel's (flock): it ends with the process that holds it, however that ends.
    """
    with path.open("a") as file:
        if not locked(file):
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def locked(file: IO[str]) -> bool:
    """Take the file's lock; False where another process has it. True where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems: nothing can be promised there, and nothing is refused
        return True
    return True


def sealed(data: bytes) -> bytes:
    """``data`` followed by its SHA-256, 32 bytes: whoever reads it knows that it is what was written."""
    return data + hashlib.sha256(data).digest()


def unsealed(data: bytes) -> bytes:
    """What ``sealed`` was given. Raises ValueError where it is not what was written."""
    content, digest = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum does not match")
    return content


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """``value`` as JSON for people and for ``unsealed_json``: with a ``checksum`` beside its own fields."""
    plain = json.loads(json.dumps(value, default=str))
    text = json.dumps({**plain, "checksum": _json_checksum(plain)}, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def unsealed_json(data: bytes) -> dict[str, Any]:
    """What ``sealed_json`` was given. Raises ValueError where it is not what was written."""
    value = json.loads(data)
    if not isinstance(value, dict) or "checksum" not in value:
        raise ValueError("it has no checksum")
    if value.pop("checksum") != _json_checksum(value):
        raise ValueError("its checksum does not match")
    return value


def _json_checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def set_aside(path: Path, reason: str, remedy: str = "give the `run` command again to make it anew") -> None:
    """Rename a damaged file or folder to `*.corrupt`, with a warning that names both, the damage and the `remedy`."""
    aside = path.with_name(path.name + ".corrupt")
    try:
        if path.is_dir():
            shutil.rmtree(aside, ignore_errors=True)  # a folder replaces only an empty one
        path.replace(aside)
        outcome = f"It is set aside as {aside.name}"
    except OSError:  # a run that may only be read
        outcome = "It is skipped"
    warnings.warn(f"{path} is damaged ({reason}). {outcome}; {remedy}.", stacklevel=4)
