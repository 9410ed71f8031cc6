"""Describe an exception in one line."""

from __future__ import annotations

import traceback
from pathlib import Path


def described(error: BaseException, file: str = "") -> str:
    """Return the type and message of an exception, and the last line that it passed in `file`, its author's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    message = " ".join(str(error).split()) or "no message"
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    where = f" ({Path(file).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{notes}{where}"
