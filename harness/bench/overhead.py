"""What the harness costs beside the fits that it times: a run against a bare loop, and a cell's bookkeeping."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.console.progress import Display
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Choice, Plan, make_plan
from pudnet_bench.harness.running import cell as execution
from pudnet_bench.harness.running.cell import ReadyCell, RunContext
from pudnet_bench.harness.running.run import run_plan
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.methods.base import Method, Snapshot
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import Invocation, PlanRecord, RunRecord
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import load

GOAL = 1.02  # of the bare loop, for ConvNet-3
GROUPS = {"pudnet": 500, "protonet": 500, "adam": 10}  # the paper's count, or few where a fit is long
CELLS = 40


def bare_loop(ready: ReadyCell, groups: int) -> list[tuple[int, str, float, float]]:
    """What a plain script does: draw each group, time the fit until each snapshot, and test it.

    Returns (group, snapshot, accuracy, seconds).
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


def ready_cell(name: str, compute: Compute, cache: Path) -> ReadyCell:
    """The cell of a method of Table 1 on digits, after one group of meta-training or with one epoch, warmed up."""
    choice = Choice(methods=(name,), groups=GROUPS[name], training_groups=(1,))
    (cell,) = _plan(choice, compute, cache).cells
    if cell.method.iterative:
        cell = replace(cell, options={**cell.options, "epochs": (1,)})
    images = FamilyImages(cell.family, cell.source, compute.device)
    method, artifact = execution.prepare(cell, _bench(images, compute, cache))
    execution.warm_up(method, images, cell.seed)
    return ReadyCell(cell, method, artifact, images, compute)


def measure(setting: Setting) -> list[Ratio]:
    """For each of ``GROUPS`` the measuring of a cell, its files included, over the bare loop of the same groups.

    A quick look takes a tenth of the groups.
    """
    return [_against_bare_loop(ready_cell(name, setting.compute, setting.cache), setting) for name in GROUPS]


def _against_bare_loop(ready: ReadyCell, setting: Setting) -> Ratio:
    name, compute, bench = (
        ready.cell.variant.name,
        setting.compute,
        _bench(ready.images, setting.compute, setting.cache),
    )
    groups = max(1, ready.cell.groups // 10) if setting.quick else ready.cell.groups
    with TemporaryDirectory(dir=setting.cache) as folder, _quiet():
        folders = (Path(folder, str(number)) for number in count())

        def through_the_harness() -> None:
            run = Run.create_or_open(next(folders), RECORD)
            execution.measure_groups(ready, run, bench, range(groups))

        return interleaved(
            f"run of {name}, ConvNet-3 on digits, {groups} groups",
            through_the_harness,
            "a bare loop of the same fits",
            lambda: bare_loop(ready, groups),
            compute.device,
            rounds=setting.turns(7),
            goal=GOAL,
        )


class Instant(Method):
    """Answers at once: what is left of its cells is bookkeeping."""

    name = "instant"

    def fit(self, dataset: Any) -> Iterator[Snapshot]:
        yield Snapshot(lambda images: images.new_zeros(len(images), dataset.n_classes))


@dataclass(frozen=True)
class Bookkeeping:
    """What a cell takes, in seconds: in all, of that for warming up, and for drawing, fitting and testing one group."""

    cell: float
    warm_up: float
    group: float

    @property
    def seconds(self) -> float:
        return self.cell - self.warm_up - self.group


def bookkeeping(compute: Compute, cache: Path, cells: int = CELLS) -> Bookkeeping:
    """A run of ``cells`` + 1 cells of one group less a run of one cell, for each cell: plan, files, tables and all."""
    many = _plan(Choice(methods=("protonet",), groups=1, seeds=tuple(range(cells + 1))), compute, cache)
    many = replace(many, cells=tuple(replace(cell, method=Instant, options={}) for cell in many.cells))
    first = many.cells[0]
    with TemporaryDirectory(dir=cache) as folder, _quiet():

        def seconds(plan: Plan, name: str) -> float:
            began = time.perf_counter()
            run_plan(plan, Path(folder, name), "", compute, cache, False)
            return time.perf_counter() - began

        one = replace(many, cells=(first,))
        seconds(one, "first")
        whole = seconds(many, "many") - seconds(one, "one")
        rows = Run.open(Path(folder, "many")).frame()
    images = FamilyImages(first.family, first.source, compute.device)
    began = time.perf_counter()
    for _ in range(cells):
        execution.warm_up(first.make_method(), images, first.seed)
    warm_up = (time.perf_counter() - began) / cells
    group = rows[["data_seconds", "wall_seconds", "evaluation_seconds"]].sum(axis=1).mean()
    return Bookkeeping(whole / cells, warm_up, float(group))


RECORD = RunRecord(
    suite="table1", profile="quick", device="here", precision="", plan=PlanRecord(title=""),
    invocations=(Invocation(command="", started=""),),
)  # fmt: skip


def _plan(choice: Choice, compute: Compute, cache: Path) -> Plan:
    return make_plan(
        SUITES["table1"],
        PROFILES["quick"],
        choice,
        compute,
        lambda name, size: load(name, data_dir=None, cache_dir=cache, size=size),
    )


def _bench(images: FamilyImages, compute: Compute, cache: Path) -> RunContext:
    return RunContext(lambda family: images, ArtifactStore(cache), compute, Display())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
