"""What the harness costs beside what it measures: commands with nothing to compute, a cell's bookkeeping, a run's loop."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running import cell as execution
from pudnet_bench.harness.running.cell import ReadyCell, RunContext
from pudnet_bench.harness.running.run import open_run, run_plan
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.catalog import SUITES
from pudnet_bench.suites.class_splits import SplitImages
from tests.benchmarks.ratio import Comparison, Ratio, limited
from tests.benchmarks.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
LIST, TABLE, REPEAT = 0.5, 1.5, 5.0  # processor seconds; of a repeated run for each suite
BOOKKEEPING = 0.02  # seconds a cell
CALLS, CELLS = 5, 40
GOAL = 1.02  # of the bare loop, for ConvNet-3
GROUPS = {"pudnet": 500, "protonet": 500, "adam": 10}  # the paper's count, or few where a fit is long
# Every suite but figure1, which studies networks: ProtoNet has none to show.
EVERY_SUITE = [name for name, suite in SUITES.items() if suite.figure != "correlation"]
OTHER_SUITES = [pytest.param(name, marks=pytest.mark.measured_only) for name in EVERY_SUITE if name != "table1"]
Command = Callable[..., Any]


# --- Commands that have nothing to compute ---


def processor_seconds_of_children() -> float:
    """Processor time of all ended child processes: unlike time by the clock, other programs hardly change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`command("list")` runs `python -m harness list`; Python's bytecode is written and found again."""
    unset = ("PYTHONDONTWRITEBYTECODE", "PUDNET_BENCH_DATA", "PUDNET_BENCH_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str | Path) -> None:
        words = [sys.executable, "-m", "harness", *map(str, arguments)]
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)

    return run


def check_least(
    benchmark: Any, record: Callable[[Ratio], None], name: str, call: Callable[[], Any], limit: float
) -> None:
    """The least of several calls must keep to the limit, after one that has written the bytecode."""
    benchmark.pedantic(call, rounds=CALLS, warmup_rounds=1)
    if benchmark.enabled:
        ratio = limited(f"{name}, processor seconds", benchmark.stats.stats.min, limit, CALLS)
        record(ratio)
        assert ratio.met, str(ratio)


@pytest.mark.benchmark(timer=processor_seconds_of_children)
def test_list(benchmark: Any, record: Callable[[Ratio], None], command: Command) -> None:
    check_least(benchmark, record, "python -m harness list", lambda: command("list"), LIST)


@pytest.fixture(scope="module")
def finished(command: Command, setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of finished runs: of every suite, or of Table 1 alone for a quick look."""
    folder = tmp_path_factory.mktemp("finished")
    for suite in EVERY_SUITE if setting.measuring and not setting.quick else ["table1"]:
        command(*run_of(folder, suite))
    return folder


def run_of(folder: Path, suite: str) -> tuple[str | Path, ...]:
    """The arguments of a small run of `suite`, which lies in `folder` under its name."""
    return (
        "run", suite, "--methods", "protonet", "--families", "digits", "--groups", "2", "--training-groups", "2",
        "--device", "cpu", "--cache", folder / "cache", "--out", folder / suite,
    )  # fmt: skip


@pytest.mark.benchmark(timer=processor_seconds_of_children)
@pytest.mark.parametrize("suite", ["table1", *OTHER_SUITES])
def test_repeated_run(
    benchmark: Any, record: Callable[[Ratio], None], command: Command, finished: Path, setting: Setting, suite: str
) -> None:
    if suite != "table1" and setting.quick:
        pytest.skip("suites other than Table 1 are not for --quick")
    name = f"python -m harness run {suite}, finished before"
    check_least(benchmark, record, name, lambda: command(*run_of(finished, suite)), REPEAT)


@pytest.mark.benchmark(timer=processor_seconds_of_children)
@pytest.mark.parametrize("options", [(), ("--format", "latex"), ("--format", "csv")], ids=" ".join)
def test_table(
    benchmark: Any, record: Callable[[Ratio], None], command: Command, finished: Path, options: tuple[str, ...]
) -> None:
    name = " ".join(("python -m harness table", *options))
    check_least(benchmark, record, name, lambda: command("table", finished / "table1", *options), TABLE)


# --- A run against a bare loop of the same fits ---


def bare_loop(ready: ReadyCell, groups: int) -> list[tuple[int, str, float, float]]:
    """What a plain script does: draw each group, time the fit until each snapshot, and test it.

    Returns:
        (group, snapshot, accuracy, seconds) of each.
    """
    found = []
    for index in range(groups):
        torch.default_generator.manual_seed(ready.cell.seed * 1_000_003 + index)
        group = ready.images.group("unseen", ready.cell.seed, index)
        seconds, began = 0.0, time.perf_counter()
        for snapshot in ready.method.fit(group.fit):
            seconds += time.perf_counter() - began
            with torch.no_grad():
                right = snapshot.classifier(group.test.images).argmax(-1) == group.test.labels
            found.append((index, snapshot.name, right.float().mean().item(), seconds))
            began = time.perf_counter()
    return found


def context(images: SplitImages, compute: Compute, cache: Path) -> RunContext:
    """What cells on `images` are measured in."""
    return RunContext(lambda family, split: images, ArtifactStore(cache), compute, Display())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow standard output and error."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def prepare_cell(plan: Plan, compute: Compute, cache: Path) -> ReadyCell:
    """The one cell of a plan, trained on its training groups, with one epoch where it is iterative, warmed up."""
    (cell,) = plan.cells
    if cell.method.iterative:
        cell = replace(cell, options={**cell.options, "epochs": (1,)})
    images = SplitImages(cell.family, cell.source, compute.device)
    method, artifact = execution.prepare(cell, context(images, compute, cache))
    execution.warm_up(method, images, cell.seed, print)
    return ReadyCell(cell, method, artifact, images, compute)


@pytest.mark.parametrize("name", GROUPS)
def test_run_against_bare_loop(compare: Comparison, setting: Setting, name: str) -> None:
    compute, groups = setting.compute, GROUPS[name] if setting.measuring else 3
    groups = max(1, groups // 10) if setting.quick else groups
    plan = make_plan(
        RunRequest(suite="table1", methods=(name,), groups=groups, training_groups=(1,), cache=setting.cache), compute
    )
    ready = prepare_cell(plan, compute, setting.cache)
    measured_in = context(ready.images, compute, setting.cache)
    rows: list[tuple[int, str, float, float]] = []
    with TemporaryDirectory(dir=setting.cache) as folder, quiet():
        folders = (Path(folder, str(number)) for number in count())
        record = open_run(plan, next(folders), "benchmark", compute).record

        def through_the_harness() -> None:
            run = Run.create_or_open(next(folders), record)
            execution.measure_groups(ready, run, measured_in, range(groups))

        ratio = compare(
            f"run of {name}, ConvNet-3 on digits, {groups} groups",
            through_the_harness,
            "a bare loop of the same fits",
            lambda: rows.extend(bare_loop(ready, groups)),
            goal=GOAL,
        )
    assert [row[0] for row in rows[:groups]] == list(range(groups))
    assert all(0 <= accuracy <= 1 and seconds > 0 for _, _, accuracy, seconds in rows)
    assert ratio is None or ratio.met, str(ratio)


# --- A cell's bookkeeping ---


class Instant(Method):
    """Answers at once: what is left of its cells is bookkeeping."""

    name = "instant"

    def fit(self, dataset: Any) -> Iterator[Snapshot]:
        yield Snapshot(lambda images: images.flatten(1)[:, : dataset.n_classes])


@dataclass(frozen=True)
class Bookkeeping:
    """Seconds of a cell: in all, of that for warming up, and for drawing, fitting and testing its one group."""

    cell: float
    warm_up: float
    group: float

    @property
    def seconds(self) -> float:
        return self.cell - self.warm_up - self.group


def measure_bookkeeping(compute: Compute, cache: Path, cells: int) -> Bookkeeping:
    """A run of `cells` + 1 cells of one group less a run of one cell, for each cell: plan, files, tables and all."""
    request = RunRequest(suite="table1", methods=("protonet",), groups=1, seeds=tuple(range(cells + 1)), cache=cache)
    many = make_plan(request, compute)
    many = replace(many, cells=tuple(replace(cell, method=Instant, options={}) for cell in many.cells))
    first = many.cells[0]
    with TemporaryDirectory(dir=cache) as folder, quiet():

        def seconds(plan: Plan, name: str) -> float:
            began = time.perf_counter()
            run_plan(plan, request, Path(folder, name), compute)
            return time.perf_counter() - began

        one = replace(many, cells=(first,))
        seconds(one, "first")
        whole = seconds(many, "many") - seconds(one, "one")
        rows = Run.open(Path(folder, "many")).frame()
    images = SplitImages(first.family, first.source, compute.device)
    began = time.perf_counter()
    for _ in range(cells):
        execution.warm_up(first.make_method(), images, first.seed, print)
    warm_up = (time.perf_counter() - began) / cells
    group = rows[["data_seconds", "wall_seconds", "evaluation_seconds"]].sum(axis=1).mean()
    return Bookkeeping(whole / cells, warm_up, float(group))


def test_bookkeeping_of_a_cell(benchmark: Any, record: Callable[[Ratio], None], setting: Setting) -> None:
    compute, found = choose_device("cpu", "fp32"), list[Bookkeeping]()
    cells = CELLS if setting.measuring else 2
    benchmark.pedantic(lambda: found.append(measure_bookkeeping(compute, setting.cache, cells)), rounds=CALLS)
    least = min(found, key=lambda each: each.seconds)
    assert min(least.cell, least.warm_up, least.group) > 0
    if benchmark.enabled:
        beside = f"{least.warm_up * 1e3:.1f} ms of warming up and {least.group * 1e3:.1f} ms of one group"
        ratio = limited(f"bookkeeping of a cell, beside {beside}", least.seconds, BOOKKEEPING, CALLS)
        record(ratio)
        assert ratio.met, str(ratio)
