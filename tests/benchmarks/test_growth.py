"""Work grows in proportion to groups or images, and what is in memory at once does not grow at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods.base import TargetSpec
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from tests.benchmarks import growth, scale
from tests.benchmarks.growth_figures import POINTS
from tests.benchmarks.workloads import IMAGE_SHAPE, WAYS, our_protonet, predictor, random_dataset

IMAGES = (100, 1_000, 4_000)


def batches(module: torch.nn.Module) -> list[int]:
    """A list that grows by the size of every batch that `module` receives."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    return seen


def test_pudnet_passes_every_image_once_and_few_at_a_time(compute: Compute) -> None:
    method = predictor("convnet3", compute)
    extracted = batches(method.hypernetwork.sketch.extractor)
    most = []
    for n in IMAGES:
        extracted.clear()
        next(iter(method.fit(random_dataset(n, compute.device))))
        assert sum(extracted) == n
        most.append(max(extracted))
    assert most[1] == most[2] < IMAGES[1]


def test_protonet_looks_at_its_support_however_large_the_dataset(compute: Compute) -> None:
    method = our_protonet(TargetSpec("convnet3", IMAGE_SHAPE), compute)
    seen = batches(method.modules["network"])
    for n in IMAGES:
        next(iter(method.fit(random_dataset(n, compute.device))))
    assert seen == [WAYS * method.support_per_class] * len(IMAGES)


def test_an_episode_takes_as_many_images_wherever_it_stands(
    digits_images: FamilyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = FamilyImages.dataset

    def counted(self: FamilyImages, positions: Any, *rest: Any) -> Any:
        taken.append(positions.size)
        return real(self, positions, *rest)

    monkeypatch.setattr(FamilyImages, "dataset", counted)
    stream = TrainingStream(digits_images, seed=0)
    for first in (0, 10**3, 10**6, 10**9):
        taken.clear()
        next(stream.episodes(first))
        assert taken == [stream.ways * stream.support_per_class, stream.queries_per_group]


def test_a_cell_is_finished_by_reading_each_shard_once(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    real = pq.ParquetFile

    def counted(source: Any, *rest: Any, **options: Any) -> Any:
        reads.append(source)
        return real(source, *rest, **options)

    monkeypatch.setattr("pudnet_bench.results.store.rows.pq.ParquetFile", counted)
    monkeypatch.setattr(growth, "GROUPS_OF_A_SHARD", 10)
    counts = []
    for n in (100, 200):
        reads.clear()
        plan = growth.plan_two_methods(n, compute)
        run = growth.empty_run(tmp_path, plan, compute)
        growth.write_rows(run, plan, n, compute)
        counts.append(len(reads))
        rows = Run.open(run.folder).frame()
        assert rows.groupby("cell")["group"].apply(list).tolist() == [list(range(n))] * 2
    assert counts == [20, 40]  # two cells of 10 shards, then of 20


@pytest.mark.parametrize("workload", [*growth.WORKLOADS, *scale.WORKLOADS], ids=lambda workload: workload.name)
def test_a_point_is_measured(workload: growth.Workload) -> None:
    point = growth.measure_point(workload, workload.sizes[0], "cpu", 1)
    assert (point.subject, point.unit, point.n) == (workload.name, workload.unit, 100)
    assert 1e-4 < point.seconds < 60
    assert 0 < point.cpu_seconds < 60
    assert 0 <= point.extra_bytes < point.peak_bytes


def test_what_was_measured_is_left_in_a_folder(tmp_path: Path) -> None:
    points = [growth.Point("work", "groups", n, n / 100, n / 200, 10**8, 10**6) for n in (100, 1_000, 10_000)]
    growth.write(tmp_path / "growth", points, [(1, 10.0), (2, 6.0)])
    names = {path.name for path in (tmp_path / "growth").iterdir()}
    assert names == {"points.csv", "exponents.csv", "processes.csv", "growth.pdf", "growth.png", "manifest.json"}
    assert pd.read_csv(tmp_path / "growth" / "points.csv").columns.tolist() == list(POINTS)
    found = pd.read_csv(tmp_path / "growth" / "exponents.csv").set_index("quantity")["exponent"]
    assert found["seconds"] == pytest.approx(1)
    noted = json.loads((tmp_path / "growth" / "manifest.json").read_text())
    assert {"device", "commit", "versions", "threads", "started"} <= noted.keys()


def test_what_thousands_of_cells_take_is_left_in_a_folder(tmp_path: Path) -> None:
    points = [growth.Point("status", "cells", n, n / 100, n / 200, 10**8, 10**6) for n in (100, 1_000, 10_000)]
    scale.write(tmp_path / "scale", points)
    assert {path.name for path in (tmp_path / "scale").iterdir()} == {
        "scale.csv", "scale-exponents.csv", "scale-manifest.json",
    }  # fmt: skip
    found = pd.read_csv(tmp_path / "scale" / "scale-exponents.csv").set_index("quantity")["exponent"]
    assert found["cpu_seconds"] == pytest.approx(1)


def test_the_table_that_is_timed_is_one_of_every_row(compute: Compute, tmp_path: Path) -> None:
    text = scale.rendered(scale.table_frame(10))
    assert text.count("±") == 1 + scale.ROWS  # the caption has one
