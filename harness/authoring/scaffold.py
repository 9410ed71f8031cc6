"""Where an addition of one's own begins: a method's file, a suite's file, or a look at a folder of images.

Importing this imports neither torch nor an array library; ``look_at_folder`` does.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pudnet_bench.errors import BenchError
from pudnet_bench.methods import registry
from pudnet_bench.results.store.folders import RUNS

TEMPLATES = Path(__file__).parent / "templates"
SMALLEST_SIDE = 8  # pixels: every target halves an image three times


class ScaffoldError(BenchError):
    """A file that is not written, or a folder that makes no family; says which and the way out."""


@dataclass(frozen=True)
class Names:
    """What a file's name gives: ``my_method.py`` the class ``MyMethod`` and the name ``my-method``."""

    in_class: str
    in_tables: str


def names_of(file: Path, skeleton: str, kind: str, taken: tuple[str, ...]) -> Names:
    """The names in a ``kind`` of file whose text is ``skeleton``. Raises ScaffoldError unless all of them can be used.

    ``taken`` are the names in tables that others have.
    """
    stem, like = file.stem, f"my_{kind}.py"
    if file.suffix != ".py":
        raise ScaffoldError(f"a {kind} goes into a Python file such as {like}, not '{file}'")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", stem):
        raise ScaffoldError(
            f"'{file.name}' gives no good name; use lower-case letters and digits, words joined by _, such as {like}"
        )
    in_class, in_tables = "".join(word.capitalize() for word in stem.split("_")), stem.replace("_", "-")
    if in_tables in taken:
        raise ScaffoldError(f"there is a {kind} '{in_tables}' already; give the file another name")
    if keyword.iskeyword(in_class) or re.search(rf"\b{in_class}\b", skeleton.replace(f"My{kind.capitalize()}", "")):
        raise ScaffoldError(f"the file itself needs the name '{in_class}' for something else; name it otherwise")
    if keyword.iskeyword(stem) or _hides(stem):
        raise ScaffoldError(
            f"'{file.name}' would hide the Python module '{stem}'; name it otherwise, such as my_{file.name}"
        )
    return Names(in_class, in_tables)


def _hides(stem: str) -> bool:
    """Whether a file of that name, in the folder where the harness is started, takes the place of a module."""
    spec = importlib.util.find_spec(stem)
    return spec is not None and spec.origin not in (None, str(Path.cwd() / f"{stem}.py"))


def scaffold_method(file: Path) -> str:
    """Write a method that runs as it is to ``file``; returns what to type next. Raises ScaffoldError."""
    skeleton = (TEMPLATES / "my_method.py").read_text()
    names = names_of(file, skeleton, "method", tuple(registry.entries()))
    _write(file, skeleton.replace("MyMethod", names.in_class).replace("my-method", names.in_tables))
    reference = shlex.quote(f"{file}:{names.in_class}")
    return _next(
        f"{file} has the method '{names.in_tables}', which runs as it is",
        (f"python -m harness check {reference}", "whether it keeps the contract, in seconds"),
        (
            f"python -m harness run table1 --method {reference} --methods {names.in_tables},protonet",
            "its row beside another; without --methods, beside all",
        ),
    )


def scaffold_suite(file: Path) -> str:
    """Write a suite that runs as it is to ``file``; returns what to type next. Raises ScaffoldError."""
    from pudnet_bench.suites.catalog import SUITES

    skeleton = (TEMPLATES / "my_suite.py").read_text()
    names = names_of(file, skeleton, "suite", ("all", *SUITES))
    _write(file, skeleton.replace("my-suite", names.in_tables))
    path = shlex.quote(str(file))
    return _next(
        f"{file} has the suite '{names.in_tables}', which runs as it is",
        (f"python -m harness run {path} --dry-run", "its plan"),
        (f"python -m harness run {path}", "its table, on the embedded digits"),
        (f"python -m harness run {path} --profile standard", "the same on real images (--data)"),
    )


def look_at_folder(folder: Path, name: str | None, cache_dir: Path) -> str:
    """What family a folder of images, one folder a class, becomes; and the command that measures table1 on it.

    ``name`` is the family's, by default the folder's own. Decodes the images into ``cache_dir``. Raises ScaffoldError,
    SourceError and FamilyError.
    """
    import numpy as np

    from pudnet_bench.suites.families import FAMILIES, family_of_folder
    from pudnet_bench.suites.groups import ClassSplit
    from pudnet_bench.suites.sources import SOURCES
    from pudnet_bench.suites.sources.loading import load

    name = name or re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")
    if name in FAMILIES or name in SOURCES:
        raise ScaffoldError(f"'{name}' is a built-in source or family; give this one another name with --name")
    if not registry.NAME.fullmatch(name):
        raise ScaffoldError(f"'{name}' cannot name a family; give it one of letters, digits and - with --name")
    source = load(name, data_dir=None, cache_dir=cache_dir, folders={name: folder})
    sizes = np.bincount(source.labels)
    family = family_of_folder(name, dict(zip(source.class_names, sizes.tolist(), strict=True)))
    n, channels, height, width = source.images.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ScaffoldError(
            f"the images of {folder} are {width}x{height} pixels, and the targets take {SMALLEST_SIDE}x{SMALLEST_SIDE} or "
            "more; enlarge them"
        )
    split = ClassSplit.of(family)
    few = "" if sizes.min() == sizes.max() else f" to {sizes.max()}"
    argument = shlex.quote(f"{name}={folder}")
    told = [
        f"family {name}: {n} images of {family.classes} classes, {sizes.min()}{few} a class, {width}x{height} pixels, "
        + ("grey" if channels == 1 else "colour"),
        f"  training  {_classes(source.class_names, split.training)}; {family.validation_classes} of them validate",
        f"  unseen    {_classes(source.class_names, split.unseen)}",
        f"  groups    {family.ways} ways, {family.images} images to fit ({family.images_per_class} a class), "
        f"{family.test_images_per_class * family.ways} others to test",
    ]
    return _next(
        "\n".join(told),
        (
            f"python -m harness run table1 --source {argument} --families {shlex.quote(name)} "
            f"--out {shlex.quote(str(RUNS / name))}",
            "table1 on it, in a folder of results of its own",
        ),
    )


def _classes(names: tuple[str, ...], places: tuple[int, ...]) -> str:
    shown = ", ".join(names[place] for place in places[:6])
    return f"{len(places)} classes: {shown}{', ...' if len(places) > 6 else ''}"


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x") as new:
            new.write(text)
    except FileExistsError:
        raise ScaffoldError(f"'{file}' is there already and is left as it is; give another name") from None
    except FileNotFoundError:
        raise ScaffoldError(f"the folder of '{file}' is not there; make it, or write elsewhere") from None
    except OSError as error:
        raise ScaffoldError(f"cannot write '{file}' ({error.strerror}); write elsewhere") from error


def _next(told: str, *commands: tuple[str, str]) -> str:
    return "\n".join((told, "next:", *(f"  {command}  # {purpose}" for command, purpose in commands)))
