"""Finding a method: by its built-in name, by an entry point of an installed package, or in a file of the user's own.

Importing this module imports neither torch nor any method, so that listing is instant.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pudnet_bench.errors import BenchError

if TYPE_CHECKING:
    from pudnet_bench.methods.base import Method

ENTRY_POINTS = "pudnet_bench.methods"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]*")


class UnknownMethodError(BenchError):
    """A method that cannot be found or imported, or that lacks the contract; says which and the way out."""


@dataclass(frozen=True)
class MethodEntry:
    """Where a method's class is (``package.module:Class``) and what it is, in one line."""

    name: str
    location: str
    description: str


BUILT_IN = {
    entry.name: entry
    for entry in (
        MethodEntry(
            "pudnet",
            "pudnet_bench.methods.pudnet.method:PudNet",
            "predicts the target's kernels from the dataset in one pass",
        ),
        MethodEntry("adam", "pudnet_bench.methods.scratch:Adam", "trains the target from scratch with Adam"),
        MethodEntry("gc", "pudnet_bench.methods.gc:GC", "trains from scratch with Adam and gradient centralization"),
        MethodEntry(
            "pretrained",
            "pudnet_bench.methods.pretrained:Pretrained",
            "classifier over all training classes, then centroids",
        ),
        MethodEntry(
            "pretrained-imagenet",
            "pudnet_bench.methods.pretrained_imagenet:PretrainedImageNet",
            "timm's ImageNet weights, centroids",
        ),
        MethodEntry(
            "matchnet",
            "pudnet_bench.methods.matchnet:MatchNet",
            "meta-trained features, attention over support samples",
        ),
        MethodEntry(
            "meta-baseline",
            "pudnet_bench.methods.meta_baseline:MetaBaseline",
            "pretrained features, meta-trained, cosine",
        ),
        MethodEntry(
            "meta-deepbdc",
            "pudnet_bench.methods.deepbdc:MetaDeepBDC",
            "Brownian distance covariance of feature maps, class means",
        ),
        MethodEntry(
            "musml", "pudnet_bench.methods.musml:MUSML", "meta-learned parameter subspaces, a few coordinates fitted"
        ),
        MethodEntry(
            "finetune", "pudnet_bench.methods.finetune:Finetune", "trains on from the network of another method"
        ),
        MethodEntry("protonet", "pudnet_bench.methods.protonet:ProtoNet", "meta-trained features, nearest class mean"),
    )
}


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def entries() -> dict[str, MethodEntry]:
    """Every method that has a name: the built-in ones and those of installed packages."""
    found = {name: MethodEntry(name, point.value, f"from {point.value}") for name, point in _installed().items()}
    return {**found, **BUILT_IN}


def check_name(name: str) -> None:
    """Raise UnknownMethodError with the nearest name unless ``name`` is a method's."""
    if name not in BUILT_IN and name not in (known := entries()):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise UnknownMethodError(f"unknown method '{name}'; {hint}")


def find(name: str) -> type[Method]:
    """The class of the method ``name``. Raises UnknownMethodError when there is none or it does not import."""
    check_name(name)
    module, _, attribute = (BUILT_IN.get(name) or entries()[name]).location.partition(":")
    try:
        return _checked(getattr(importlib.import_module(module), attribute), name)
    except Exception as error:  # an installed package can fail in any way; the cause is named
        raise UnknownMethodError(f"method '{name}' cannot be imported from {module}: {error}") from error


def find_in_file(reference: str, asked: str = "--method") -> type[Method]:
    """The class named by ``path/to/file.py:MyMethod``, given to ``asked``.

    Runs the file. Raises UnknownMethodError when it is not there, fails to import, or the class lacks the contract.
    """
    path_text, colon, attribute = reference.rpartition(":")
    if not colon or not attribute.isidentifier():
        raise UnknownMethodError(f"{asked} takes FILE.py:Class, and '{reference}' names no class")
    path = Path(path_text).expanduser().resolve()
    found = getattr(import_file(path, "method file"), attribute, None)
    if found is None:
        raise UnknownMethodError(f"method file '{path}' has no class '{attribute}'")
    return _checked(found, reference)


def import_file(path: Path, kind: str) -> ModuleType:
    """Run a Python file of the user's and return its module; the same content runs once.

    ``kind`` ("method file") names it in errors. Raises UnknownMethodError when it is not there or fails to import.
    """
    if not path.is_file():
        raise UnknownMethodError(f"{kind} '{path}' is not there")
    source = path.read_bytes()
    name = f"pudnet_bench_file_{sha256(bytes(path) + source).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None:
            raise UnknownMethodError(f"{kind} '{path}' is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            # Not by its loader, which takes bytecode of another content with the same size and second for this one's.
            exec(compile(source, path, "exec"), vars(module))
        except (Exception, SystemExit) as error:  # a user's file can fail in any way; the cause is named
            del sys.modules[name]
            raise UnknownMethodError(f"{kind} '{path}' fails to import: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def _checked(found: Any, reference: str) -> type[Method]:
    """``found`` if it fulfils the contract as far as can be told without an instance."""
    from pudnet_bench.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UnknownMethodError(f"'{reference}' is not a class derived from methods.base.Method")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise UnknownMethodError(
            f"'{reference}' lacks {', '.join(missing)}; implement what methods.base.Method asks for"
        )
    name = getattr(found, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UnknownMethodError(
            f"'{reference}' needs a class attribute name, letters, digits and . _ + - only; it is {name!r}"
        )
    return found
