"""The hash of the code behind a number changes with the code, and with nothing else."""

from __future__ import annotations

import ast
import importlib
import inspect
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.planning import code_digest as module
from pudnet_bench.harness.planning.code_digest import code_digest
from pudnet_bench.methods.gc import GC
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.methods.registry import BUILT_IN, find, find_in_file
from pudnet_bench.methods.scratch import Adam
from pudnet_bench.results.store.run import Run

METHOD = """
from pudnet_bench.methods.base import Method, Snapshot

class Mine(Method):
    name = "mine"

    def fit(self, dataset):
        yield Snapshot(lambda images: images.flatten(1)[:, :2])
"""


def digest_of(folder: Path, source: str) -> str:
    path = folder / f"m{len(list(folder.iterdir()))}.py"
    path.write_text(source)
    return code_digest(find_in_file(f"{path}:Mine"))


def test_only_code_counts(tmp_path: Path) -> None:
    plain = digest_of(tmp_path, METHOD)
    assert digest_of(tmp_path, METHOD) == plain
    told = METHOD.replace("        yield", '        """What it does."""\n        # why\n\n        yield')
    assert digest_of(tmp_path, told) == plain
    assert digest_of(tmp_path, METHOD.replace("[:, :2]", "[:, :3]")) != plain


@pytest.mark.parametrize(
    ("changed", "concerned"),
    [("methods/metric.py", {ProtoNet}), ("suites/groups.py", {ProtoNet, Adam, GC}), ("methods/scratch.py", {Adam, GC})],
)
def test_a_change_in_a_module_it_uses_counts(
    changed: str, concerned: set[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {method: code_digest(method) for method in (ProtoNet, Adam, GC)}
    parsed = module._parsed

    there = (Path(module.__file__).parents[2] / changed).read_bytes()

    def changed_there(source: bytes) -> tuple[str, tuple[str, ...]]:
        digest, imports = parsed(source)
        return (digest[::-1] if source == there else digest), imports

    monkeypatch.setattr(module, "_parsed", changed_there)
    assert {method for method in before if code_digest(method) != before[method]} == concerned


def plain_digest(method: type) -> str:
    """Of the modules of `methods` and `suites` behind a method, named by absolute imports: that of every published artifact."""
    pending, digests = [Path(inspect.getfile(method)), Path(find_spec(module.STREAM).origin)], dict[Path, str]()
    while pending:
        path = pending.pop()
        if path in digests:
            continue
        tree = ast.parse(path.read_bytes())
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        digests[path] = sha256(ast.dump(tree).encode()).hexdigest()
        for name in names:
            if name.startswith(("pudnet_bench.methods.", "pudnet_bench.suites.")):
                try:
                    spec = find_spec(name)
                except ModuleNotFoundError:
                    continue
                pending += [Path(spec.origin)] if spec else []
    return sha256("".join(sorted(digests.values())).encode()).hexdigest()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_digest_of_a_built_in_method_has_not_changed(name: str) -> None:
    assert code_digest(find(name)) == plain_digest(find(name))


def test_a_method_in_one_file_has_the_plain_digest_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(METHOD)
    method = find_in_file(f"{path}:Mine")
    assert code_digest(method) == plain_digest(method)


PATH = "import pathlib, sys\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'lib'))\n"
# How a method's file may come by what lies in another, and the name of that file.
WAYS = {
    "beside it": ("import helper", "helper.py"),
    "a name of it": ("from helper import SCALE", "helper.py"),
    "in a function": ("def late():\n    import helper", "helper.py"),
    "on a condition": ("try:\n    import absent\nexcept ImportError:\n    import helper", "helper.py"),
    "by importlib": ("import importlib\nhelper = importlib.import_module('helper')", "helper.py"),
    "by importlib, late": ("import importlib\ndef late():\n    return importlib.import_module('helper')", "helper.py"),
    "by a computed name": ("import importlib\ndef late(n):\n    return importlib.import_module(n)", "plugins/one.py"),
    "by running it": ("def late():\n    exec(open('helper.txt.py').read())", "helper.txt.py"),
    "through another": ("import between", "helper.py"),
    "in a package": ("import package.deep.helper", "package/deep/helper.py"),
    "the package around it": ("import package.deep.helper", "package/__init__.py"),
    "in a folder without __init__": ("from folder import helper", "folder/helper.py"),
    "on another path": (f"{PATH}import far", "lib/far.py"),
    "on another path, late": (f"{PATH}def late():\n    import far", "lib/far.py"),
}  # fmt: skip


def project(folder: Path, line: str, text: str = METHOD) -> Path:
    """A folder with a method's file that begins with `line`, and with files for all of `WAYS`."""
    for place in ("package/deep", "folder", "plugins", "lib"):
        (folder / place).mkdir(parents=True)
    for name in ("package/__init__.py", "package/deep/__init__.py"):
        (folder / name).write_text("")
    for name in (
        "helper.py",
        "helper.txt.py",
        "package/deep/helper.py",
        "folder/helper.py",
        "plugins/one.py",
        "lib/far.py",
    ):
        (folder / name).write_text("SCALE = 1\n")
    (folder / "between.py").write_text("from helper import SCALE\n")
    (folder / "unused.py").write_text("SCALE = 1\n")
    path = folder / "mine.py"
    path.write_text(f"{line}\n{text}")
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_change_in_what_a_methods_file_imports_counts(tmp_path: Path, way: str) -> None:
    line, changed = WAYS[way]
    path = project(tmp_path / "here", line)
    reference = f"{path}:Mine"
    before = code_digest(find_in_file(reference))
    assert code_digest(find_in_file(reference)) == before
    if not {"computed", "running"} & set(way.split()):
        (path.parent / "unused.py").write_text("SCALE = 2\n")
    assert code_digest(find_in_file(reference)) == before
    (path.parent / changed).write_text("# why\nSCALE = 1\n" if changed != "package/__init__.py" else "# why\n")
    assert code_digest(find_in_file(reference)) == before
    (path.parent / changed).write_text("SCALE = 2\n")
    assert code_digest(find_in_file(reference)) != before


@pytest.mark.parametrize("way", WAYS)
def test_the_digest_is_the_same_on_every_machine(tmp_path: Path, way: str) -> None:
    line, _ = WAYS[way]
    here, there = project(tmp_path / "here", line), project(tmp_path / "elsewhere" / "deep", line)
    assert code_digest(find_in_file(f"{here}:Mine")) == code_digest(find_in_file(f"{there}:Mine"))
    shutil.rmtree(here.parent)


def test_what_two_modules_hold_may_not_be_exchanged(tmp_path: Path) -> None:
    path = project(tmp_path / "here", "import helper, between")
    (path.parent / "between.py").write_text("SCALE = 3\n")
    before = code_digest(find_in_file(f"{path}:Mine"))
    (path.parent / "between.py").write_text("SCALE = 1\n")
    (path.parent / "helper.py").write_text("SCALE = 3\n")
    assert code_digest(find_in_file(f"{path}:Mine")) != before


def test_a_file_that_only_names_a_class_of_another_counts(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(METHOD)
    path = tmp_path / "outer.py"
    path.write_text("from inner import Mine\n")
    before = code_digest(find_in_file(f"{path}:Mine"))
    path.write_text("from inner import Mine\nMine.scale = 2\n")
    assert code_digest(find_in_file(f"{path}:Mine")) != before


def test_a_file_behind_a_method_that_is_no_python_counts_by_its_bytes(tmp_path: Path) -> None:
    path = project(tmp_path / "here", "def late():\n    import helper")
    (path.parent / "helper.py").write_text("broken (\n")
    before = code_digest(find_in_file(f"{path}:Mine"))
    (path.parent / "helper.py").write_text("broken (  \n")
    assert code_digest(find_in_file(f"{path}:Mine")) != before


@pytest.mark.parametrize("place", ["site-packages", "src"], ids=["installed", "editable"])
def test_of_an_entry_points_method_the_whole_distribution_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder, name = tmp_path / place, f"dist_{place.partition('-')[0]}"
    (folder / name / "inner").mkdir(parents=True)
    files = [f"{name}/__init__.py", f"{name}/method.py", f"{name}/inner/__init__.py", f"{name}/inner/apart.py"]
    for file in files:
        (folder / file).write_text(METHOD if file.endswith("method.py") else "SCALE = 1\n")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pudnet_bench.methods]\nmine = {name}.method:Mine\n")
    recorded = files if place == "site-packages" else []  # an editable one records a link to the folder only
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in recorded))
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    before = code_digest(find("mine"))
    (folder / name / "inner" / "apart.py").write_text("SCALE = 2\n")  # imported by nothing
    assert code_digest(find("mine")) != before
    for module_name in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[module_name]


LEARNS = """
import torch
import helper
from pudnet_bench.methods.protonet import ProtoNet


class Mine(ProtoNet):
    name = "mine"

    def features(self, images):
        return super().features(images) * helper.SCALE
"""
FITS = """
import torch
from pudnet_bench.methods.base import Method, Snapshot


class Mine(Method):
    name = "mine"

    def fit(self, dataset):
        import helper
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        yield Snapshot(lambda images: -helper.SCALE * torch.cdist(images.flatten(1), means))
"""


@pytest.mark.parametrize("text", [LEARNS, FITS], ids=["trained", "not trained"])
def test_old_numbers_are_never_shown_as_new(command_line: Callable[..., Result], tmp_path: Path, text: str) -> None:
    """A change in a helper trains and measures again, in this process and in others; a change back finds both again."""
    (tmp_path / "mine.py").write_text(text)
    keys, accuracies = [], []
    elsewhere = "local-processes:1" if text is FITS else "local"
    for scale, executor in (("1", "local"), ("-1", "local"), ("1", elsewhere)):
        (tmp_path / "helper.py").write_text(f"SCALE = {scale}\n")
        call = ("run", "table1", "--method", "mine.py:Mine", "--methods", "mine", "--groups", 2, "--training-groups", 2)
        done = command_line(*call, "--out", "out", "--executor", executor, "--cache", tmp_path / "cache")
        assert done.exit_code == 0, done.output
        run = Run.open(tmp_path / "out")
        (cell,) = run.record.plan.cells
        keys.append(cell.key)
        accuracies.append(run.planned_frame()["accuracy"].mean())
    assert keys[0] == keys[2] != keys[1]
    assert accuracies[0] == accuracies[2]
    if text is FITS:
        assert accuracies[1] == pytest.approx(1 - accuracies[0])
    trained = list((tmp_path / "cache/artifacts").glob("*")) if text is LEARNS else []
    assert len(trained) == (2 if text is LEARNS else 0)
