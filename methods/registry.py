"""Look up a method: by built-in name, by entry point of an installed package, or in a file or module of the user's.

Importing this module imports neither torch nor any method, so that listing is instant.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pudnet_bench.errors import BenchError
from pudnet_bench.methods import own_code
from pudnet_bench.methods.own_code import OwnCode

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


def check_name(name: str, others: Iterable[str] = ()) -> None:
    """Raise UnknownMethodError, with the nearest name, unless a method is called `name`; `others` may be meant as well."""
    if name not in BUILT_IN and name not in (installed := entries()):
        known = {_spelt_alike(each): each for each in (*installed, *others)}
        near = difflib.get_close_matches(_spelt_alike(name), known, 1)
        hint = f"did you mean '{known[near[0]]}'?" if near else f"known: {', '.join(known.values())}"
        raise UnknownMethodError(f"unknown method '{name}'; {hint}")


def _spelt_alike(name: str) -> str:
    return name.lower().replace("_", "-")


def label_of(method: type[Method]) -> str:
    """Return the heading of a method's rows: its class's `label`, by default its name.

    A subclass with a name of its own does not inherit the label: two rows could not be told apart.
    """
    for base in method.__mro__:
        if label := vars(base).get("label"):
            return str(label)
        if "name" in vars(base):
            break
    return method.name


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

    A module may be installed, or lie in the working folder or in that of `folder/package.module:MyMethod`. Errors name
    `asked`, the option or command that was given `reference`.

    Raises:
        UnknownMethodError: for a class that does not exist, fails to import or does not fulfil the contract.
    """
    place, colon, attribute = reference.rpartition(":")
    if not colon or not attribute.isidentifier():
        raise UnknownMethodError(
            f"{asked} takes FILE.py:Class or package.module:Class, and '{reference}' names no class"
        )
    if _is_module(place):
        folder, name = _folder_and_module(place)
        what = f"module '{place}'"
        code = _loaded(partial(own_code.load_module, folder, name), what)
    else:
        path = Path(place).expanduser().resolve()
        what = f"method file '{path}'"
        code = _loaded_file(path, "method file")
    if (found := getattr(code.module, attribute, None)) is None:
        raise UnknownMethodError(f"{what} has no class '{attribute}'")
    method = _checked(found, reference)
    own_code.remember(method, code, reference)
    return method


def absolute_reference(reference: str) -> str:
    """Return `reference` as it is meant here, for use in another working folder: with the absolute path of a file or folder."""
    place, _, attribute = reference.rpartition(":")
    if _is_module(place):
        folder, name = _folder_and_module(place)
        top = folder / name.partition(".")[0]
        return f"{folder}/{name}:{attribute}" if top.is_dir() or top.with_suffix(".py").is_file() else reference
    return f"{Path(place).expanduser().absolute()}:{attribute}" if place else reference


def _is_module(place: str) -> bool:
    """Whether `place` names a module, such as package.module or folder/package.module, and not a file."""
    parts = place.rpartition("/")[2].split(".")
    return parts[-1] != "py" and all(part.isidentifier() for part in parts) and not Path(place).expanduser().is_file()


def _folder_and_module(place: str) -> tuple[Path, str]:
    """The folder in which a module is looked for, by default the working folder, and its name."""
    path = Path(place).expanduser().absolute()
    return path.parent, path.name


def import_file(path: Path, kind: str) -> ModuleType:
    """Run a user's Python file, once for the same content, and return its module (`own_code`).

    Errors call it a `kind`, such as "suite file".

    Raises:
        UnknownMethodError: for a file that does not exist or fails to import.
    """
    return _loaded_file(path, kind).module


def _loaded_file(path: Path, kind: str) -> OwnCode:
    if not path.is_file():
        raise UnknownMethodError(f"{kind} '{path}' does not exist")
    if path.suffix != ".py":
        raise UnknownMethodError(f"{kind} '{path}' is not a Python file (.py)")
    return _loaded(partial(own_code.load_file, path), f"{kind} '{path}'")


def _loaded(load: Callable[[], OwnCode], what: str) -> OwnCode:
    try:
        return load()
    except own_code.NameTakenError as error:
        raise UnknownMethodError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:  # a user's file can fail in any way; the cause is named
        raise UnknownMethodError(_import_failure(what, error)) from error


def _import_failure(what: str, error: BaseException) -> str:
    sentence = f"{what} fails to import: {type(error).__name__}: {error}{own_code.place_of(error)}"
    room = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"{sentence}; pudnet-bench's own is pudnet_bench.{room}" if room in ROOMS else sentence


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
    if not isinstance(label := getattr(found, "label", ""), str) or (label and not label.strip()):
        raise UnknownMethodError(f"'{reference}' has the label {label!r}; it must be text, as a heading of rows")
    return found
