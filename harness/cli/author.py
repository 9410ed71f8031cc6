"""The commands for authors of methods and suites: `new` and `check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pudnet_bench.harness.cli import completion, options
from pudnet_bench.harness.console.terminal import printable
from pudnet_bench.results.store.folders import cache_folder
from pudnet_bench.suites.sources.catalog import Background

CHECK_FAILED = 1

NewFile = Annotated[Path, typer.Argument(metavar="FILE.py", help="File to write, such as my_method.py.")]


def new_method(file: NewFile, debug: options.Debug = False) -> None:
    """Write a method that runs as it is, to be edited."""
    from pudnet_bench.harness.authoring.scaffold import scaffold_method

    print(printable(scaffold_method(file)))


def new_suite(file: NewFile, debug: options.Debug = False) -> None:
    """Write a suite that runs as it is, to be edited."""
    from pudnet_bench.harness.authoring.scaffold import scaffold_suite

    print(printable(scaffold_suite(file)))


def new_family(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Images, one folder per class.")],
    name: Annotated[str | None, typer.Option(help="The family's name [the folder's].")] = None,
    image_size: options.ImageSize = None,
    alpha_background: options.AlphaBackground = Background.WHITE,
    allow_copies: options.AllowCopies = False,
    cache: options.Cache = None,
    debug: options.Debug = False,
) -> None:
    """Describe the family in an image folder, and how to run it."""
    from pudnet_bench.harness.authoring.scaffold import describe_family

    found = describe_family(folder, name, cache_folder(cache), image_size, alpha_background, allow_copies)
    print(printable(found))


def check(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="FILE.py:Class, or a name.", autocompletion=completion.method)
    ],
    target: Annotated[str, typer.Option(help="Target network.", autocompletion=completion.target)] = "convnet3",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the method; repeatable.")] = None,
    cache: options.Cache = None,
    debug: options.Debug = False,
) -> None:
    """Check that a method fulfils the contract; exit code 1 if not."""
    from pudnet_bench.methods import registry

    keywords = options.keywords(option)
    if method.endswith(".py"):
        raise options.UsageError(f"check takes FILE.py:Class, and '{method}' names no class")
    find = partial(registry.find_in_file, method, "check") if ":" in method else partial(registry.find, method)

    from pudnet_bench.harness.authoring.conformance import report
    from pudnet_bench.harness.authoring.subject import subject_of
    from pudnet_bench.harness.measuring.isolation import imported

    subject = subject_of(imported(find), target, keywords, cache_folder(cache))
    if report(subject, lambda line: print(printable(line), flush=True), debug):
        raise typer.Exit(CHECK_FAILED)
