"""How planning, submitting, watching, collecting and rendering grow with the cells of a run.

    python -m tests.benchmarks.scale DIR

measures every workload at three sizes, the least of five repetitions, and leaves the points and the fitted exponents in DIR.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from pudnet_bench.harness.cli import show
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.measuring.provenance import begin_invocation
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.arrays import arrays, tasks_of
from pudnet_bench.harness.running.run import open_run, plan_record, print_plans
from pudnet_bench.harness.running.worker import missing_jobs
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.results.rendering.tables import TableLayout, TableRow, notes, summarise, typeset
from pudnet_bench.results.store.files import checksummed_json
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.sources.loading import Source
from tests.benchmarks import growth_figures
from tests.benchmarks.growth import Point, Prepared, Workload, measure_point, write_rows

CELLS = (100, 600, 4_000)
TABLE_GROUPS = (100, 500, 2_500)  # of a row and class split
GROUPS_OF_A_CELL = 20
SPLITS, ROWS = 10, 20
REPETITIONS = 5
SHARD, ARRAY = 5, 1_000  # groups of a job, jobs of an array


def plan_cells(n: int, compute: Compute) -> Plan:
    """The plan of PudNet on `n` class splits of digits."""
    request = RunRequest(
        suite="table1", methods=("pudnet",), families=("digits",), splits=tuple(range(n)), groups=GROUPS_OF_A_CELL,
        cache=Path(),
    )  # fmt: skip
    labels = np.repeat(np.arange(10), 150)
    source = Source("digits", np.zeros((len(labels), 1, 8, 8), np.uint8), labels, tuple("0123456789"), "")
    return make_plan(request, compute, lambda *_: source)


def _planning(n: int, compute: Compute, folder: Path) -> Prepared:
    return Prepared(lambda: plan_record(plan_cells(n, compute)))


def _dry_run(n: int, compute: Compute, folder: Path) -> Prepared:
    plan = plan_cells(n, compute)

    def printed() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            print_plans([plan], compute, folder)

    return Prepared(printed)


def _arrays(n: int, compute: Compute, folder: Path) -> Prepared:
    plan, store = plan_cells(n, compute), ArtifactStore(folder)
    run = open_run(plan, Path(tempfile.mkdtemp(dir=folder)), "scale", compute)
    return Prepared(lambda: arrays(tasks_of(missing_jobs(plan, run, store, SHARD), 0), ARRAY))


@cache
def measured_run(n: int, compute: Compute) -> Run:
    """A run of `n` finished cells, in a folder that ends with this process."""
    plan, folder = plan_cells(n, compute), Path(tempfile.mkdtemp(prefix="scale-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run = open_run(plan, folder, "scale", compute)
    write_rows(run, plan, GROUPS_OF_A_CELL, compute)
    return run


def _status(n: int, compute: Compute, folder: Path) -> Prepared:
    run = measured_run(n, compute)

    def printed() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            show.status(str(run.folder))

    return Prepared(printed)


def _resuming(n: int, compute: Compute, folder: Path) -> Prepared:
    run, plan, store = measured_run(n, compute), plan_cells(n, compute), ArtifactStore(folder)
    return Prepared(lambda: missing_jobs(plan, run, store, SHARD))


def _collecting(n: int, compute: Compute, folder: Path) -> Prepared:
    run = measured_run(n, compute)
    return Prepared(lambda: Run.open(run.folder).planned_frame())


def table_frame(groups: int) -> pd.DataFrame:
    """Rows of `ROWS` methods on `SPLITS` class splits of 100 classes, of `groups` groups each, whose classes repeat."""
    rng, parts = np.random.default_rng(0), []
    for split in range(SPLITS):
        unseen = np.random.default_rng(split).permutation(100)[:10]
        classes = [" ".join(map(str, rng.permutation(unseen)[:5])) for _ in range(groups)]
        for row in range(ROWS):
            parts.append(
                pd.DataFrame({
                    "method": f"m{row}", "family": "f", "target": "convnet3", "snapshot": "", "split": split, "seed": split,
                    "group": np.arange(groups), "classes": classes, "device": "cpu", "precision": "fp32", "threads": 1,
                    "accuracy": rng.integers(200, 300 + row, groups) / 500, "seconds": rng.uniform(0.01, 0.02, groups),
                    "training_groups": 100.0, "finished": True,
                })
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def rendered(frame: pd.DataFrame) -> str:
    """The frame's table in LaTeX, CSV and Markdown; returns the last."""
    rows = tuple(TableRow(f"m{row}", f"m{row}", "", f"Method {row}") for row in range(ROWS))
    layout = TableLayout("scale", "Scale", rows, (("f", "Family"),), "convnet3")
    cells, ends = summarise(frame, layout), notes(frame, layout)
    return [typeset(cells, layout, format, None, ends) for format in ("latex", "csv", "markdown")][-1]


def _table(n: int, compute: Compute, folder: Path) -> Prepared:
    frame = table_frame(n)
    return Prepared(lambda: rendered(frame))


WORKLOADS = (
    Workload("planning a run", "cells", CELLS, _planning),
    Workload("a dry run", "cells", CELLS, _dry_run),
    Workload("cutting a run into arrays", "cells", CELLS, _arrays),
    Workload("status", "cells", CELLS, _status),
    Workload("finding what is missing", "cells", CELLS, _resuming),
    Workload("reading a run's rows", "cells", CELLS, _collecting),
    Workload("a table of 20 rows and 10 class splits", "groups", TABLE_GROUPS, _table),
)


def write(folder: Path, points: Sequence[Point]) -> None:
    """Leave points, exponents and their provenance in `folder`."""
    table = pd.DataFrame([astuple(point) for point in points], columns=list(growth_figures.POINTS))
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("scale", table), ("scale-exponents", growth_figures.exponents(table))):
        (folder / f"{name}.csv").write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    invocation = begin_invocation("python -m tests.benchmarks.scale", choose_device())
    (folder / "scale-manifest.json").write_bytes(checksummed_json(asdict(invocation)))


def main(folder: Path) -> None:
    """Measure everything, print each point as it comes, and `write` it."""
    points = []
    for workload, n in ((each, n) for each in WORKLOADS for n in each.sizes):
        points.append(measure_point(workload, n, "cpu", 1, REPETITIONS))
        print(f"{workload.name}, {n:,} {workload.unit}: {points[-1].cpu_seconds:.4g} s of a processor", flush=True)
    write(folder, points)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
