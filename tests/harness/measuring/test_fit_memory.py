"""Memory of a fit on a CPU: what it adds, whatever ran before, and nothing where the system does not tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pudnet_bench.results.analysis.costs import method_costs
from pudnet_bench.results.rendering.cost_tables import markdown_text
from pudnet_bench.results.store.run import Run

ROOT = Path(__file__).parents[3]
METHOD = '''
import torch

from pudnet_bench.methods.base import Method, Snapshot


def work(megabytes, pieces):
    """Holds so much in so many pieces at a time, and gives it back."""
    held = [torch.ones(int(megabytes * 1e6) // 4 // pieces) for _ in range(pieces)]
    return sum(float(piece[0]) for piece in held)


class Base(Method):
    megabytes, pieces = 0, 1

    def fit(self, dataset):
        means = torch.stack([dataset.images[dataset.labels == c].flatten(1).mean(0) for c in range(dataset.n_classes)])
        if self.megabytes:
            work(self.megabytes, self.pieces)
        yield Snapshot(lambda images: -torch.cdist(images.flatten(1), means))


class Plain(Base):
    name = "plain"


class Pieces(Base):
    """Of a size that the C library serves from freed memory where there is some."""

    name = "pieces"
    megabytes, pieces = 40, 4000


class Block(Base):
    name = "block"
    megabytes = 300


class Later(Base):
    name = "later"

    def fit(self, dataset):
        (first,) = super().fit(dataset)
        yield Snapshot(first.classifier, "small", 0)
        work(100, 1)
        yield Snapshot(first.classifier, "large", 1)
'''
RUN = """
import sys
from pathlib import Path
from pudnet_bench.harness.measuring import clock
{before}
from pudnet_bench.harness.cli.app import main
sys.argv = ["harness", *{arguments!r}]
main()
"""


def memory(folder: Path, cache_dir: Path, methods: str, before: str = "") -> pd.DataFrame:
    """The frame of a run of these methods in this order, in a process of its own that begins with `before`."""
    (folder / "mine.py").write_text(METHOD)
    call = ["run", "table1", "--groups", "3", "--cache", str(cache_dir), "--out", "out", "--methods", methods]
    call += [word for name in methods.split(",") for word in ("--method", f"mine.py:{name.title()}")]
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(arguments=call, before=before)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run.open(folder / "out").frame()


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.fixture
def linux() -> None:
    if not sys.platform.startswith("linux") or not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell what a fit adds")


def test_it_is_what_the_fit_adds_whatever_ran_before(linux: None, cache_dir: Path, tmp_path: Path) -> None:
    alone = memory(folder(tmp_path, "alone"), cache_dir, "pieces")
    after = memory(folder(tmp_path, "after"), cache_dir, "block,plain,pieces,later")
    assert alone["peak_memory_bytes"].between(38e6, 52e6).all(), alone["peak_memory_bytes"]
    added = after.groupby(["method", "snapshot"])["peak_memory_bytes"].agg(["min", "max"])
    assert added.loc[("block", "")].between(295e6, 320e6).all(), added
    assert (added.loc[("plain", "")] < 12e6).all(), added
    assert added.loc[("pieces", "")].between(38e6, 52e6).all(), added
    assert (added.loc[("later", "small")] < 12e6).all(), added
    assert added.loc[("later", "large")].between(98e6, 115e6).all(), added


def test_it_is_unknown_where_the_high_water_mark_cannot_be_reset(cache_dir: Path, tmp_path: Path) -> None:
    block = "clock._open_for_life = lambda *_: (_ for _ in ()).throw(PermissionError(13, 'denied'))"
    frame = memory(tmp_path, cache_dir, "plain", block)
    assert frame["peak_memory_bytes"].isna().all()
    costs = method_costs(frame)
    assert costs["peak_memory_bytes"].isna().all()
    heading, _, row = [line.split("|") for line in markdown_text(costs).strip().splitlines()]
    place = next(number for number, name in enumerate(heading) if "peak memory" in name)
    assert row[place].strip() == "—"
