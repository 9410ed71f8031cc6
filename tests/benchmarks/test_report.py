"""Benchmarks as a session of pytest runs them: each side in turns, one table at the end, and what is published."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.measuring.provenance import begin_invocation
from tests.benchmarks import report
from tests.benchmarks.limits import Rate
from tests.benchmarks.ratio import Ratio, limited
from tests.benchmarks.report import Findings, Subject
from tests.benchmarks.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
FASTER = Ratio("ours", "a *plain* script", 2.5, 0.004, 0.01, 7, 3.0, True)
SLOWER = Ratio("[bold]a fit[/bold]", "the bare passes", 1.2, 1.5, 1.25, 3, 1.3)
OPEN = Ratio("one", "another", 1.0, 0.5, 0.5, 3)
BENCHMARKS = """
import time

import pytest

def test_two_waits(compare):
    turns = []

    def wait(name, seconds):
        turns.append(name)
        time.sleep(seconds)

    ratio = compare("short", lambda: wait("s", 0.01), "long", lambda: wait("l", 0.05), rounds=9, goal=0.5)
    assert "".join(turns) == ("ls" if ratio is None else "ls" * 4)  # --quick: one warm-up and three rounds
    assert ratio is None or ratio.met

def test_missed(compare):
    ratio = compare("long", lambda: time.sleep(0.05), "short", lambda: time.sleep(0.01), goal=4, inverse=True)
    assert ratio is None or ratio.met, "too slow"

def test_broken(compare):
    raise ValueError("no such thing")

def test_elsewhere(compare):
    pytest.skip("not on this device")
"""


def test_rounds_are_the_benchmarks_own_unless_asked_for(compute: Compute, tmp_path: Path) -> None:
    setting = Setting(compute, tmp_path)
    assert setting.turns(15) == 15
    assert (replace(setting, quick=True).turns(15), replace(setting, quick=True).turns(1)) == (3, 1)
    assert replace(setting, quick=True, rounds=9).turns(15) == 9


def test_missing_images_skip(compute: Compute, cache_dir: Path) -> None:
    setting = Setting(compute, cache_dir)
    assert setting.images("digits").family.name == "digits"
    with pytest.raises(pytest.skip.Exception, match="CIFAR100-set: 'cifar-100' is not in the folder"):
        setting.images("cifar100")


@pytest.fixture
def found(compute: Compute) -> Findings:
    subjects = [
        Subject("first", [FASTER, SLOWER, OPEN], ["digits in its place"], 12.0, 3_000_000),
        Subject("second", [], [], 0.5, 1_000_000, ["ValueError: no such thing"]),
    ]
    return Findings(begin_invocation("python -m pytest", compute), [Rate("copy", 12.345, "GB/s")], subjects)


def shown(found: Findings, **options: object) -> str:
    out = io.StringIO()
    report.show(found, Console(file=out, width=160, **options))  # type: ignore[arg-type]
    return out.getvalue()


def test_table_has_colours_on_a_terminal_only(found: Findings) -> None:
    coloured = shown(found, force_terminal=True, color_system="standard")
    assert "\x1b[31mmissed" in coloured
    plain = shown(found)
    assert "\x1b" not in plain
    assert "first: [bold]a fit[/bold]" in plain
    assert "copy: 12.35 GB/s" in plain or "copy: 12.34 GB/s" in plain
    assert "at least 3, missed" in plain
    assert "at most 1.3, met" in plain
    assert plain.splitlines()[-2:] == ["first: digits in its place", "second: failed: ValueError: no such thing"]


def test_markdown_and_json_hold_everything(found: Findings, tmp_path: Path) -> None:
    report.write(found, tmp_path / "out")
    page = (tmp_path / "out/bench.md").read_text()
    assert r"| first | ours | a \*plain\* script | 2.5 x speed | at least 3 | missed | 4 ms | 10 ms | 7 |" in page
    assert "`python -m pytest`" in page
    assert "| second | 500 ms | 1 MB | failed: ValueError: no such thing |" in page
    written = json.loads((tmp_path / "out/bench.json").read_text())
    assert [ratio["met"] for ratio in written["subjects"][0]["ratios"]] == [False, True, None]
    assert written["subjects"][1]["failures"] == ["ValueError: no such thing"]
    assert written["limits"] == [{"name": "copy", "value": 12.345, "unit": "GB/s"}]
    assert {"command", "commit", "versions", "device", "threads", "load_start", "started"} <= written.keys()


def test_limit_is_a_goal() -> None:
    assert (limited("a", 0.4, 0.5, 3).met, limited("a", 0.6, 0.5, 3).met) == (True, False)


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `BENCHMARKS` below the project's conftest files."""
    (folder / "conftest.py").write_text(
        "from tests.conftest import cache_dir\nfrom tests.benchmarks.conftest import *\n"
    )
    (folder / "test_waiting_speed.py").write_text(BENCHMARKS)
    (folder / "pytest.ini").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--device", "cpu", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_session_measures_in_turns_and_publishes_what_it_found(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "-n", "0", "--quick", "--published", "out")
    assert "2 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert "speed, measured side by side" in done.stdout
    written = json.loads((tmp_path / "out/bench.json").read_text())
    assert [rate["unit"] for rate in written["limits"]] == 4 * ["GFLOP/s"] + ["GB/s"]
    assert written["command"] == "python -m pytest -p no:cacheprovider --device cpu -n 0 --quick --published out"
    (waiting,) = written["subjects"]
    assert waiting["subject"] == "waiting"
    short, long = waiting["ratios"]
    assert (short["met"], long["met"], short["rounds"]) == (True, False, 3)
    assert 0.1 < short["value"] < 0.5  # of times
    assert 0.1 < long["value"] < 0.5  # of speeds
    assert 0.01 < short["seconds"] < short["against_seconds"] < 1
    assert waiting["failures"] == ["test_missed: AssertionError: too slow", "test_broken: ValueError: no such thing"]
    assert waiting["notes"] == ["not on this device"]
    assert waiting["seconds"] > 0.4
    assert waiting["peak_memory_bytes"] > 10**7


def test_nothing_is_timed_beside_other_tests(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "-n", "1", "--quick", "--published", "out")
    assert "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout
    assert "measured side by side" not in done.stdout
    assert not (tmp_path / "out").exists()
