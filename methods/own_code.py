"""The modules of a user's own: loaded like a script's, and kept apart where two files name theirs alike.

A method file imports what lies beside it, and a file in a package the package's other modules. Each file that is loaded
gets a set of such modules of its own, and `activate` puts one set at a time into `sys.modules`.
Modules of Python and of installed packages are shared, and never replaced. Imports no torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from traceback import extract_tb
from types import CodeType, ModuleType
from weakref import WeakKeyDictionary

OURS = "pudnet_bench"
INSTALLED_FOLDERS = {"site-packages", "dist-packages"}
SUFFIXES = importlib.machinery.all_suffixes()
# Calls that load code whose name no reader of the source can know.
DYNAMIC = {"import_module", "__import__", "exec", "run_path", "run_module", "spec_from_file_location"}


class NameTakenError(Exception):
    """A module of the user's own that has the name of Python's, of an installed one or of this package."""


@dataclass(eq=False)
class OwnCode:
    """What loading one file or module has loaded.

    Attributes:
        folders: Where its top-level modules are looked for, before `sys.path`.
        main: Name of the module that was asked for.
        modules: Its modules by name; they are in `sys.modules` while it is active.
        at_import: Names of those that importing `main` loaded.
        sources: Hash of each file as it was run.
        path: Its `sys.path`.
    """

    folders: tuple[Path, ...]
    main: str
    modules: dict[str, ModuleType] = field(default_factory=dict)
    at_import: frozenset[str] = frozenset()
    sources: dict[Path, bytes] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)

    @property
    def module(self) -> ModuleType:
        """The module that was asked for."""
        return self.modules.get(self.main) or sys.modules[self.main]

    def has_changed(self) -> bool:
        """Whether one of its files is no longer what was run."""
        return any(not path.is_file() or _hash(path.read_bytes()) != run for path, run in self.sources.items())


@dataclass(frozen=True)
class _Outside:
    """What there was before a code was activated: `sys.path`, names of modules, and those that are hidden meanwhile."""

    path: Sequence[str] = ()
    names: frozenset[str] = frozenset()
    hidden: Mapping[str, ModuleType] = field(default_factory=dict)


_active: OwnCode | None = None
_outside = _Outside()
_loaded: dict[tuple[Path, str], OwnCode] = {}
_classes: WeakKeyDictionary[type, tuple[OwnCode, str]] = WeakKeyDictionary()


def load_file(path: Path) -> OwnCode:
    """Run the Python file `path` as a module, once for the same content of it and of what it imports.

    It is the module of a package where `__init__.py` lies beside it. Raises whatever running it raises, and NameTakenError.
    """
    root, name = _place(path)
    folders = tuple(dict.fromkeys((root, path.parent)))
    top, _, below = name.partition(".")
    if below and is_own(path) and _taken(top) is not None:
        raise NameTakenError(_conflict(top, root))
    if not is_own(path) or _taken(top) is not None:
        folders, name = (path.parent,), f"{OURS}_file_{_hash(bytes(path)).hex()[:16]}"
    return _load(folders, name, path)


def load_module(folder: Path, name: str) -> OwnCode:
    """Import the module `name`, of `folder` or installed, as `load_file` does a file."""
    return _load((folder,), name, None)


def remember(found: type, code: OwnCode, reference: str) -> None:
    """Note that the class `found` needs the modules of `code` while its methods run, and what it was asked for by."""
    _classes[found] = code, reference


def code_of(found: type) -> OwnCode | None:
    """The code that a class was loaded with; None for one of this package or of an installed one."""
    return _classes[found][0] if found in _classes else None


def reference_of(found: type) -> str:
    """What a class was asked for by, its path relative to the working folder where it lies there; "" for none."""
    place, _, attribute = _classes[found][1].rpartition(":") if found in _classes else ("", "", "")
    return f"{_shown(Path(place))}:{attribute}" if place else ""


def activate(code: OwnCode | None) -> None:
    """Let imports find the modules of `code` and of no other user's file, until another is activated."""
    global _active, _outside
    if code is _active:
        return
    if _active is not None:
        _active.modules |= {name: sys.modules.pop(name) for name in _own_names()}
        _active.path = list(sys.path)
        sys.path[:] = _outside.path
        sys.modules.update(_outside.hidden)
    _active = code
    if code is None:
        return
    beside = {entry.name.partition(".")[0] for folder in code.folders if folder.is_dir() for entry in folder.iterdir()}
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in beside and name != "__main__" and _is_own_module(name, module)
    }
    for name in hidden:
        del sys.modules[name]
    _outside = _Outside(list(sys.path), frozenset(sys.modules), hidden)
    sys.modules.update(code.modules)
    # Last, for processes that it starts: in this one, `_Finder` looks there first.
    sys.path[:] = code.path or [*sys.path, *(str(f) for f in code.folders if str(f) not in sys.path)]


def modules_of(code: OwnCode | None, start: Mapping[str, Path]) -> dict[str, Path]:
    """Files of the user's own modules behind those in `start`, by module name: what is imported anywhere in them, or loaded.

    Where a module imports by a computed name, all modules in `code.folders` count.
    """
    activate(code)
    found: dict[str, Path] = {}
    known = dict(start)
    pending = [*start, *(code.at_import if code else ())]
    while pending:
        name = pending.pop()
        path = known.get(name) or _file(name)
        if name in found or path is None or not is_own(path):
            continue
        found[name] = path
        names, dynamic = imports(path.read_bytes(), name if path.name == "__init__.py" else name.rpartition(".")[0])
        pending += names
        if dynamic and code is not None:
            known |= {module: file for folder in code.folders for module, file in _all_modules(folder)}
            pending += known
    return found


def package_of(module: str) -> dict[str, Path]:
    """Files of all of the user's own modules in the package, at the top, that holds `module`, by module name."""
    top = module.partition(".")[0]
    folders = map(Path, getattr(sys.modules.get(top), "__path__", ()))
    modules = [module for folder in folders if is_own(folder) for module in _all_modules(folder)]
    return {f"{top}.{name}".rstrip("."): file for name, file in modules}


@cache
def imports(source: bytes, package: str) -> tuple[tuple[str, ...], bool]:
    """Names that a module of `package` may import, with the packages around them; and whether it computes others.

    Of a file that is no Python source, nothing is known.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return (), False
    found, dynamic = set[str](), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called not in DYNAMIC:
                continue
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                relative = str(first.value)
                found.add(package + relative if relative.startswith(".") else relative)
            else:
                dynamic = True
    around = {".".join(parts[:n]) for parts in (name.split(".") for name in found) for n in range(1, len(parts) + 1)}
    return tuple(sorted(around - {""})), dynamic


def place_of(error: BaseException) -> str:
    """File and line of the user's own code that an exception passed last, as in " (mine.py, line 3)"; "" for none."""
    own = [frame for frame in extract_tb(error.__traceback__) if is_own_file(frame.filename)]
    return f" ({_shown(Path(own[-1].filename))}, line {own[-1].lineno})" if own else ""


def is_own_file(name: str) -> bool:
    """`is_own` for the file of a frame, which need not be one: "<string>"."""
    return not name.startswith("<") and is_own(Path(name))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def is_own(path: Path) -> bool:
    """Whether a file is neither Python's, nor installed, nor this package's."""
    place = path if path.is_absolute() else path.absolute()
    if INSTALLED_FOLDERS.intersection(place.parts):
        return False
    return not any(place.is_relative_to(folder) for folder in _installed_folders())


def _load(folders: tuple[Path, ...], name: str, path: Path | None) -> OwnCode:
    key = (path or folders[0], name)
    if (known := _loaded.get(key)) is not None and not known.has_changed():
        activate(known)
        return known
    code = OwnCode(folders, name)
    activate(code)
    importlib.invalidate_caches()
    try:
        _refuse_taken_names(code, path)
        if path is None or "." in name:
            importlib.import_module(name)
        else:
            _run(name, path)
    except BaseException:
        activate(None)
        raise
    code.at_import = frozenset(_own_names())
    _loaded[key] = code
    return code


def _run(name: str, path: Path) -> None:
    """Import a file that need not be called like a module."""
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _refuse_taken_names(code: OwnCode, path: Path | None) -> None:
    """Raise NameTakenError where a module imports a name that one beside it shares with Python's or an installed one."""
    start = path or _file(code.main)
    if start is None:
        return
    for name, file in modules_of(code, {code.main: start}).items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in imports(file.read_bytes(), package)[0]:
            if "." in imported or _taken(imported) is None:
                continue
            for folder in code.folders:
                spec = PathFinder.find_spec(imported, [str(folder)])
                a_checkout_of_ours = (
                    imported == OURS and spec is not None and spec.submodule_search_locations is not None
                )
                if spec is None or spec.origin is None or a_checkout_of_ours or _same(spec.origin, _taken(imported)):
                    continue
                raise NameTakenError(f"{file.name} imports '{imported}', and {_conflict(imported, folder)}")


def _same(file: str, other: str | None) -> bool:
    return other is not None and Path(file).resolve() == Path(other).resolve()


def _conflict(name: str, folder: Path) -> str:
    whose = "Python's" if name in sys.stdlib_module_names else f"the installed {_taken(name)}"
    return f"the module '{name}' in {folder} has the name of {whose}; rename it"


@cache
def _taken(name: str) -> str | None:
    """The file of Python's or an installed module called `name`; None if the name is free."""
    if name in sys.stdlib_module_names:
        return "the standard library"
    if name == OURS:
        return str(sys.modules[OURS].__file__)
    spec = PathFinder.find_spec(name, [place for place in sys.path if INSTALLED_FOLDERS & {*Path(place).parts}])
    return spec.origin if spec is not None else None


def _place(path: Path) -> tuple[Path, str]:
    """The folder of the top-level package (or the file itself) and the dotted name of a file's module."""
    folder, parts = path.parent, [] if path.name == "__init__.py" else [path.stem.replace(".", "_")]
    while (folder / "__init__.py").is_file() and "." not in folder.name:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


class _FromSource(SourceFileLoader):
    """Compiles a file each time: stored bytecode may be of another content with the same size and modification second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if _active is not None:
            _active.sources[Path(path)] = _hash(source)
        return self.source_to_code(source, path)


class _Finder:
    """Finds the user's own modules while their code is active, and leaves all others to Python."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if _active is None or (path is None and _taken(name) is not None):
            return None
        places = [*map(str, _active.folders), *sys.path] if path is None else list(path)
        spec = PathFinder.find_spec(name, places)
        if spec is None or spec.origin is None or not is_own(Path(spec.origin)):
            # A package without __init__.py is not on `sys.path` before the folders of its own are.
            return spec if spec is not None and spec.origin is None and path is None else None
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _FromSource(spec.loader.name, spec.loader.path)
        return spec


def _file(name: str) -> Path | None:
    """The file of a module, found without running the packages around it; None for what is no module."""
    top, *below = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    file, folders = Path(spec.origin or ""), [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in below:
        candidates = [folder / part / "__init__.py" for folder in folders]
        candidates += [folder / f"{part}{suffix}" for folder in folders for suffix in SUFFIXES]
        file = next((path for path in candidates if path.is_file()), Path())
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    return file if file.is_file() else None


def _all_modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of all modules in a folder and the folders in it, hidden and installed ones excepted."""
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).parts
        if not INSTALLED_FOLDERS.intersection(parts) and not any(part.startswith(".") for part in parts):
            yield ".".join(parts[:-1] if path.name == "__init__.py" else (*parts[:-1], path.stem)), path


def _own_names() -> list[str]:
    """Names of the modules that were loaded for the active code."""
    new = [(name, module) for name, module in list(sys.modules.items()) if name not in _outside.names]
    return [name for name, module in new if _is_own_module(name, module)]


def _is_own_module(name: str, module: ModuleType | None) -> bool:
    if name.partition(".")[0] == OURS:
        return False
    spec = getattr(module, "__spec__", None)
    origin = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if origin is None:  # a package without __init__.py
        locations = [str(place) for place in getattr(module, "__path__", ())]
        return bool(locations) and all(is_own(Path(place)) for place in locations)
    return Path(origin).is_absolute() and is_own(Path(origin))


@cache
def _installed_folders() -> tuple[Path, ...]:
    named = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = Path(sys.modules[OURS].__file__ or "").parent
    rooms = [room.resolve() for room in ours.iterdir() if room.is_dir()]
    python = [Path(place) for place in (*named, site.getusersitepackages()) if place]
    return (*python, ours, *rooms)


def _hash(content: bytes) -> bytes:
    return sha256(content).digest()


sys.meta_path.insert(0, _Finder())
