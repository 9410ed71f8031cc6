"""Default folders of runs and caches. Imports next to nothing."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from pudnet_bench.results.store.files import StoreError
from pudnet_bench.results.store.run_record import MANIFEST, RECORD

RUNS = Path("runs")


def expanded(path: Path) -> Path:
    """The path with a leading `~` or `~user` replaced by that home folder, as a shell does. Raises StoreError without one."""
    if not path.parts or not path.parts[0].startswith("~"):
        return path
    full = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError instead
    if full == path:
        raise StoreError(
            f"'{path}': there is no home folder '{path.parts[0]}'; for a folder of that name, give './{path}'"
        )
    return full


def cache_folder(given: Path | None) -> Path:
    """The folder for decoded images and artifacts: `given`, or the user's cache."""
    return given or expanded(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "pudnet-bench"


def run_folder(given: Path | None, suite: str, profile: str, device: str, several: bool) -> Path:
    """A run's folder; with `several` suites each has its own inside `given`."""
    if given is None:
        return RUNS / f"{suite}-{profile}-{device}"
    return given / suite if several else given


def run_folders(pattern: str = "*") -> list[Path]:
    """Folders under `runs/` that match `pattern` and hold a run, by name."""
    return sorted(path for path in RUNS.glob(pattern) if _last_change(path) is not None)


def _last_change(folder: Path) -> float | None:
    """When the record of the run in `folder` last changed; None without one."""
    times = [path.stat().st_mtime for name in (RECORD, MANIFEST) if (path := folder / name).exists()]
    return max(times, default=None)


def find_folder(reference: str, suites: tuple[str, ...]) -> Path:
    """The folder `reference`, or that of the latest run of the suite of that name under `runs/`.

    Raises StoreError naming the nearest suite, or what to give instead.
    """
    if Path(reference).is_dir():
        return Path(reference)
    if reference in suites:
        folders = run_folders(f"{reference}-*")
        if not folders:
            raise StoreError(f"no run of '{reference}' under {RUNS}/; `python -m harness run {reference}` makes one")
        return max(folders, key=lambda folder: _last_change(folder) or 0.0)
    near = difflib.get_close_matches(reference, suites, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"give a run's folder or one of {', '.join(suites)}"
    raise StoreError(f"'{reference}' is neither a run's folder nor a suite; {hint}")
