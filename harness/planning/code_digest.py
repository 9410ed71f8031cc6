"""Hash the code behind a method, so that weights learned by older code are not reused."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from functools import cache
from hashlib import sha256
from pathlib import Path

from pudnet_bench.methods.base import Method

ROOMS = ("pudnet_bench.methods.", "pudnet_bench.suites.")
STREAM = "pudnet_bench.suites.learn2learn_episodes"  # the group stream shapes what is learned
UNSEEN_GROUPS = "pudnet_bench.suites.class_splits"
OTHER_GROUPS = "pudnet_bench.suites.other_groups"
MIXED_IMAGES = "pudnet_bench.suites.mixed_images"
HELD_OUT_IMAGES = "pudnet_bench.suites.held_out_images"


def code_digest(method: type[Method]) -> str:
    """SHA-256 of a method's module, the modules of `methods` and `suites` it uses, and the group stream.

    Hashes syntax trees without docstrings, so comments, docstrings and formatting do not count.
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
def module_digest(module: str) -> str:
    """SHA-256 of one module that no method imports and that shapes some cells only, such as `UNSEEN_GROUPS`."""
    path = _file(module)
    return _parsed(path.read_bytes())[0] if path else ""


@cache
def _parsed(source: bytes) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, and the modules of `methods` and `suites` it imports."""
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
    """A module's file; None for a name that is not a module, such as a class."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None
