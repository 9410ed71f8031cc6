"""What reaches a real terminal, one that wants no colour, and a pipe; and what a real shell completes."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.console.terminal import print_table
from pudnet_bench.suites.catalog import SUITES
from pudnet_bench.suites.families import FAMILIES

ROOT = Path(__file__).parents[3]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]


@pytest.fixture
def environment(cache_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PUDNET_BENCH_DATA")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PUDNET_BENCH_CACHE": str(cache_dir)}


def on_terminal(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What `command` writes to the terminal that it is started on."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(mine)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


def through_pipe(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def measured(command_line: CommandLine, method_file: MethodFile, tmp_path: Path) -> Path:
    """A run of a method of one's own, and its folder's name under runs."""
    done = command_line(
        "run", "table1", "--method", method_file(), "--methods", "own", "--groups", "2", "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    return tmp_path / "runs/table1-quick-cpu"


def test_styles_only_for_a_terminal_that_wants_them(
    measured: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    for arguments in (["list"], ["status", "table1"], ["data", "list"], ["table", "table1"]):
        command = [sys.executable, "-m", "harness", *arguments]
        styled = on_terminal(command, environment, tmp_path)
        assert bool(COLOUR.search(styled)) == (arguments[0] != "table")
        assert "\x1b" not in COLOUR.sub("", styled)
        assert "\x1b" not in on_terminal(command, {**environment, "NO_COLOR": "1"}, tmp_path)
        piped = through_pipe(command, environment, tmp_path)
        assert "\x1b" not in piped
        assert piped == "".join(f"{line.rstrip()}\n" for line in piped.splitlines())


@pytest.mark.slow
def test_progress_moves_only_on_a_terminal(measured: Path, environment: dict[str, str], tmp_path: Path) -> None:
    def command(groups: int) -> list[str]:
        options = ["--method", "own.py:Own", "--methods", "own", "--groups", str(groups), "--device", "cpu"]
        return [sys.executable, "-m", "harness", "run", "table1", *options]

    moving = on_terminal(command(4), environment, tmp_path)
    assert "\x1b[2K" in moving  # a line is written anew
    assert COLOUR.search(moving)
    assert not COLOUR.search(on_terminal(command(6), {**environment, "NO_COLOR": "1"}, tmp_path))
    assert "\x1b" not in through_pipe(command(8), environment, tmp_path)


def test_a_terminal_that_cannot_move_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    for kind, moves in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", kind)
        with Display() as display:
            assert (display.progress is not None) == moves


def test_a_line_through_a_pipe_is_whole(environment: dict[str, str], tmp_path: Path) -> None:
    listed = through_pipe([sys.executable, "-m", "harness", "list"], environment, tmp_path).splitlines()
    (line,) = [line for line in listed if line.strip().startswith("table7 ")]
    assert line.endswith(", ".join(SUITES["table7"].families))


@pytest.mark.parametrize("width", ["30", "200"])
def test_columns_are_aligned_whatever_is_in_them(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    print_table([["a", "漢字", "x" * 20], ["a\tb", "", "y"], ["[bold]", "é", "z"]], header=("one", "two", "three"))
    odd = capsys.readouterr().out
    print_table([["a", "漢字", "x" * 20], ["a b", "", "y"], ["[bold]", "é", "z"]], header=("one", "two", "three"))
    plain = capsys.readouterr().out
    assert " [bold]  é     z\n" in plain
    assert plain.splitlines()[0] == " one     two   three"
    assert {line.rfind("x") for line in odd.splitlines()} >= {max(line.rfind("x") for line in plain.splitlines())}


# --- Completion ---------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """pudnet-bench as an installation of the package writes it, in a folder for PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "pudnet-bench"
    script.write_text(f"#!{sys.executable}\nfrom pudnet_bench.harness.cli.app import main\n\nmain()\n")
    script.chmod(0o755)
    return folder


@pytest.fixture
def completed(program: Path, environment: dict[str, str], tmp_path: Path) -> Callable[[str], list[str]]:
    """`completed("run tab")`: what bash offers for the last word of that line, by its own rules."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not here")
    environment["PATH"] = f"{program}{os.pathsep}{environment['PATH']}"
    own = {**environment, "_PUDNET_BENCH_COMPLETE": "source_bash"}
    source = subprocess.run(["pudnet-bench"], env=own, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert "complete" in source

    def complete(line: str) -> list[str]:
        words = ["pudnet-bench", *line.split(" ")]
        script = (
            f"{source}\n"
            'name=$(complete -p pudnet-bench | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n'
            f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}\n"
            f"COMP_LINE={'pudnet-bench ' + line!r}; COMP_POINT=${{#COMP_LINE}}\n"
            '"$name" pudnet-bench "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"\n'
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return complete


def test_bash_completes_names(completed: Callable[[str], list[str]], tmp_path: Path) -> None:
    (tmp_path / "table_of_mine.py").touch()
    assert completed("sta") == ["status"]
    assert set(completed("run tab")) == {name for name in SUITES if name.startswith("tab")} | {"table_of_mine.py"}
    assert completed("run table1 --profile st") == ["standard"]
    assert completed("run table1 --methods adam,prot") == ["adam,protonet"]
    assert completed("run table1 --families fashion,cifar100-") == [
        f"fashion,{name}" for name in FAMILIES if name.startswith("cifar100-")
    ]
    assert completed("run table1 --targets ") == ["convnet3", "resnet18", "resnet34"]
    assert completed("run table1 --executor local-p") == ["local-processes:"]
    assert completed("check prot") == ["protonet"]
    assert completed("data fetch fash") == ["fashion-mnist"]
    assert completed("run nothing-like-it") == []


def test_bash_completes_runs(completed: Callable[[str], list[str]], measured: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "kept/here"
    shutil.copytree(measured, elsewhere)
    assert completed("status tab") == ["table1"]
    assert completed("report runs/") == ["runs/table1-quick-cpu"]
    assert completed("compare table1 kept/h") == ["kept/here/"]


def test_completion_is_instant_and_only_for_a_program_with_a_name(
    program: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['pudnet-bench']\n"
        "from pudnet_bench.harness.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pandas', 'pyarrow', 'matplotlib', 'numpy'} & set(sys.modules), sys.modules\n"
    )
    (tmp_path / "runs/table1-quick-cpu").mkdir(parents=True)
    (tmp_path / "runs/table1-quick-cpu/record.json").touch()
    for words in ("run tab", "run t --methods p", "run t --families f", "status t", "check p", "data fetch f"):
        asked = {"_PUDNET_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": f"pudnet-bench {words}"}
        asked["COMP_CWORD"] = str(len(words.split()))
        done = subprocess.run([sys.executable, "-c", code], env={**environment, **asked}, capture_output=True, text=True,
                              cwd=tmp_path, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    told = through_pipe([str(program / "pudnet-bench"), "--help"], environment, tmp_path)
    assert "--install-completion" in told
    assert "--install-completion" not in through_pipe(
        [sys.executable, "-m", "harness", "--help"], environment, tmp_path
    )
