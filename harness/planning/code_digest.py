"""Hash the code behind a method, so that weights learned and groups measured by older code are not reused.

What counts: the method's module; the modules of `methods` and `suites` that it uses; the user's own modules that it
imports anywhere, also inside functions and through others (`methods.own_code`); all files of an installed method's
distribution. What does not: Python and other installed packages, which the run record names by version, and data files.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from pudnet_bench.methods import own_code, registry
from pudnet_bench.methods.base import Method

ROOMS = ("pudnet_bench.methods.", "pudnet_bench.suites.")
STREAM = "pudnet_bench.suites.learn2learn_episodes"  # the group stream shapes what is learned
UNSEEN_GROUPS = "pudnet_bench.suites.class_splits"
OTHER_GROUPS = "pudnet_bench.suites.other_groups"
MIXED_IMAGES = "pudnet_bench.suites.mixed_images"
HELD_OUT_IMAGES = "pudnet_bench.suites.held_out_images"


def code_digest(method: type[Method]) -> str:
    """SHA-256 of a method's module, the modules it uses as far as they count, and the group stream.

    Hashes syntax trees without docstrings, so comments, docstrings and formatting do not count. Of a method's own further
    modules it hashes the names too, without the folders they lie in: it is the same on every machine.
    """
    own_code.activate(own_code.code_of(method))
    main = Path(inspect.getfile(method))
    own, installed = _further_modules(method, main), _distribution_files(method.__module__, main)
    pending: list[Path | None] = [main, _file(STREAM), *own.values()]
    digests: dict[Path, str] = {}
    while pending:
        path = pending.pop()
        if path is not None and path not in digests:
            digests[path], imported = _parsed(path.read_bytes())
            pending += [_file(name) for name in imported]
    named = {path: name for name, path in own.items()}
    parts = [f"{named[path]} {digest}" if path in named else digest for path, digest in digests.items()]
    parts += [f"{name} {sha256(path.read_bytes()).hexdigest()}" for name, path in installed if path not in digests]
    return sha256("".join(sorted(parts)).encode()).hexdigest()


@cache
def module_digest(module: str) -> str:
    """SHA-256 of one module that no method imports and that shapes some cells only, such as `UNSEEN_GROUPS`."""
    path = _file(module)
    return _parsed(path.read_bytes())[0] if path else ""


def _further_modules(method: type[Method], main: Path) -> dict[str, Path]:
    """The user's own modules behind a method but for its own one, by name."""
    code, start = own_code.code_of(method), {method.__module__: main}
    if code is not None:
        start[code.main] = Path(inspect.getfile(code.module))  # which need not define the class
    elif own_code.is_own(main) and _is_entry_point(method):  # of a package installed as editable
        start |= own_code.package_of(method.__module__)
    elif not own_code.is_own(main):
        return {}
    found = own_code.modules_of(code, start)
    return {path.stem if code and name == code.main else name: path for name, path in found.items() if path != main}


def _is_entry_point(method: type[Method]) -> bool:
    top = method.__module__.partition(".")[0]
    return any(re.split("[.:]", entry.location)[0] == top for entry in registry.entries().values())


def _distribution_files(module: str, main: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of each file with code of the installed distribution of a module; none for other modules."""
    if own_code.is_own(main) or module.startswith(ROOMS):
        return
    for name in packages_distributions().get(module.partition(".")[0], ()):
        for file in distribution(name).files or ():
            path = Path(str(file.locate()))
            if path.name.endswith(tuple(own_code.SUFFIXES)) and path.is_file():
                yield file.as_posix(), path


@cache
def _parsed(source: bytes) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, and the modules of `methods` and `suites` it imports.

    Of what is no Python source, the digest of its bytes.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return sha256(source).hexdigest(), ()
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    ours = tuple(sorted(name for name in imported if name.startswith(ROOMS)))
    return sha256(ast.dump(tree).encode()).hexdigest(), ours


@cache
def _file(module: str) -> Path | None:
    """A module's file; None for a name that is not a module, such as a class."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None
