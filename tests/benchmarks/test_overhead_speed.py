"""What the harness costs beside what it measures: commands that have nothing to compute, a cell's bookkeeping, a run's loop.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each piece only runs once. Commands
are timed as they are from their second call on, with Python's bytecode written, and in seconds of the processor: the least of
several calls, beside which other programs count little.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pudnet_bench.harness.bench import overhead
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose
from pudnet_bench.suites.catalog import SUITES

ROOT = Path(__file__).resolve().parents[2]
LIST, TABLE, RESUME = 0.5, 1.5, 3.0  # seconds
BOOKKEEPING = 0.02  # seconds a cell
CALLS = 5
# Every suite but figure1, which studies networks: ProtoNet has none to show.
EVERY_SUITE = [name for name, suite in SUITES.items() if suite.figure != "correlation"]


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for Python's bytecode, which may be switched off or not be writable where the packages are."""
    return tmp_path_factory.mktemp("bytecode")


def seconds(bytecode: Path, *arguments: str) -> float:
    """Processor seconds of `python -m harness`."""
    unset = ("PYTHONDONTWRITEBYTECODE", "PUDNET_BENCH_DATA", "PUDNET_BENCH_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPYCACHEPREFIX": str(bytecode), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "harness", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(benchmark: Any, bytecode: Path, *arguments: str) -> float:
    """The least of several calls; of one where pytest-benchmark is off."""
    calls = [seconds(bytecode, *arguments) for _ in range(1 + CALLS if benchmark.enabled else 1)]
    return min(calls)


def test_list_takes_under_half_a_second(benchmark: Any, bytecode: Path) -> None:
    benchmark.extra_info["list, processor seconds"] = taken = least(benchmark, bytecode, "list")
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nlist: {taken:.2f} s", end="")
    if benchmark.enabled:
        assert taken < LIST


def test_what_is_there_is_shown_at_once(benchmark: Any, bytecode: Path, tmp_path: Path) -> None:
    suites = EVERY_SUITE if benchmark.enabled else ["table1"]
    run = (
        "run", *suites, "--methods", "protonet", "--families", "digits", "--groups", "2", "--training-groups", "2",
        "--device", "cpu", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "runs"),
    )  # fmt: skip
    table1 = tmp_path / "runs" / ("table1" if len(suites) > 1 else "")
    first = seconds(bytecode, *run)
    taken = {
        f"run of {len(suites)} finished suites": (least(benchmark, bytecode, *run), RESUME),
        "table": (least(benchmark, bytecode, "table", str(table1)), TABLE),
    }
    taken |= {
        f"table from the rows, {format}": (
            least(benchmark, bytecode, "table", str(table1), "--format", format), TABLE,
        )
        for format in (("latex", "csv") if benchmark.enabled else ())
    }  # fmt: skip
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nthe first run: {first:.1f} s", end="")
    for name, (value, goal) in taken.items():
        benchmark.extra_info[f"{name}, processor seconds"] = value
        print(f"\n{name}: {value:.2f} s (goal {goal} s)", end="")
    if benchmark.enabled:
        assert all(value < goal for value, goal in taken.values())


def test_a_cells_bookkeeping(benchmark: Any, cache_dir: Path) -> None:
    if not benchmark.enabled:
        taken = overhead.bookkeeping(choose("cpu", "fp32"), cache_dir, cells=2)
        assert min(taken.cell, taken.warm_up, taken.group) > 0
        return
    rounds = [overhead.bookkeeping(choose("cpu", "fp32"), cache_dir) for _ in range(CALLS)]
    taken = min(rounds, key=lambda round: round.seconds)
    benchmark.extra_info.update(vars(taken), bookkeeping=taken.seconds)
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\na cell: {taken.seconds * 1e3:.1f} ms of bookkeeping beside {taken.warm_up * 1e3:.1f} ms of warming up and "
        f"{taken.group * 1e3:.1f} ms of one group with a method that does nothing"
    )
    assert taken.seconds < BOOKKEEPING


def test_a_run_against_a_bare_loop(benchmark: Any, cache_dir: Path) -> None:
    compute = choose("cpu")
    if not benchmark.enabled:
        ready = overhead.ready_cell("protonet", compute, cache_dir)
        rows = overhead.bare_loop(ready, 3)
        assert [(index, name) for index, name, _, _ in rows] == [(0, ""), (1, ""), (2, "")]
        assert all(0 <= accuracy <= 1 and seconds > 0 for _, _, accuracy, seconds in rows)
        return
    ratios = overhead.measure(Setting(compute, cache_dir))
    benchmark.pedantic(lambda: None, rounds=1)
    for ratio in ratios:
        benchmark.extra_info[f"{ratio.name} / {ratio.against}"] = ratio.value
        print(
            f"\n{ratio.name}: {ratio.value:.3f} of {ratio.against} "
            f"({ratio.seconds:.3f} s; {1e6 * (ratio.seconds - ratio.against_seconds):+.0f} us in all)",
            end="",
        )
    assert all(ratio.met for ratio in ratios)
