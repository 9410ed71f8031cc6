"""Describe an exception in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from pudnet_bench.methods import own_code

PACKAGE = Path(own_code.__file__).parents[1]


def described(error: BaseException) -> str:
    """Return the type and message of an exception, and the last line that it passed in its author's own code."""
    message = " ".join(str(error).split()) or "no message"
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    place = own_code.place_of(error)
    return f"{type(error).__name__}: {message}{notes}{f' ({place})' if place else ''}"


def is_a_methods(error: BaseException) -> bool:
    """Whether a method raised `error`, itself or through a library, rather than the harness."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if own_code.is_own_file(frame.filename) or path.is_relative_to(PACKAGE / "methods"):
            return True
        if path.is_relative_to(PACKAGE):
            return False
    return False
