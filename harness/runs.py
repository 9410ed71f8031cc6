"""Where runs lie. Imports no array library: what is rendered already is printed at once."""

from __future__ import annotations

import difflib
from pathlib import Path

from results.files import StoreError

RUNS = Path("runs")


def run_folder(out: Path | None, suite: str, profile: str, device: str, several: bool) -> Path:
    """The folder of a run of ``suite``: ``out``, or one inside it where it is for ``several``; without, one under ``runs/``."""
    if out is None:
        return RUNS / f"{suite}-{profile}-{device}"
    return out / suite if several else out


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
