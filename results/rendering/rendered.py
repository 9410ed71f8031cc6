"""What a run's tables and figures were made from, kept beside them: what has not changed is not made again. Imports no torch.

``<run>/rendered.json`` names by digests all that ``tables/`` and ``figures/`` follow from (the run's files, this project's code,
the installed packages) and what they hold; and, where all was measured that a ``run`` asked for, that request and the images.
The same request then finds its answer without torch, a plan or a row. Whatever cannot be told by digests has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pudnet_bench.results.rendering.escaping import Format
from pudnet_bench.results.store.files import sealed_json, set_aside, unsealed_json, write_atomically

ROOT = Path(__file__).resolve().parents[2]
FILE = "rendered.json"
ROOMS = ("harness", "methods", "results", "slurm", "suites")
READ = (
    "manifest.json",
    "recipes.json",
    "cells",
    "curves",
    "parameters",
)  # of a run: what is read, and what is asked for
CODE = (".py", ".csv")
EXTENSIONS: dict[Format, str] = {"latex": "tex", "markdown": "md", "csv": "csv"}


@dataclass(frozen=True)
class Images:
    """A source that a plan was made with, the side its images were resized to, and its files' state (``loading.state``)."""

    source: str
    size: int | None
    state: str


@dataclass(frozen=True)
class Request:
    """What is asked of this process: ``program`` is the ``program_digest`` it began with, ``digest`` says for what.

    The digest is "" where it cannot be told whether two requests are the same.
    """

    program: str
    digest: str = ""


@dataclass(frozen=True)
class Rendered:
    """What was made: of which suite, with the paper's numbers or not, ``files`` with their SHA-256, and ``notes`` to tell.

    ``program`` and ``read`` are digests of what it was made with and from. ``request`` is what all of it answers, "" where that
    is not known, and ``images`` what that was planned with.
    """

    suite: str
    paper: bool
    notes: tuple[str, ...]
    files: Mapping[str, str]
    program: str
    read: str
    request: str = ""
    images: tuple[Images, ...] = ()

    def tell(self, folder: Path) -> None:
        """Print the table, and say where the rest of what was made is."""
        for note in self.notes:
            print(note, file=sys.stderr)
        print(self.table(folder, "markdown"))
        print(f"{folder / 'tables'}: LaTeX, Markdown and CSV", file=sys.stderr)
        figures = [Path(name).name for name in self.files if name.startswith("figures/")]
        if figures:
            print(f"{folder / 'figures'}: {', '.join(figures)}", file=sys.stderr)

    def table(self, folder: Path, format: Format) -> str:
        """The suite's table, as it is in the run's folder."""
        return (folder / "tables" / f"{self.suite}.{EXTENSIONS[format]}").read_text(encoding="utf-8")

    def answers(self, request: Request, state: Callable[[str, int | None], str]) -> bool:
        """Whether ``request`` was answered, from images whose files are as they were. ``state`` is ``loading.state``."""
        return self.request == request.digest != "" and all(i.state == state(i.source, i.size) for i in self.images)


def recall(folder: Path, program: str) -> Rendered | None:
    """What is rendered in the run's folder; None where it is not what ``program`` (``program_digest``) would make now.

    A damaged ``rendered.json`` is set aside with a warning.
    """
    path = folder / FILE
    try:
        values = unsealed_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        set_aside(path, str(error))
        return None
    if values.get("program") != program or values["read"] != read_digest(folder):
        return None
    if any(_file_digest(folder / name) != digest for name, digest in values["files"].items()):
        return None
    return Rendered(
        **{**values, "notes": tuple(values["notes"]), "images": tuple(Images(**images) for images in values["images"])}
    )


def keep(folder: Path, rendered: Rendered) -> None:
    """Write down what ``recall`` reads."""
    write_atomically(folder / FILE, sealed_json(asdict(rendered)))


def request(asked: Mapping[str, Any], machine: str, program: str) -> Request:
    """``asked`` has every option that may matter to a suite, ``machine`` what the device is chosen by (``compute.machine``)."""
    text = json.dumps([asked, machine, str(Path.cwd())], sort_keys=True, default=str)
    return Request(program, hashlib.sha256(text.encode()).hexdigest())


def program_digest() -> str:
    """SHA-256 of this project's code and data, of the interpreter, and of the names and times of installed packages."""
    digest = hashlib.sha256(sys.version.encode())
    for room in ROOMS:
        for path in _files_below(ROOT / room, CODE):
            _add(digest, str(path.relative_to(ROOT)), _file_digest(path))
    for place in sys.path:
        with contextlib.suppress(OSError), os.scandir(place or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith((".dist-info", ".egg-info")):
                    _add(digest, entry.path, entry.stat().st_mtime_ns)
    return digest.hexdigest()


def read_digest(folder: Path) -> str:
    """SHA-256 of the files of a run that its tables and figures are made from, and of what was asked for."""
    digest = hashlib.sha256()
    for part in READ:
        path = folder / part
        for file in _files_below(path) if path.is_dir() else (path,):
            _add(digest, str(file.relative_to(folder)), _file_digest(file))
    return digest.hexdigest()


def _files_below(folder: Path, suffixes: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """Files with such endings, in the order of their names, without those that are being written (`.*`)."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)


def _file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, "" where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _add(digest: Any, *values: object) -> None:
    digest.update(json.dumps(values).encode())
