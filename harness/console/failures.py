"""Describe an exception in one line."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from pudnet_bench.methods import own_code
from pudnet_bench.results.store.files import READING

ELSEWHERE = "choose another folder with --out (runs) or --cache (artifacts and images)"
AGAIN = "finished groups are saved: repeat the command to resume"
# Errors of a folder or machine that a user can put right, with the way out. Not every system knows them all.
WAYS_OUT = {
    getattr(errno, name): way_out
    for names, way_out in {
        ("ENOSPC", "EDQUOT", "EFBIG"): f"free space (or raise the quota or limit), or {ELSEWHERE}",
        ("EACCES", "EPERM", "EROFS"): f"change its permissions, or {ELSEWHERE}",
        ("ENOTDIR", "EEXIST", "EISDIR", "ELOOP", "EXDEV"): f"remove what is in the way, or {ELSEWHERE}",
        ("ENAMETOOLONG", "EINVAL", "EILSEQ"): f"give a shorter or plainer name, or {ELSEWHERE}",
        ("EMFILE", "ENFILE"): "raise the limit of open files (`ulimit -n`)",
        ("ENOMEM",): "free memory",
        (
            "ESTALE", "EIO", "ETIMEDOUT", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO", "ENODEV", "ENXIO",
            "ENOLCK", "EBUSY", "ETXTBSY", "ECONNRESET", "ECONNABORTED",
        ): f"check that its disk or network share is there and sound, or {ELSEWHERE}",
    }.items()
    for name in names
    if hasattr(errno, name)
}  # fmt: skip


def unusable(error: OSError) -> str:
    """One sentence about a file or folder that cannot be read or written, with the way out; "" for any other error."""
    if error.errno is None or error.errno not in WAYS_OUT:
        return ""
    where = f"'{error.filename}'" if error.filename else "the output"
    reason = os.strerror(error.errno).lower()
    verb = "read" if READING in getattr(error, "__notes__", ()) else "write"
    return f"cannot {verb} {where}: {reason}; {WAYS_OUT[error.errno]}; {AGAIN}"


PACKAGE = Path(own_code.__file__).parents[1]


def described(error: BaseException) -> str:
    """Return the type and message of an exception, and the last line that it passed in its author's own code."""
    message = " ".join(str(error).split()) or "no message"
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {message}{notes}{own_code.place_of(error)}"


def is_a_methods(error: BaseException) -> bool:
    """Whether a method raised `error`, itself or through a library, rather than the harness."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if own_code.is_own_file(frame.filename) or path.is_relative_to(PACKAGE / "methods"):
            return True
        if path.is_relative_to(PACKAGE):
            return False
    return False
