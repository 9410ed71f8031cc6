"""The program around the commands: its version, its module names, its errors, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.cli.app import app, explained

ROOT = Path(__file__).parents[3]
LOADED = """
import runpy, sys
from collections import Counter
from pathlib import Path

sys.argv = ["harness", *{arguments!r}]
try:
    runpy.run_module({name!r}, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
modules = [module for name, module in sys.modules.items() if name != "__main__"]
files = Counter(Path(module.__file__).resolve() for module in modules if getattr(module, "__file__", None))
ours = [file for file in files if file.is_relative_to({root!r})]
print(len(ours), sorted({{"torch", "numpy", "pandas", "rich"}} & {{*sys.modules}}))
print([str(file) for file in ours if files[file] > 1])
"""


def loaded(name: str, *arguments: str) -> list[str]:
    """What `python -m NAME ARGUMENTS` printed, then how many of our files it loaded and which heavy packages, then twice what."""
    script = LOADED.format(name=name, arguments=arguments, root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["harness", "pudnet_bench"])
def test_no_module_has_two_names(name: str) -> None:
    count, twice = loaded(name, "list")[-2:]
    assert int(count.split()[0]) > 10
    assert twice == "[]"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_loads_nothing_heavy(option: str) -> None:
    shown, count, _ = loaded("harness", option)
    assert shown == f"pudnet-bench {version('pudnet-bench')}"
    assert count.endswith(" []")


def test_every_help_text_is_one_line_of_80_columns() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout
    assert "..." not in shown.partition("Commands:")[2]
    group = typer.main.get_command(app)
    assert len(group.commands) == 13
    for name, command in group.commands.items():
        assert command.help
        assert len(command.help) <= 78, name
        for parameter in command.params:
            assert len(getattr(parameter, "help", "") or "") <= 50, f"{name} {parameter.name}"


def test_an_error_ends_with_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    class BusyError(BenchError):
        exit_code = 75

    def fail(debug: bool = False) -> None:
        raise BusyError("the table is \x1b taken")

    with pytest.raises(typer.Exit) as ended:
        explained(fail)()
    assert ended.value.exit_code == 75
    assert capsys.readouterr().err == "error: the table is \\x1b taken\n"


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file", "x")

    with pytest.raises(FileNotFoundError):
        explained(fail)()
