"""Finding methods by name, in a file, and through entry points of installed packages."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pudnet_bench.methods import own_code, registry
from pudnet_bench.methods.base import Method
from pudnet_bench.methods.registry import UnknownMethodError, find, find_in_file

GOOD = """
from pudnet_bench.methods.base import Method, Snapshot

class Mine(Method):
    name = "mine-1.0"

    def fit(self, dataset):
        yield Snapshot(lambda images: images.new_zeros(len(images), dataset.n_classes))
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(f"{text}\n# {path}\n")  # no two tests' files are equal: equal files share one module
    return str(path)


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_every_built_in_method_is_found_under_its_own_name(name: str) -> None:
    found = find(name)
    assert issubclass(found, Method)
    assert found.name == name


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownMethodError, match="unknown method 'pudent'; did you mean 'pudnet'"):
        find("pudent")
    with pytest.raises(UnknownMethodError, match=r"unknown method 'xyzzy'; known: .*pudnet.*protonet"):
        find("xyzzy")


@pytest.mark.parametrize(
    ("label", "shown"), [("", "mine-1.0"), ("label = 'L2, ours'", "L2, ours"), ("label = ''", "mine-1.0")]
)
def test_the_label_is_the_heading_of_its_rows(tmp_path: Path, label: str, shown: str) -> None:
    found = find_in_file(
        f"{write(tmp_path, GOOD.replace('name =', f'{label}' + chr(10) + '    name =') if label else GOOD)}:Mine"
    )
    assert registry.label_of(found) == shown


def test_a_label_is_not_inherited_by_another_name(tmp_path: Path) -> None:
    text = GOOD.replace("name =", "label = 'Ours'\n    name =")
    path = write(tmp_path, f"{text}\nclass Named(Mine):\n    name = 'named'\nclass Alike(Mine):\n    scale = 2\n")
    assert [registry.label_of(find_in_file(f"{path}:{c}")) for c in ("Mine", "Named", "Alike")] == [
        "Ours",
        "named",
        "Ours",
    ]


@pytest.mark.parametrize("label", ["7", "' '", "['a']"])
def test_a_label_is_text(tmp_path: Path, label: str) -> None:
    path = write(tmp_path, GOOD.replace("name =", f"label = {label}\n    name ="))
    with pytest.raises(UnknownMethodError, match="it must be text, as a heading of rows"):
        find_in_file(f"{path}:Mine")


def test_a_method_in_a_file_is_found(tmp_path: Path) -> None:
    found = find_in_file(f"{write(tmp_path, GOOD)}:Mine")
    assert issubclass(found, Method)
    assert found.name == "mine-1.0"


def test_a_changed_file_is_another_method(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    before = find_in_file(f"{path}:Mine")
    write(tmp_path, GOOD.replace("mine-1.0", "mine-1.1"))  # the same path
    assert (before.name, find_in_file(f"{path}:Mine").name) == ("mine-1.0", "mine-1.1")


def test_the_same_file_gives_the_same_class_twice(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert find_in_file(f"{path}:Mine") is find_in_file(f"{path}:Mine")


def test_a_path_may_have_colons_and_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD, "a:b.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_in_file("~/a:b.py:Mine").name == "mine-1.0"


@pytest.mark.parametrize("reference", ["mine.py", "mine.py:", "mine.py:not a class", ":"])
def test_a_reference_without_a_class_is_refused(reference: str) -> None:
    with pytest.raises(UnknownMethodError, match=r"FILE\.py:Class"):
        find_in_file(reference)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownMethodError, match=r"absent\.py' does not exist"):
        find_in_file(f"{tmp_path / 'absent.py'}:Mine")


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "mine.txt")
    with pytest.raises(UnknownMethodError, match="not a Python file"):
        find_in_file(f"{path}:Mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine(:\n", "fails to import: SyntaxError"),
        ("import a_package_that_is_not_there\n", "fails to import: ModuleNotFoundError.*a_package_that_is_not_there"),
        ("1 / 0\n", "fails to import: ZeroDivisionError"),
        ("x = 1\n", "has no class 'Mine'"),
        ("Mine = 3\n", "not a class derived from"),
        ("class Mine:\n    name = 'mine'\n", "not a class derived from"),
        ("from pudnet_bench.methods.base import Method\nclass Mine(Method):\n    name = 'mine'\n", "lacks fit"),
        (GOOD.replace('    name = "mine-1.0"\n', ""), "needs a class attribute name.*None"),
        (GOOD.replace("mine-1.0", "my method"), "needs a class attribute name.*'my method'"),
        (GOOD.replace("mine-1.0", "../mine"), "needs a class attribute name"),
        (GOOD.replace("mine-1.0", "mine\\n"), "needs a class attribute name"),
        (GOOD.replace('"mine-1.0"', "7"), "needs a class attribute name.*7"),
    ],
)
def test_a_file_without_a_usable_method_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    for _ in range(2):  # a failed import must not be remembered as a good one
        with pytest.raises(UnknownMethodError, match=message):
            find_in_file(f"{path}:Mine")


def test_a_method_in_a_module_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_in_cwd" / "inner").mkdir(parents=True)
    write(tmp_path / "package_in_cwd" / "inner", GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = find_in_file("package_in_cwd.inner.mine:Mine")
    assert (found.name, found.__module__) == ("mine-1.0", "package_in_cwd.inner.mine")
    with pytest.raises(UnknownMethodError, match=r"module 'package_in_cwd\.inner\.mine' has no class 'Other'"):
        find_in_file("package_in_cwd.inner.mine:Other")
    with pytest.raises(
        UnknownMethodError, match=r"module 'package_in_cwd\.absent' fails to import: ModuleNotFoundError"
    ):
        find_in_file("package_in_cwd.absent:Mine")


def test_a_reference_with_an_absolute_path_means_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert registry.absolute_reference("mine.py:Mine") == f"{tmp_path}/mine.py:Mine"
    assert registry.absolute_reference("package.module:Mine") == "package.module:Mine"
    (tmp_path / "package").mkdir()
    write(tmp_path / "package", GOOD, "module.py")
    there = registry.absolute_reference("package.module:Mine")
    assert there == f"{tmp_path}/package.module:Mine"
    monkeypatch.chdir("/")
    assert find_in_file(there).name == "mine-1.0"


def test_a_method_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_a_method_file.py").write_text("NAME = 'mine-beside'\n")
    (tmp_path / "typer.py").write_text(
        "raise ImportError('in the place of an installed package')\n"
    )  # imported by nobody
    text = GOOD.replace('"mine-1.0"', "NAME").replace("\nclass", "from beside_a_method_file import NAME\nclass")
    assert find_in_file(f"{write(tmp_path, text)}:Mine").name == "mine-beside"


@pytest.mark.parametrize(
    ("name", "whose"), [("typer", "the installed"), ("queue", "Python's"), ("pudnet_bench", "the inst")]
)
def test_a_module_beside_it_is_not_taken_for_an_installed_one_or_for_pythons(
    tmp_path: Path, name: str, whose: str
) -> None:
    (tmp_path / f"{name}.py").write_text("raise ImportError('in the place of another')\n")
    (tmp_path / "between.py").write_text(f"def late():\n    import {name}\n")
    path = write(tmp_path, GOOD.replace("\nclass", "import between\nclass"))
    with pytest.raises(
        UnknownMethodError, match=rf"imports '{name}', and the module '{name}' in .* of {whose}.*; rename it"
    ):
        find_in_file(f"{path}:Mine")


@pytest.mark.parametrize("stem", ["queue", "torch", "typer", "my-method", "v1.2", "3d"])
def test_a_file_may_be_called_like_any_module_or_like_none(tmp_path: Path, stem: str) -> None:
    before = sys.modules.get(stem)
    found = find_in_file(f"{write(tmp_path, GOOD, f'{stem}.py')}:Mine")
    assert found.name == "mine-1.0"
    own_code.activate(None)
    assert sys.modules.get(stem) is before


@pytest.mark.parametrize("line", ["from .model import NAME", "from package.model import NAME", "from . import NAME"])
def test_a_file_in_a_package_imports_the_packages_modules(tmp_path: Path, line: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from .model import NAME\n")
    (package / "model.py").write_text("NAME = 'mine-packaged'\n")
    path = write(package, GOOD.replace('"mine-1.0"', "NAME").replace("\nclass", f"{line}\nclass"))
    found = find_in_file(f"{path}:Mine")
    assert (found.name, found.__module__) == ("mine-packaged", "package.mine")


def test_modules_of_one_name_beside_two_files_stay_apart(tmp_path: Path) -> None:
    text = GOOD.replace(
        "    def fit",
        "    @staticmethod\n    def late():\n        import late_model\n"
        "        import importlib\n        return late_model.NAME, importlib.import_module('model').NAME\n\n    def fit",
    )
    found = []
    for name in ("a", "b", "a"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for module in ("model", "late_model"):
            (folder / f"{module}.py").write_text(f"NAME = '{name}'\n")
        found.append(
            find_in_file(f"{write(folder, text.replace('from pud', 'import model' + chr(10) + 'from pud', 1))}:Mine")
        )
    a, b, again = found
    assert again is a
    for _ in range(2):
        for method, name in ((a, "a"), (b, "b")):
            own_code.activate(own_code.code_of(method))
            assert method.late() == (name, name)
    own_code.activate(None)
    assert "model" not in sys.modules
    assert not any(str(tmp_path) in place for place in sys.path)


def test_a_changed_module_beside_it_is_run_anew(tmp_path: Path) -> None:
    text = GOOD.replace('"mine-1.0"', "NAME").replace("\nclass", "from beside import NAME\nclass")
    path = write(tmp_path, text)
    for name in ("one", "two", "six"):  # of one size, within one second: stored bytecode would look current
        (tmp_path / "beside.py").write_text(f"NAME = '{name}'\n")
        assert find_in_file(f"{path}:Mine").name == name


def test_a_failure_to_import_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("x = 1\ny = x / 0\n")
    path = write(tmp_path, "import beside\n" + GOOD)
    with pytest.raises(UnknownMethodError, match=r"ZeroDivisionError: division by zero \(beside\.py, line 2\)$"):
        find_in_file(f"{path}:Mine")
    assert "beside" not in sys.modules


def test_a_package_called_like_a_room_of_ours_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    for name, text in (("__init__", ""), ("protonet", "NAME = 'mine-not-yours'\n")):
        (tmp_path / "methods" / f"{name}.py").write_text(text)
    text = GOOD.replace('"mine-1.0"', "NAME").replace("\nclass", "from methods.protonet import NAME\nclass")
    code = f"from pudnet_bench.methods.registry import find_in_file; print(find_in_file('{write(tmp_path, text)}:Mine').name)"
    checkout = Path(registry.__file__).resolve().parents[1]  # where our own folder would be found
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.stdout.strip() == "mine-not-yours", done.stderr


def test_the_import_of_a_second_copy_of_the_contract_names_the_right_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("pudnet_bench.methods", "methods"))
    code = f"from pudnet_bench.methods.registry import find_in_file; find_in_file('{path}:Mine')"
    checkout = Path(registry.__file__).resolve().parents[1]  # where `methods` is importable
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.stderr.strip().endswith(
        "is not a class derived from pudnet_bench.methods.base.Method; import Method from there, not from methods.base"
    )


def test_a_room_imported_without_the_package_names_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "methods", None)  # as where no folder of that name can be imported
    path = write(tmp_path, GOOD.replace("pudnet_bench.methods", "methods"))
    with pytest.raises(
        UnknownMethodError, match=r"ModuleNotFoundError: .*; pudnet-bench's own is pudnet_bench\.methods$"
    ):
        find_in_file(f"{path}:Mine")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with an installed package that names three methods, one of them built in already."""
    write(tmp_path, GOOD, "package_of_mine.py")
    info = tmp_path / "package_of_mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: package-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pudnet_bench.methods]\n"
        "mine = package_of_mine:Mine\n"
        "no-class = package_of_mine:Other\n"
        "no-module = package_of_nobody:Mine\n"
        "adam = package_of_mine:Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def test_a_method_of_an_installed_package_is_found_and_listed(installed: Path) -> None:
    assert find("mine").name == "mine-1.0"
    assert registry.entries()["mine"].location == "package_of_mine:Mine"
    with pytest.raises(UnknownMethodError, match="did you mean 'mine'"):
        find("mien")


def test_a_package_cannot_replace_a_built_in_method(installed: Path) -> None:
    assert find("adam").__module__ == "pudnet_bench.methods.scratch"


@pytest.mark.parametrize("name", ["no-class", "no-module"])
def test_a_broken_entry_point_is_named(installed: Path, name: str) -> None:
    with pytest.raises(UnknownMethodError, match=f"method '{name}' cannot be imported from package_of_"):
        find(name)


def test_without_the_package_its_methods_are_gone() -> None:
    assert "mine" not in registry.entries()
