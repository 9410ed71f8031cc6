"""Other machines: without /proc, fork and affinity, as on macOS; Windows; terminals that know ASCII or Latin-1 alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pudnet_bench.harness.measuring import clock
from pudnet_bench.results.store.run import Run

ROOT = Path(__file__).parents[3]
MethodFile = Callable[..., str]
# In every process of a run, as Python imports this by itself.
BLOCKED = """
import ctypes, os, sys

def refuse(event, arguments):
    if event in ("os.fork", "os.forkpty"):
        raise RuntimeError("no fork here")
    if event == "open" and str(arguments[0]).startswith(("/proc", "/dev/shm", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(refuse)
del os.sched_getaffinity, os.getloadavg
class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "malloc_trim":
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = Library
"""
WINDOWS = """
import sys
sys.platform = "win32"
class Missing:
    def find_spec(self, name, *_):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "fcntl" else real(name, *rest)
"""
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C", "LANGUAGE": ""}


SEVERAL = """
import json, sys
from pathlib import Path
from pudnet_bench.harness.cli.app import main

if __name__ == "__main__":  # and not in the processes that a run starts
    codes = []
    for arguments in json.loads(sys.stdin.buffer.read()):
        sys.argv = ["harness", *map(str, arguments)]
        try:
            main()
        except SystemExit as end:
            codes.append(end.code or 0)
    Path("codes.json").write_text(json.dumps(codes))
"""


def harness(
    folder: Path, *commands: tuple[object, ...], site: str = "", **variables: str
) -> tuple[list[int], subprocess.CompletedProcess[bytes]]:
    """The exit codes of `python -m harness` with the arguments of each of `commands`, all in one process in `folder`.

    That and every process it starts runs `site` first.
    """
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/sitecustomize.py").write_text(site)
    paths = os.pathsep.join([str(folder / "site"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **variables}
    given = json.dumps(commands, default=str).encode()
    (folder / "several.py").write_text(SEVERAL)
    call = [sys.executable, "several.py"]
    done = subprocess.run(call, input=given, env=environment, cwd=folder, capture_output=True)
    codes = json.loads((folder / "codes.json").read_text()) if (folder / "codes.json").exists() else []
    return codes, done


@pytest.mark.parametrize("executor", ["local", pytest.param("local-processes:2", marks=pytest.mark.slow)])
def test_a_run_needs_no_proc_no_fork_and_no_affinity(
    executor: str, method_file: MethodFile, cache_dir: Path, tmp_path: Path
) -> None:
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", 2, "--cache", cache_dir)
    others = (("status", "out"), ("table", "out"), ("report", "out"), ("list",), ("data", "list"))
    codes, done = harness(tmp_path, (*call, "--executor", executor, "--out", "out"), *others, site=BLOCKED)
    assert codes == [0] * 6, done.stderr.decode()
    frame = Run.open(tmp_path / "out").frame()
    assert frame["group"].tolist() == [0, 1]
    assert frame["peak_memory_bytes"].isna().all()
    assert Run.open(tmp_path / "out").record.invocations[0].load_start == ()


def test_the_block_of_that_test_blocks(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for line in ("open('/proc/self/status')", "import os; os.fork()", "import os; os.sched_getaffinity(0)"):
        assert subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True).returncode == 1


@pytest.mark.slow
def test_doctor_and_meta_training_need_none_either(cache_dir: Path, tmp_path: Path) -> None:
    call = (
        "run",
        "table1",
        "--methods",
        "pudnet",
        "--groups",
        1,
        "--training-groups",
        2,
        "--cache",
        tmp_path / "cache",
    )
    call = (*call, "--groups-per-step", 2, "--training-processes", 2, "--out", "out")
    codes, done = harness(tmp_path, ("doctor", "--json", "--cache", cache_dir), call, site=BLOCKED)
    assert codes == [0, 0], done.stderr.decode()
    assert json.JSONDecoder().raw_decode(done.stdout.decode())[0]["memory"]["found"] == "unknown"


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024)])
def test_peak_memory_has_the_unit_of_its_system(system: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(clock.sys, "platform", system)
    low = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert low * unit <= clock._peak_so_far() <= (low + 100_000) * unit


@pytest.mark.parametrize("module", ["harness", "pudnet_bench"])
def test_windows_is_told_in_one_sentence(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    call = [sys.executable, "-m", module, "run", "table1"]
    done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: pudnet-bench needs Linux or macOS; on Windows, install and run it inside WSL 2\n"


@pytest.mark.parametrize(
    "variables",
    [
        PLAIN,
        *(pytest.param({"PYTHONIOENCODING": name}, marks=pytest.mark.slow) for name in ("ascii:strict", "latin-1")),
    ],
    ids=["C", "ascii", "latin-1"],
)
def test_a_plain_terminal_gets_replacements(
    variables: dict[str, str], method_file: MethodFile, cache_dir: Path, tmp_path: Path
) -> None:
    run = "Läufe/ü" if variables is not PLAIN else "Läufe/ü".encode().decode("ascii", "surrogateescape")
    (tmp_path / "Läufe").mkdir()
    call = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", 2, "--cache", cache_dir)
    commands = [
        (*call, "--out", run), ("list",), ("run", "--help"), ("status", run), ("table", run), ("table", run, "--format", "latex"),
        ("table", run, "--json"), ("collect", run), ("compare", run, run), ("report", run), ("resume", run),
        ("data", "list", "--source", f"e={run}"), ("new", "method", f"{run}/mine.py"), (*call, "--dry-run"),
    ]  # fmt: skip
    refused = [("status", "—ü"), ("run", "tablé"), ("run", "table1", "--executor", "slurm", "--cluster", f"{run}.toml")]
    codes, done = harness(tmp_path, *commands, *refused, **variables)
    assert codes == [0] * len(commands) + [2] * len(refused), done.stderr.decode(errors="replace")
    assert b"CIFAR100->Animals10" in done.stdout
    assert (b"L\xe4ufe/\xfc" in done.stdout) == (variables == {"PYTHONIOENCODING": "latin-1"})
    assert done.stderr.count(b"error: ") == len(refused)
    assert (tmp_path / "Läufe/ü/report.html").is_file()
