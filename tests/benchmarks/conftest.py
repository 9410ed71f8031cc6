"""Benchmarks measure with `pytest tests/benchmarks -n 0`; under xdist each runs once, at a small size, and times nothing."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pudnet_bench.harness.measuring.clock import Clock, PeakMemory
from pudnet_bench.harness.measuring.device import Compute, choose_device, core_count
from pudnet_bench.harness.measuring.provenance import begin_invocation
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES
from tests.benchmarks import report
from tests.benchmarks.limits import limits
from tests.benchmarks.ratio import Comparison, Ratio
from tests.benchmarks.report import Findings
from tests.benchmarks.setting import Setting

FINDINGS = pytest.StashKey[Findings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("speed", "speed (with -n 0)")
    group.addoption("--device", default="auto", help="auto, cpu or cuda")
    group.addoption("--precision", default="auto", help="auto, fp32 or bf16 (autocast)")
    group.addoption("--threads", type=int, default=0, help="threads of torch; 0: as many as there are cores")
    group.addoption("--rounds", type=int, default=0, help="rounds of every benchmark; 0: each benchmark's own number")
    group.addoption("--quick", action="store_true", help="few rounds, and only what takes no more than a minute")
    group.addoption("--published", type=Path, metavar="DIR", help="folder for bench.json and bench.md")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # its table has only one side of each comparison
    config.addinivalue_line("markers", "measured_only: a benchmark that does not run at all where nothing is timed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_measuring(config):
        return
    left_out = [item for item in items if item.get_closest_marker("measured_only")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def is_measuring(config: pytest.Config) -> bool:
    """Whether pytest-benchmark is on: it is off under xdist."""
    return not config._benchmarksession.disabled  # type: ignore[attr-defined]


def subject_of(path: Path) -> str:
    """The subject that a file of benchmarks measures; "" for any other file."""
    name = path.stem
    return name.removeprefix("test_").removesuffix("_speed").replace("_", "-") if name.endswith("_speed") else ""


@pytest.fixture(scope="session")
def setting(pytestconfig: pytest.Config, cache_dir: Path) -> Setting:
    option = pytestconfig.getoption
    measuring = is_measuring(pytestconfig)
    data, cache = (os.environ.get(f"PUDNET_BENCH_{name}") for name in ("DATA", "CACHE"))
    return Setting(
        choose_device(option("--device", "auto"), option("--precision", "auto")),
        Path(cache) if cache and measuring else cache_dir,
        Path(data) if data else None,
        measuring,
        option("--rounds", 0),
        option("--quick", False),
    )


@pytest.fixture(scope="module", autouse=True)
def subject(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[None]:
    """Note the time and memory of a file of benchmarks, and publish what was measured so far at its end."""
    name = subject_of(request.path)
    if not name or not is_measuring(pytestconfig):
        yield
        return
    setting: Setting = request.getfixturevalue("setting")
    threads = torch.get_num_threads()
    torch.set_num_threads(pytestconfig.getoption("--threads", 0) or core_count())
    if FINDINGS not in pytestconfig.stash:
        command = shlex.join(["python", "-m", "pytest", *map(str, pytestconfig.invocation_params.args)])
        rates = limits(setting.compute.device, 0.1 if setting.quick else 0.5)
        pytestconfig.stash[FINDINGS] = Findings(begin_invocation(command, setting.compute), rates)
    findings = pytestconfig.stash[FINDINGS]
    measured = findings.subject(name)
    memory, clock = PeakMemory(setting.compute.device), Clock(setting.compute.device)
    memory.reset()
    clock.start()
    yield
    measured.seconds, measured.peak_memory_bytes = clock.stop().wall_seconds, memory.read()
    torch.set_num_threads(threads)
    if folder := pytestconfig.getoption("--published", None):
        report.write(findings, folder)


@pytest.fixture
def record(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Callable[[Ratio], None]:
    """Add a ratio to those of the subject."""
    return lambda ratio: pytestconfig.stash[FINDINGS].subject(subject_of(request.path)).ratios.append(ratio)


@pytest.fixture
def compare(benchmark: Any, setting: Setting, record: Callable[[Ratio], None]) -> Comparison:
    return Comparison(benchmark, setting, record)


@pytest.fixture(scope="session")
def compute() -> Compute:
    return choose_device("cpu", "fp32")


@pytest.fixture(scope="session")
def digits_images(cache_dir: Path) -> SplitImages:
    return Setting(choose_device("cpu", "fp32"), cache_dir).images(FAMILIES["digits"].name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note why a benchmark was skipped or failed."""
    result = yield
    if (name := subject_of(item.path)) and FINDINGS in item.config.stash and call.excinfo is not None:
        measured = item.config.stash[FINDINGS].subject(name)
        reason = (str(call.excinfo.value).splitlines() or [""])[0]
        if not result.skipped:
            measured.failures.append(f"{item.name}: {type(call.excinfo.value).__name__}: {reason}")
        elif reason not in measured.notes:
            measured.notes.append(reason)
    return result


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if FINDINGS not in config.stash:
        return
    terminalreporter.section("speed, measured side by side")
    coloured = terminalreporter._tw.hasmarkup
    width = max(terminalreporter._tw.fullwidth, 100) if coloured else 160
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=coloured, no_color=not coloured)
    report.show(config.stash[FINDINGS], console)
    terminalreporter.write(text.getvalue())
