"""Look up a method: by built-in name, by entry point of an installed package, or in a file or module of the user's.

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
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pudnet_bench.errors import BenchError

if TYPE_CHECKING:
    from pudnet_bench.methods.base import Method

ROOMS = ("harness", "methods", "results", "slurm", "suites")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]*")


class UnknownMethodError(BenchError):
    """A method that cannot be found or imported, or that does not fulfil the contract."""


@dataclass(frozen=True)
class MethodEntry:
    """A method's class (`location`, as package.module:Class) and a description of one line."""

    name: str
    location: str
    description: str


_BUILT_IN = (  # name, class below pudnet_bench.methods, description
    ("pudnet", "pudnet.method:PudNet", "predicts the target's kernels from the dataset in one pass"),
    ("adam", "scratch:Adam", "trains the target from scratch with Adam"),
    ("gc", "gc:GC", "trains from scratch with Adam and gradient centralization"),
    ("pretrained", "pretrained:Pretrained", "classifier over all training classes, then centroids"),
    ("pretrained-imagenet", "pretrained_imagenet:PretrainedImageNet", "timm's ImageNet weights, centroids"),
    ("matchnet", "matchnet:MatchNet", "meta-trained features, attention over support samples"),
    ("meta-baseline", "meta_baseline:MetaBaseline", "pretrained features, meta-trained, cosine"),
    ("meta-deepbdc", "deepbdc:MetaDeepBDC", "Brownian distance covariance of feature maps, class means"),
    ("musml", "musml:MUSML", "meta-learned parameter subspaces, a few coordinates fitted"),
    ("finetune", "finetune:Finetune", "trains on from the network of another method"),
    ("protonet", "protonet:ProtoNet", "meta-trained features, nearest class mean"),
    ("all-images", "all_images:AllImages", "features of another method, all fit images for its head"),
    ("pudnet-control", "pudnet.controls:PudNetControl", "control: PudNet with kernels from elsewhere"),
    ("pudnet-constant", "pudnet.controls:ConstantSketch", "control: PudNet trained without a sketch"),
    ("untrained", "untrained:Untrained", "control: the target's initial parameters, centroids"),
)
BUILT_IN = {name: MethodEntry(name, f"pudnet_bench.methods.{place}", text) for name, place, text in _BUILT_IN}


def entries() -> dict[str, MethodEntry]:
    """Return every named method: those of installed packages, and the built-in ones, which take precedence."""
    installed = entry_points(group="pudnet_bench.methods")
    return {p.name: MethodEntry(p.name, p.value, f"from {p.value}") for p in installed} | BUILT_IN


def check_name(name: str) -> None:
    """Raise UnknownMethodError, with the nearest name, unless a method is called `name`."""
    if name not in BUILT_IN and name not in (known := entries()):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise UnknownMethodError(f"unknown method '{name}'; {hint}")


def find(name: str) -> type[Method]:
    """Return the class of the method called `name`; raise UnknownMethodError if none can be imported."""
    check_name(name)
    module, _, attribute = (BUILT_IN.get(name) or entries()[name]).location.partition(":")
    try:
        return _checked(getattr(importlib.import_module(module), attribute), name)
    except Exception as error:  # an installed package can fail in any way; the cause is named
        raise UnknownMethodError(f"method '{name}' cannot be imported from {module}: {error}") from error


def find_in_file(reference: str, asked: str = "--method") -> type[Method]:
    """Return the class named by `path/to/file.py:MyMethod` or `package.module:MyMethod`, by running or importing it.

    A module may also lie in the working folder. Errors name `asked`, the option or command that was given `reference`.

    Raises:
        UnknownMethodError: for a class that does not exist, fails to import or does not fulfil the contract.
    """
    place, colon, attribute = reference.rpartition(":")
    if not colon or not attribute.isidentifier():
        raise UnknownMethodError(
            f"{asked} takes FILE.py:Class or package.module:Class, and '{reference}' names no class"
        )
    if _is_module(place):
        module, what = _import_module(place), f"module '{place}'"
    else:
        path = Path(place).expanduser().resolve()
        module, what = import_file(path, "method file"), f"method file '{path}'"
    if (found := getattr(module, attribute, None)) is None:
        raise UnknownMethodError(f"{what} has no class '{attribute}'")
    return _checked(found, reference)


def absolute_reference(reference: str) -> str:
    """Return `reference` with an absolute path in place of a relative one, for use in another working folder."""
    place, _, attribute = reference.rpartition(":")
    is_file = place and not _is_module(place)
    return f"{Path(place).expanduser().absolute()}:{attribute}" if is_file else reference


def _is_module(place: str) -> bool:
    """Whether `place` names a module, such as package.module, and not a file."""
    parts = place.split(".")
    return parts[-1] != "py" and all(part.isidentifier() for part in parts) and not Path(place).is_file()


def _import_module(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module can fail in any way; the cause is named
        raise UnknownMethodError(_import_failure(f"module '{name}'", error)) from error


def _make_importable(folder: Path) -> None:
    """Let modules in `folder` be imported, last in the search order: they cannot shadow anything."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_failure(what: str, error: BaseException) -> str:
    sentence = f"{what} fails to import: {type(error).__name__}: {error}"
    room = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"{sentence}; pudnet-bench's own is pudnet_bench.{room}" if room in ROOMS else sentence


def import_file(path: Path, kind: str) -> ModuleType:
    """Run a user's Python file, once for the same content, and return its module.

    Like a script, it can import the modules beside it. Errors call it a `kind`, such as "method file".

    Raises:
        UnknownMethodError: for a file that does not exist or fails to import.
    """
    if not path.is_file():
        raise UnknownMethodError(f"{kind} '{path}' does not exist")
    source = path.read_bytes()
    name = f"pudnet_bench_file_{sha256(bytes(path) + source).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None:
            raise UnknownMethodError(f"{kind} '{path}' is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        _make_importable(path.parent)
        try:
            # Not by its loader, which may run stale bytecode: of other content with the same size and modification second.
            exec(compile(source, path, "exec"), vars(module))
        except (Exception, SystemExit) as error:  # a user's file can fail in any way; the cause is named
            del sys.modules[name]
            raise UnknownMethodError(_import_failure(f"{kind} '{path}'", error)) from error
    return sys.modules[name]


def _checked(found: Any, reference: str) -> type[Method]:
    """Return `found` if it fulfils the contract as far as a class without an instance shows."""
    from pudnet_bench.methods.base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        copied = any(base.__module__ == "methods.base" for base in getattr(found, "__mro__", ()))
        hint = "; import Method from there, not from methods.base" if copied else ""
        raise UnknownMethodError(f"'{reference}' is not a class derived from pudnet_bench.methods.base.Method{hint}")
    if missing := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
        required = "implement what pudnet_bench.methods.base.Method requires"
        raise UnknownMethodError(f"'{reference}' lacks {missing}; {required}")
    if not isinstance(name := getattr(found, "name", None), str) or not NAME.fullmatch(name):
        raise UnknownMethodError(
            f"'{reference}' needs a class attribute name of letters, digits and . _ + - only; it is {name!r}"
        )
    return found
