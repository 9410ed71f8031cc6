"""Folders of images that have several names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from pudnet_bench.suites.sources.catalog import SourceError
from pudnet_bench.suites.sources.copies import NAMED, SourceWarning


def distinct_folders(root: Path, folders: Sequence[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """Return `folders` without second names of one folder, and without links to a folder around them; warns of these.

    Of several names, a folder's own goes before those of links, and a link with the name of its target before other links.
    """
    around = {_identity(path) for path in (root, *root.resolve().parents, *(Path(f.path).parent for f in folders))}
    by_identity: dict[tuple[int, int], list[os.DirEntry[str]]] = {}
    for folder in folders:
        by_identity.setdefault(_identity(folder.path), []).append(folder)
    links = []
    for identity, names in by_identity.items():
        own = min(names, key=lambda f: (f.is_symlink(), f.name != Path(f.path).resolve().name))
        target = os.path.relpath(own.path, root)
        if identity in around:
            target = str(Path(own.path).resolve())
        else:
            names.remove(own)
        links += [(link, target) for link in names]
    if links:
        said = [f"{os.path.relpath(link.path, root)} is {target}" for link, target in links[:NAMED]]
        more = f"; and {len(links) - NAMED} more" if len(links) > NAMED else ""
        warnings.warn(f"folders in {root} with two names are taken once: {'; '.join(said)}{more}", SourceWarning, 2)
    left_out = {link.path for link, _ in links}
    return [folder for folder in folders if folder.path not in left_out]


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    try:
        stat = Path(folder).stat()
    except OSError as error:
        raise SourceError(f"cannot read the folder {os.fspath(folder)}: {error.strerror}") from error
    return stat.st_dev, stat.st_ino
