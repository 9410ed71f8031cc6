"""The house rules: imports only go down, no cycle anywhere, light modules stay light, files say what they hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {  # room -> what it may import of the house, besides itself
    "harness": {"suites", "methods", "results", "slurm"},
    "suites": {"methods.base", "results.store.files"},
    "methods": set(),
    "results": set(),
    "slurm": set(),
}
FILES = sorted(path.relative_to(ROOT) for room in ALLOWED for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    """The module's name below `pudnet_bench`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, at the top, inside a function or for type checking only; absolute names."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("pudnet_bench.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])]).removeprefix("pudnet_bench.")
            for alias in node.names:  # the name may be a submodule
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


GRAPH = {module: set(imports(module)) for module in MODULES}


def test_the_parser_sees_imports_of_every_kind() -> None:
    assert "methods.base" in GRAPH["suites.groups"]  # at the top
    assert "methods.targets" in GRAPH["methods.scratch"]  # a module named in a from-import
    assert "suites.sources.loading" in GRAPH["harness.cli.data"]  # inside a function


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    room = module.split(".")[0]
    for imported in GRAPH[module]:
        other = imported.split(".")[0]
        if other in ALLOWED and other != room:
            assert other in ALLOWED[room] or imported in ALLOWED[room], f"{module} imports {imported}"
        assert other != "tests", f"{module} imports {imported}"


WITHIN = {  # sub-room -> what it may import of its room's other sub-rooms
    "harness.cli": {"authoring", "running", "planning", "training", "measuring", "console"},
    "harness.authoring": {"planning", "training", "measuring", "console"},
    "harness.running": {"planning", "training", "measuring", "console"},
    "harness.planning": {"training", "measuring"},
    "harness.training": {"measuring"},
    "harness.measuring": set(),
    "harness.console": set(),
    "results.rendering": {"analysis", "paper", "store"},
    "results.analysis": {"store"},
    "results.store": set(),
    "results.paper": set(),
}


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module.startswith(tuple(f"{sub}." for sub in WITHIN))]
)
def test_imports_only_go_down_within_a_room(module: str) -> None:
    room, sub, *_ = module.split(".")
    others = {imported.split(".")[1] for imported in GRAPH[module] if imported.startswith(f"{room}.")} - {sub}
    assert others <= WITHIN[f"{room}.{sub}"], f"{module} imports {others - WITHIN[f'{room}.{sub}']}"


def test_every_module_of_the_harness_and_of_results_is_in_a_sub_room() -> None:
    for module in MODULES:
        room, *below = module.split(".")
        if room in ("harness", "results") and below and below != ["__main__"]:
            assert f"{room}.{below[0]}" in WITHIN, module


def test_no_module_imports_itself_in_a_round() -> None:
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in sorted(GRAPH[module] & set(MODULES)):
                visit(imported, [*path, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])


def test_no_file_is_named_for_nothing() -> None:
    for path in FILES:
        assert not re.search(r"util|helper|manager|misc", path.as_posix()), path


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter imports for `python arguments`."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return {
        line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "import time:" in line
    }


@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_listing_loads_no_array_library(arguments: list[str]) -> None:
    loaded = imported_by("-m", "harness", *arguments)
    assert {"pudnet_bench", "typer"} <= loaded
    assert not loaded & {"torch", "torchvision", "pandas", "numpy", "scipy", "sklearn", "pyarrow"}


def test_reading_a_run_loads_no_torch() -> None:
    """`status`, `cancel`, `collect` and `table` answer at once."""
    loaded = imported_by("-c", "import pudnet_bench.harness.running.status, pudnet_bench.results.rendering.render")
    assert "pyarrow" in loaded
    assert "torch" not in loaded


def test_a_status_loads_no_data_frames() -> None:
    loaded = imported_by("-c", "import pudnet_bench.harness.running.status")
    assert "pyarrow" in loaded
    assert not loaded & {"torch", "pandas", "scipy"}


def test_results_never_load_torch() -> None:
    modules = sorted(module for module in MODULES if module.split(".")[0] == "results")
    assert len(modules) > 3
    for module in modules:
        assert "torch" not in {imported.split(".")[0] for imported in GRAPH[module]}, module
    loaded = imported_by("-c", "import " + ", ".join(f"pudnet_bench.{module}" for module in modules))
    assert "pyarrow" in loaded
    assert "torch" not in loaded
