"""Paths with `~`, and disks, shares and names that cannot be written: one sentence, and nothing measured is lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.harness.running import cell
from pudnet_bench.results.store import files
from pudnet_bench.results.store.run import Run

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]
ROOT = Path(__file__).parents[3]
ERRORS = ("EDQUOT", "ESTALE", "EIO", "ENAMETOOLONG", "EROFS", "EACCES", "ENOSPC", "EFBIG", "ENOTCONN", "EMFILE")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def refused(result: Result, *words: str) -> str:
    """The one line that a refused command prints."""
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line
    return line


def passed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


# --- ~ ------------------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_in_every_path(
    command_line: CommandLine, method_file: MethodFile, home: Path, tmp_path: Path
) -> None:
    method_file()
    (tmp_path / "own.py").rename(home / "own.py")
    folders = ("--out=~/out", "--cache=~/cache", "--data=~/data")
    passed(command_line("run", "table1", "--methods=own", "--method=~/own.py:Own", "--groups=2", *folders))
    assert Run.open(home / "out").groups_done(Run.open(home / "out").record.plan.cells[0].key) == {0, 1}
    for command in ("status", "table", "collect", "report", "resume"):
        passed(command_line(command, "~/out"))
    passed(command_line("compare", "~/out", "~/out"))
    passed(command_line("report", "~/out", "--out=~/page.html"))
    assert (home / "page.html").is_file()
    passed(command_line("new", "method", "~/new.py"))
    passed(command_line("check", "~/own.py:Own"))
    assert "not found" in passed(command_line("data", "list", "--data=~/data"))
    assert str(home / "pictures") in passed(command_line("data", "list", "--source=pictures=~/pictures"))
    refused(command_line("run", "~/suite.py", "--dry-run"), str(home / "suite.py"))
    refused(command_line("run", "table1", "--executor=slurm", "--cluster=~/c.toml"), str(home / "c.toml"))
    refused(command_line("new", "family", "~/pictures"), str(home / "pictures"))
    assert not (tmp_path / "~").exists()


def test_a_tilde_is_expanded_in_variables(command_line: CommandLine, method_file: MethodFile, home: Path) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", "1", "--out", "~/out")
    passed(command_line(*call, PUDNET_BENCH_CACHE="~/cache", PUDNET_BENCH_DATA="~/data"))
    assert (home / "cache").is_dir()
    passed(command_line("data", "verify", "digits", PUDNET_BENCH_CACHE="", XDG_CACHE_HOME="~/xdg"))
    assert (home / "xdg/pudnet-bench").is_dir()
    assert not Path("~").exists()


def test_a_home_that_does_not_exist_is_no_folder(command_line: CommandLine, tmp_path: Path) -> None:
    line = refused(command_line("run", "table1", "--methods", "adam", "--out=~nobody-here/out"), "'~nobody-here/out'")
    assert "give './~nobody-here/out'" in line
    assert not (tmp_path / "~nobody-here").exists()
    found = command_line("status", "./~nobody-here")
    refused(found, "is neither a run's folder nor a suite")


# --- disks --------------------------------------------------------------------------------------------------------


@contextmanager
def failing(number: int, after: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every rename of a file of rows fails with that error, but for the first `after`."""
    real, renamed = os.replace, list[object]()

    def replace(source: object, target: Path) -> None:
        if target.parent.name == "cells":
            renamed.append(target)
            if len(renamed) > after:
                raise OSError(number, os.strerror(number))
        real(source, target)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", replace)
        yield
    assert len(renamed) > after


@pytest.mark.parametrize("name", ERRORS)
def test_rows_that_cannot_be_written_end_the_run_with_one_sentence(
    name: str,
    command_line: CommandLine,
    method_file: MethodFile,
    fits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell, "SHARD_SECONDS", 0.0)  # each group is written as it is measured
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", "5", "--out", "out")
    number = getattr(errno, name)
    with failing(number, 2, monkeypatch):
        done = command_line(*call)
    line = refused(
        done, f"cannot write '{tmp_path}/out/cells/own", os.strerror(number).lower(), "repeat the command to resume"
    )
    assert done.output.strip() == line
    assert ".tmp" not in line
    assert not list((tmp_path / "out/cells").glob(".*"))
    (only,) = Run.open(tmp_path / "out").record.plan.cells
    assert Run.open(tmp_path / "out").groups_done(only.key) == {0, 1}
    before = len(fits.read_text().splitlines())
    passed(command_line(*call))
    warm_ups = before - 3  # groups 0, 1 and the one that was lost
    assert len(fits.read_text().splitlines()) == before + warm_ups + 3
    assert sorted(Run.open(tmp_path / "out").frame()["group"]) == [0, 1, 2, 3, 4]


def test_a_stale_handle_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, list[int]()

    def replace(source: Path, target: Path) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, "stale")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    files.write_atomically(tmp_path / "a", b"rows")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(calls) == 2


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_a_name_that_is_too_long(
    option: str, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", "1")
    refused(command_line(*call, option, "x" * 300), "x" * 300, "ame too long", "another")
    assert "x" * 300 not in {path.name for path in tmp_path.iterdir()}


def test_a_limit_of_file_sizes_is_a_sentence(method_file: MethodFile, cache_dir: Path, tmp_path: Path) -> None:
    call = ["run", "table1", "--methods", "own", "--method", method_file(), "--groups", "1", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *call, "--cache", str(cache_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: cannot write 'out/record.json': file too large; free space (or raise the quota" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_output_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "harness", "list"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot write the output: no space left on device")


def test_a_device_is_written_to_and_not_replaced(
    command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    passed(
        command_line("run", "table1", "--methods", "own", "--method", method_file(), "--groups", "1", "--out", "out")
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        passed(command_line("report", "out", "--out", pipe))
        assert "<html" in reader.communicate()[0]
    assert pipe.is_fifo()


def test_an_artifact_that_cannot_be_read_now_is_not_given_up(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("run", "table1", "--methods", "protonet", "--groups", "1", "--training-groups", "2", "--out")
    passed(command_line(*call, "out", "--cache", "cache"))
    (artifact,) = (tmp_path / "cache/artifacts").iterdir()
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.parent == artifact:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_bytes)
        refused(
            command_line(*call, "new", "--cache", "cache"), f"cannot read '{artifact}'", "input/output error", "sound"
        )
    assert artifact.is_dir()
    assert [path.name for path in (tmp_path / "cache/artifacts").iterdir()] == [artifact.name]
