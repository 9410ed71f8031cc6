"""A suite of the user's own: the guide's example as it stands, and what is said of files that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.planning.plan import suite_in_file
from pudnet_bench.methods.registry import UnknownMethodError
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.declaration import SuiteError

GUIDE = Path(__file__).parents[3] / "docs/adding-a-method.md"
MINE = """
from pudnet_bench.suites.declaration import Suite, Variant

SUITE = Suite("mine", "Mine", ("convnet3",), ("digits",), ({variants}))
"""


def example() -> str:
    (text,) = re.findall(r"```python\n# sketch_size\.py\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return text


def test_the_readmes_suite_runs_as_it_stands(command_line: Callable[..., Result], tmp_path: Path) -> None:
    assert len(example().splitlines()) <= 25
    (tmp_path / "sketch_size.py").write_text(example())
    done = command_line("run", "sketch_size.py", "--groups", 2, "--training-groups", 1)
    assert done.exit_code == 0, done.output
    frame = Run.open(tmp_path / "runs" / "sketch-size-quick-cpu").frame()
    assert set(frame["method"]) == {"pudnet-32", "pudnet-128", "protonet"}
    assert "PudNet, 32" in done.stdout


def test_a_row_may_be_of_the_users_own_method(
    command_line: Callable[..., Result], method_file: Callable[..., str], tmp_path: Path
) -> None:
    variants = 'Variant("a", "own", "Own, a"), Variant("own", "own", "Own, b"),'
    (tmp_path / "mine.py").write_text(MINE.format(variants=variants))
    done = command_line("run", "mine.py", "--method", method_file(), "--groups", 2)
    assert done.exit_code == 0, done.output
    assert set(Run.open(tmp_path / "runs" / "mine-quick-cpu").frame()["method"]) == {"a", "own"}
    missing = command_line("run", "mine.py", "--groups", 2)
    assert missing.exit_code == 2
    assert "unknown method 'own'" in missing.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "defines none"),
        ("from pudnet_bench.suites.catalog import SUITES\nsame = SUITES['table1']", "defines none"),
        (MINE.format(variants="") + "OTHER = Suite('other', '', (), (), ())", r"defines 2 \(mine, other\)"),
        (MINE.format(variants="").replace("mine", "table1"), "names its suite 'table1', which the catalog has"),
        (MINE.format(variants="").replace("mine", "../mine"), "fails to import: SuiteError: a suite's name"),
        ("import not_there", "suite file .* fails to import: ModuleNotFoundError"),
    ],
)
def test_a_file_without_one_suite_of_its_own_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.py"
    path.write_text(text)
    with pytest.raises((SuiteError, UnknownMethodError), match=said):
        suite_in_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownMethodError, match=r"suite file '.*absent\.py' does not exist"):
        suite_in_file(tmp_path / "absent.py")
