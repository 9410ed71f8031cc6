"""Where runs and caches are unless a person says otherwise. Imports next to nothing."""

from __future__ import annotations

import os
from pathlib import Path

RUNS = Path("runs")


def cache_folder(given: Path | None) -> Path:
    """The folder for decoded images and artifacts: the one ``given``, or the user's cache."""
    if given is not None:
        return given
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pudnet-bench"


def run_folder(given: Path | None, suite: str, profile: str, device: str, several: bool) -> Path:
    """A run's folder; of ``several`` suites each has its own in the one that is ``given``."""
    if given is None:
        return RUNS / f"{suite}-{profile}-{device}"
    return given / suite if several else given
