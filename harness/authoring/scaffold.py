"""Scaffold a user's own method or suite, or describe a folder of images as a family. Imports torch only for the latter."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pudnet_bench.errors import BenchError
from pudnet_bench.methods import registry
from pudnet_bench.results.store.folders import RUNS
from pudnet_bench.suites.sources.catalog import Background

if TYPE_CHECKING:
    from pudnet_bench.suites.sources.folder_layout import Layout
    from pudnet_bench.suites.sources.image_folders import Survey

TEMPLATES = Path(__file__).parent / "templates"
SMALLEST_SIDE = 8  # pixels: every target halves an image three times
FLOAT_BYTES = 4  # of a pixel value in a group


class ScaffoldError(BenchError):
    """A file that cannot be written, or a folder that makes no family; the message names it and the way out."""


def _names_for(file: Path, template: str, kind: str, taken: tuple[str, ...]) -> tuple[str, str]:
    """The names of the class and of the rows in a `kind` of file, such as `MyMethod` and `my-method` in `my_method.py`.

    Raises ScaffoldError if one cannot be used: it is among the rows `taken`, or the file's `template` or Python has it.
    """
    stem, example = file.stem, f"my_{kind}.py"
    if file.suffix != ".py":
        raise ScaffoldError(f"a {kind} goes into a Python file such as {example}, not '{file}'")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", stem):
        raise ScaffoldError(
            f"'{file.name}' is not a valid name; use lower-case letters and digits, words joined by _, such as {example}"
        )
    class_name, row_name = "".join(word.capitalize() for word in stem.split("_")), stem.replace("_", "-")
    if row_name in taken:
        raise ScaffoldError(f"there is a {kind} '{row_name}' already; give the file another name")
    if keyword.iskeyword(class_name) or re.search(rf"\b{class_name}\b", template.replace(f"My{kind.capitalize()}", "")):
        raise ScaffoldError(f"the file itself needs the name '{class_name}' for something else; give it another name")
    if keyword.iskeyword(stem) or _shadows_module(stem):
        raise ScaffoldError(
            f"'{file.name}' would shadow the Python module '{stem}'; give it another name, such as my_{file.name}"
        )
    return class_name, row_name


def _shadows_module(stem: str) -> bool:
    """Whether a file of that name in the working directory would be imported in place of a module."""
    spec = importlib.util.find_spec(stem)
    return spec is not None and spec.origin not in (None, str(Path.cwd() / f"{stem}.py"))


def scaffold_method(file: Path) -> str:
    """Write a method that runs as it is to `file`, and return the commands to try next.

    Raises ScaffoldError if the file cannot be written or its name cannot be used.
    """
    template = (TEMPLATES / "my_method.py").read_text(encoding="utf-8")
    class_name, row = _names_for(file, template, "method", tuple(registry.entries()))
    label = row.replace("-", " ").capitalize()
    _write(file, template.replace("MyMethod", class_name).replace("my-method", row).replace("My method", label))
    reference = shlex.quote(f"{file}:{class_name}")
    run = f"python -m harness run table1 --method {reference} --methods {row},protonet"
    return _with_commands(
        f"{file} has the method '{row}', which runs as it is",
        (f"python -m harness check {reference}", "verify the contract, in seconds"),
        (run, "its row beside another; without --methods, beside all"),
    )


def scaffold_suite(file: Path) -> str:
    """Write a suite that runs as it is to `file`, as `scaffold_method` does a method."""
    from pudnet_bench.suites.catalog import SUITES

    template = (TEMPLATES / "my_suite.py").read_text(encoding="utf-8")
    _, name = _names_for(file, template, "suite", ("all", *SUITES))
    _write(file, template.replace("my-suite", name))
    path = shlex.quote(str(file))
    return _with_commands(
        f"{file} has the suite '{name}', which runs as it is",
        (f"python -m harness run {path} --dry-run", "its plan"),
        (f"python -m harness run {path}", "its table, on the embedded digits"),
        (f"python -m harness run {path} --profile standard", "the same on real images (--data)"),
    )


def describe_family(
    folder: Path,
    name: str | None,
    cache_dir: Path,
    image_size: int | None = None,
    background: Background = Background.WHITE,
    allow_copies: bool = False,
) -> str:
    """Describe the family that a folder of images by class makes, and the command that measures table1 on it.

    The family has the folder's name by default; decoded images go to `cache_dir`. `image_size`, `background` and
    `allow_copies` are those of `suites.sources.loading.load`.

    Raises:
        ScaffoldError: The name cannot be used, or the images are too small.
        SourceError: The folder cannot be read as images of classes.
        FamilyError: There are too few classes, or too few images in one.
    """
    from pudnet_bench.suites.families import FAMILIES, family_of_folder
    from pudnet_bench.suites.groups import ClassSplit
    from pudnet_bench.suites.sources import SOURCES
    from pudnet_bench.suites.sources.image_folders import survey_image_folder
    from pudnet_bench.suites.sources.loading import load

    name = name or re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-")
    if name in FAMILIES or name in SOURCES:
        raise ScaffoldError(f"'{name}' is a built-in source or family; give this one another name with --name")
    if not registry.NAME.fullmatch(name):
        raise ScaffoldError(f"'{name}' cannot name a family; give it one of letters, digits and - with --name")
    source = load(
        name, data_dir=None, cache_dir=cache_dir, folders={name: folder}, size=image_size, background=background,
        allow_copies=allow_copies,
    )  # fmt: skip
    left_out = len(source.left_out)
    family = family_of_folder(name, source.class_sizes, left_out)
    n, channels, height, width = source.images.shape
    if min(height, width) < SMALLEST_SIDE:
        raise ScaffoldError(
            f"the images of {folder} are {width}x{height} pixels, and the targets take {SMALLEST_SIDE}x{SMALLEST_SIDE} or "
            "more; enlarge them"
        )
    split = ClassSplit.of(family)
    sizes = source.class_sizes.values()
    per_class = " to ".join(map(str, sorted({min(sizes), max(sizes)})))
    tests = family.test_images_per_class * family.ways
    lines = [
        f"family {name}: {n - left_out} images of {family.classes} classes, {per_class} a class, {width}x{height} pixels, "
        + ("grey" if channels == 1 else "colour")
        + (f"; {left_out} copies left out" if left_out else ""),
        f"  training  {_classes(source.class_names, split.training)}; {family.validation_classes} of them validate",
        f"  unseen    {_classes(source.class_names, split.unseen)}",
        f"  groups    {family.ways} ways, {family.images} images to fit ({family.images_per_class} a class), "
        f"{tests} others to test",
        f"  memory    {_size((family.images + tests) * channels * height * width * FLOAT_BYTES)} for the images of a group",
    ]
    lines += _found(*survey_image_folder(folder), background)
    run = _run_command(f"{name}={folder}", name, image_size, background, allow_copies)
    return _with_commands("\n".join(lines), (run, "table1 on it, in a run folder of its own"))


def _run_command(source: str, name: str, image_size: int | None, background: Background, allow_copies: bool) -> str:
    """`run table1` on the family, with the options of reading that are not the default."""
    command = f"python -m harness run table1 --source {shlex.quote(source)}"
    command += f" --image-size {image_size}" if image_size else ""
    command += f" --alpha-background {background}" if background != Background.WHITE else ""
    command += f" --families {shlex.quote(name)} --out {shlex.quote(str(RUNS / name))}"
    return command + (" --allow-copies" if allow_copies else "")


def _size(n_bytes: int) -> str:
    megabytes = n_bytes / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"


def _classes(names: tuple[str, ...], indices: tuple[int, ...]) -> str:
    from pudnet_bench.suites.sources.folder_layout import shown

    first = ", ".join(shown(names[index]) for index in indices[:6])
    return f"{len(indices)} classes: {first}{', ...' if len(indices) > 6 else ''}"


def _found(survey: Survey, layout: Layout, background: Background) -> list[str]:
    """What a folder of images holds and what was passed over, a line each."""
    alpha = f"{survey.alpha} with transparency" + (f" (now {background})" if survey.alpha else "")
    counts = f"{survey.grey} grey, {alpha}, {survey.turned} turned by EXIF, {survey.deep} of more than 8 bits"
    small, large = (f"{width}x{height}" for width, height in (choose(survey.sizes, key=prod) for choose in (min, max)))
    sizes = f"stored as {small}" if len(survey.sizes) == 1 else f"{len(survey.sizes)} sizes from {small} to {large}"
    return [
        f"  layout    {layout.seen}",
        f"  images    {counts}; {sizes}",
        f"  skipped   {'; '.join(layout.passed_over) or 'nothing'}",
    ]


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ScaffoldError(f"'{file}' exists already and is left as it is; give another name") from None
    except FileNotFoundError:
        raise ScaffoldError(f"the folder of '{file}' does not exist; create it, or write elsewhere") from None
    except OSError as error:
        raise ScaffoldError(f"cannot write '{file}' ({error.strerror}); write elsewhere") from error


def _with_commands(text: str, *commands: tuple[str, str]) -> str:
    return "\n".join((text, "next:", *(f"  {command}  # {purpose}" for command, purpose in commands)))
