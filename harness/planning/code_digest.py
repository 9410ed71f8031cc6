"""The hash of the code behind a number: so that weights learned by yesterday's code are not taken for today's."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from functools import cache
from hashlib import sha256
from pathlib import Path

from pudnet_bench.methods.base import Method

ROOMS = ("pudnet_bench.methods.", "pudnet_bench.suites.")
STREAM = "pudnet_bench.suites.learn2learn_episodes"  # with the stream it builds on: what a method is shown shapes what it learns


def code_digest(method: type[Method]) -> str:
    """SHA-256 of a method's module, of every module of the methods and suites rooms it uses, and of the group stream.

    Of the syntax trees without docstrings: comments, docstrings and formatting do not count.
    """
    pending: list[Path | None] = [Path(inspect.getfile(method)), _file(STREAM)]
    digests: dict[Path, str] = {}
    while pending:
        path = pending.pop()
        if path is not None and path not in digests:
            digests[path], imported = _parsed(path.read_bytes())
            pending += [_file(name) for name in imported]
    return sha256("".join(sorted(digests.values())).encode()).hexdigest()


@cache
def _parsed(source: bytes) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, and the names of the rooms' modules it imports."""
    tree = ast.parse(source)
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
    """The file of a module of this project; None for a name that is not a module (a class imported from one)."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None
