"""Where runs and caches are unless a person says otherwise. Imports next to nothing."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from pudnet_bench.results.store.files import StoreError

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


def find_folder(reference: str, suites: tuple[str, ...]) -> Path:
    """The folder ``reference``, or that of the latest run of the suite of that name under ``runs/``.

    Raises StoreError naming the nearest suite or the folders that were looked at.
    """
    if Path(reference).is_dir():
        return Path(reference)
    if reference in suites:
        folders = sorted(RUNS.glob(f"{reference}-*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if not folders:
            raise StoreError(f"no run of '{reference}' under {RUNS}/; `python -m harness run {reference}` makes one")
        return folders[-1].parent
    near = difflib.get_close_matches(reference, suites, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"give a run's folder or one of {', '.join(suites)}"
    raise StoreError(f"'{reference}' is neither a run's folder nor a suite; {hint}")
