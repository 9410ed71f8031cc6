"""The commands about image sources: `data list`, `data fetch` and `data verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from pudnet_bench.harness.cli import completion, options
from pudnet_bench.results.store.folders import cache_folder
from pudnet_bench.suites.sources.catalog import Background


def list_sources(data: options.Data = None, source: options.Source = None, debug: options.Debug = False) -> None:
    """List image sources and where each was found."""
    from pudnet_bench.harness.console.terminal import dimmed, print_table
    from pudnet_bench.suites.sources import SOURCES
    from pudnet_bench.suites.sources.loading import locate

    folders = options.source_folders(source)
    about = {name: f"image folder {folder}" for name, folder in folders.items()}
    about |= {spec.name: spec.description for spec in SOURCES.values()}
    rows = []
    for name, text in about.items():
        found = locate(name, data_dir=data, folders=folders)
        rows.append((name, text, "embedded" if name == "digits" else str(found) if found else dimmed("not found")))
    print_table(rows)


def fetch(
    names: Annotated[list[str], typer.Argument(help="Sources to download.", autocompletion=completion.sources)],
    data: options.Data = None,
    debug: options.Debug = False,
) -> None:
    """Download image sources through torchvision."""
    from pudnet_bench.suites.sources.loading import fetch

    if data is None:
        where = f"give --data DIR or set {options.DATA_VARIABLE}"
        raise options.UsageError(f"data fetch needs a folder for the images: {where}")
    for name in names:
        print(f"{name}: {fetch(name, data)}")


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sources [all that are found].", autocompletion=completion.sources)
    ] = None,
    data: options.Data = None,
    cache: options.Cache = None,
    source: options.Source = None,
    image_size: options.ImageSize = None,
    alpha_background: options.AlphaBackground = Background.WHITE,
    debug: options.Debug = False,
) -> None:
    """Decode image sources again and compare them with the cache."""
    from pudnet_bench.suites.sources import SOURCES
    from pudnet_bench.suites.sources.loading import locate, verify

    folders = options.source_folders(source)
    for name in names or [n for n in {**SOURCES, **folders} if locate(n, data_dir=data, folders=folders)]:
        found = verify(
            name,
            data_dir=data,
            cache_dir=cache_folder(cache),
            folders=folders,
            size=image_size,
            background=alpha_background,
        )
        images = f"{found.images} images of {found.classes} classes, {found.size[0]}x{found.size[1]}"
        print(f"{found.name}: {images}, {found.channels} channels, content {found.fingerprint[:16]}, {found.path}")
