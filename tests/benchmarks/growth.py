"""How time and memory grow with the number of groups and of images, and how a run speeds up with processes.

    python -m tests.benchmarks.growth DIR

measures everything and leaves the points, the fitted exponents and the figure in DIR. Every point is measured in a process
of its own, which has done the smallest size before, so that no memory left behind by an earlier point hides anything.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from pudnet_bench.harness.measuring.clock import Clock, PeakMemory
from pudnet_bench.harness.measuring.device import Compute, choose_device
from pudnet_bench.harness.measuring.provenance import begin_invocation
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.run import open_run
from pudnet_bench.methods.base import Method, TargetSpec
from pudnet_bench.results.rendering.run_tables import write_tables
from pudnet_bench.results.store.files import checksummed_json
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages, TrainingStream, draw_group
from pudnet_bench.suites.sources.content import Source
from tests.benchmarks import growth_figures
from tests.benchmarks.workloads import IMAGE_SHAPE, our_protonet, predictor, random_dataset

GROUPS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
IMAGES = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
FAMILY, IMAGES_OF_A_CLASS = "cifar100", 600
GROUPS_OF_A_SHARD = 500  # as written by a method that takes 40 ms for a group: a shard every 20 s
LONG_ENOUGH, MOST_REPEATS = 1.0, 9  # seconds of one point, and repetitions where one is shorter
TIMES = ("seconds", "wall_seconds", "evaluation_seconds", "data_seconds")
RUN = ("table1", "--methods", "pudnet,protonet", "--families", "digits", "--seeds", "0,1")
RUN_SIZE = ("--training-groups", "200", "--groups", "1000", "--device", "cpu")
Work = Callable[[], Any]


@dataclass(frozen=True)
class Prepared:
    """Work that is ready to be measured, and the bytes of its input, which do not count as its memory."""

    work: Work
    given: int = 0


@dataclass(frozen=True)
class Workload:
    """Something that is done to n groups or n images (`unit`); `prepare(n, compute, folder)` sets it up at one of `sizes`."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Compute, Path], Prepared]


@dataclass(frozen=True)
class Point:
    """One workload at one size.

    Attributes:
        subject: Name of the workload.
        unit: "groups" or "images".
        n: How many of them.
        seconds: Time by the clock.
        cpu_seconds: Processor time of this process, which other work on the machine hardly changes.
        peak_bytes: Peak memory of the process (of the allocator on CUDA) without the workload's input.
        extra_bytes: How far the workload raised that memory.
    """

    subject: str
    unit: str
    n: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    extra_bytes: int


@cache
def _source() -> Source:
    """Random images of the shape and number of CIFAR-100's."""
    family = FAMILIES[FAMILY]
    labels = np.repeat(np.arange(family.classes), IMAGES_OF_A_CLASS)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *IMAGE_SHAPE), dtype=np.uint8)
    return Source(family.source, images, labels, tuple(map(str, range(family.classes))), "random")


def _positions(n: int, compute: Compute, folder: Path) -> Prepared:
    images = FamilyImages(FAMILIES[FAMILY], _source(), compute.device)

    def draw() -> None:
        for index in range(n):
            draw_group(images.family, images.split.training, images.ranges, "training", 0, index)

    return Prepared(draw, images.images.nbytes)


def _episodes(n: int, compute: Compute, folder: Path) -> Prepared:
    images = FamilyImages(FAMILIES[FAMILY], _source(), compute.device)

    def draw() -> None:
        for _ in islice(TrainingStream(images, seed=0).episodes(), n):
            pass

    return Prepared(draw, images.images.nbytes)


def plan_two_methods(n: int, compute: Compute) -> Plan:
    """The plan of PudNet and ProtoNet on `n` groups of digits."""
    request = RunRequest(suite="table1", methods=("pudnet", "protonet"), families=("digits",), groups=n, cache=Path())
    few = np.zeros((10, 1, 8, 8), dtype=np.uint8)
    source = Source("digits", few, np.arange(10), tuple("0123456789"), "")
    return make_plan(request, compute, lambda *_: source)


def write_rows(run: Run, plan: Plan, n: int, compute: Compute) -> None:
    """Write rows of `n` groups of each cell, one shard after the other, as measuring does."""
    rng = np.random.default_rng(0)
    for cell in plan.cells:
        common = {
            "method": cell.variant.name, "family": cell.family.name, "target": cell.target.name, "seed": cell.seed,
            "artifact": cell.artifact.key if cell.artifact else "", "cell": cell.key, "suite": "table1", "snapshot": "",
            "device": compute.name, "n_fit": 500, "n_test": 500, "n_classes": 5, "epochs": float("nan"),
            "meta_train_seconds": 100.0, "training_groups": 1000.0, "parameters": 1e6, "fit_flops": 1e9,
            "precision": "fp32", "threads": 1, "split": 0, "classes": "3 9",
            "test_flops": 1e7, "energy_joules": float("nan"), "peak_memory_bytes": 10**9,
        }  # fmt: skip
        for first in range(0, n, GROUPS_OF_A_SHARD):
            groups = range(first, min(first + GROUPS_OF_A_SHARD, n))
            right = rng.integers(300, 500, GROUPS_OF_A_SHARD).tolist()
            seconds = rng.uniform(0.01, 0.02, GROUPS_OF_A_SHARD).tolist()
            rows = [
                {**common, "group": g, "accuracy": r / 500, **dict.fromkeys(TIMES, s)}
                for g, r, s in zip(groups, right, seconds, strict=False)
            ]
            run.write_shard(cell.key, rows)
        run.finish(cell.key)


def empty_run(folder: Path, plan: Plan, compute: Compute) -> Run:
    """A new run of `plan` below `folder`."""
    return open_run(plan, Path(tempfile.mkdtemp(dir=folder)), "growth", compute)


def _writing(n: int, compute: Compute, folder: Path) -> Prepared:
    plan = plan_two_methods(n, compute)
    record = empty_run(folder, plan, compute).record

    def write() -> None:
        write_rows(Run.create_or_open(Path(tempfile.mkdtemp(dir=folder)), record), plan, n, compute)

    return Prepared(write)


def _reading(n: int, compute: Compute, folder: Path) -> Prepared:
    plan = plan_two_methods(n, compute)
    run = empty_run(folder, plan, compute)
    write_rows(run, plan, n, compute)
    return Prepared(lambda: write_tables(Run.open(run.folder), with_paper=False))


def _fitting(make: Callable[[Compute], Method], n: int, compute: Compute, folder: Path) -> Prepared:
    method, dataset = make(compute), random_dataset(n, compute.device)
    return Prepared(lambda: next(iter(method.fit(dataset))), dataset.images.nbytes + dataset.labels.nbytes)


def _protonet(compute: Compute) -> Method:
    return our_protonet(TargetSpec("convnet3", IMAGE_SHAPE), compute)


def _pudnet(compute: Compute) -> Method:
    return predictor("convnet3", compute)


WORKLOADS = (
    Workload("drawing positions of groups", "groups", GROUPS, _positions),
    Workload("drawing training episodes with their images", "groups", GROUPS, _episodes),
    Workload("writing a run's rows", "groups", GROUPS, _writing),
    Workload("reading a run, all its tables", "groups", GROUPS, _reading),
    Workload("PudNet's fit", "images", IMAGES, partial(_fitting, _pudnet)),
    Workload("ProtoNet's fit", "images", IMAGES, partial(_fitting, _protonet)),
)


def measure_point(workload: Workload, n: int, device: str, threads: int, best_of: int = 0) -> Point:
    """Measure a workload at size `n` in this process, which should be a fresh one.

    The least of `best_of` repetitions, which other work on the machine lengthens least; 0: the median of as many as take a
    second.
    """
    torch.set_num_threads(threads)
    compute = choose_device(device)
    clock, memory = Clock(compute.device), PeakMemory(compute.device)
    with tempfile.TemporaryDirectory() as folder:
        workload.prepare(workload.sizes[0], compute, Path(folder)).work()
        prepared = workload.prepare(n, compute, Path(folder))
        memory.reset()
        before, peaks, spent, computed = memory.read(), list[int](), list[float](), list[float]()
        while len(spent) < best_of or (not best_of and sum(spent) < LONG_ENOUGH and len(spent) < MOST_REPEATS):
            clock.start()
            began = time.process_time()
            prepared.work()
            computed.append(time.process_time() - began)
            spent.append(clock.stop().wall_seconds)
            peaks.append(memory.read())
    middle = min if best_of else median
    seconds = middle(spent), middle(computed)
    return Point(workload.name, workload.unit, n, *seconds, peaks[0] - prepared.given, max(0, peaks[0] - before))


def measure_points(
    workloads: Sequence[Workload] = WORKLOADS, device: str = "auto", threads: int = 1
) -> Iterator[Point]:
    """Every point of `workloads`, each measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for workload in workloads:
            for n in workload.sizes:
                yield pool.submit(measure_point, workload, n, device, threads).result()


def run_seconds(processes: int, cores: Sequence[int]) -> float:
    """Seconds of `python -m harness run` with that many processes on as many cores, from an empty cache."""
    mine = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        where = ("--cache", f"{folder}/cache", "--out", f"{folder}/run", "--executor", f"local-processes:{processes}")
        command = [sys.executable, "-m", "harness", "run", *RUN, *RUN_SIZE, *where]
        os.sched_setaffinity(0, cores[:processes])
        try:
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            return time.perf_counter() - began
        finally:
            os.sched_setaffinity(0, mine)


def speed_ups(most: int = 2, repetitions: int = 3) -> list[tuple[int, float]]:
    """(processes, seconds) of `RUN` with 1, 2, 4, ... up to `most` processes, in interleaved repetitions."""
    cores = sorted(os.sched_getaffinity(0))
    counts = [2**k for k in range(most.bit_length()) if 2**k <= min(most, len(cores))]
    return [(count, run_seconds(count, cores)) for _ in range(repetitions) for count in counts]


def write(folder: Path, points: Sequence[Point], runs: Sequence[tuple[int, float]]) -> None:
    """Leave points, exponents, figures and their provenance in `folder`."""
    table = pd.DataFrame([astuple(point) for point in points], columns=list(growth_figures.POINTS))
    processes = pd.DataFrame(runs, columns=list(growth_figures.SPEED_UPS))
    exponents = growth_figures.exponents(table)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("points", table), ("exponents", exponents), ("processes", processes)):
        (folder / f"{name}.csv").write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    invocation = begin_invocation("python -m tests.benchmarks.growth", choose_device())
    (folder / "manifest.json").write_bytes(checksummed_json(asdict(invocation)))
    for format in ("pdf", "png"):
        (folder / f"growth.{format}").write_bytes(growth_figures.draw(table, processes, format))


def main(folder: Path) -> None:
    """Measure everything, print each point as it comes, and `write` it."""
    points = []
    for point in measure_points():
        print(
            f"{point.subject}, {point.n:,} {point.unit}: {point.seconds:.4g} s, {point.extra_bytes / 1e6:.1f} MB",
            flush=True,
        )
        points.append(point)
    runs = speed_ups()
    for processes, seconds in runs:
        print(f"run with {processes} processes: {seconds:.1f} s")
    write(folder, points, runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
