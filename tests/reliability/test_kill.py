"""`kill -9` of a real run, at moments nobody chose, again and again until it is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.running.cell import WARM_UPS
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources.loading import load

ROOT = Path(__file__).parents[2]
SEEDS, GROUPS, KILLS = (0, 1, 2, 3), 4, 3

# Writes down which images every fit was given, takes its time, and answers with noise that the group's seed decides.
SLOW = """
import os
import time
from hashlib import sha256
from pathlib import Path

import torch

from pudnet_bench.methods.base import Method, Snapshot


class Slow(Method):
    name = "slow"

    def fit(self, dataset):
        with Path(os.environ["FITS"]).open("a") as log:
            log.write(sha256(dataset.images.contiguous().numpy().tobytes()).hexdigest() + "\\n")
        time.sleep(0.15)
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        bias = 3 * torch.randn(dataset.n_classes)
        yield Snapshot(lambda images: -torch.cdist(images.flatten(1), means), "plain")
        yield Snapshot(lambda images: bias - torch.cdist(images.flatten(1), means), "noisy")
"""


def call(method: Path, out: Path) -> list[str]:
    seeds = ",".join(map(str, SEEDS))
    options = ["--methods", "slow", "--seeds", seeds, "--groups", str(GROUPS), "--device", "cpu", "--out", str(out)]
    return ["run", "table1", "--method", f"{method}:Slow", *options]


def logged(fits: Path) -> list[str]:
    """The images of every fit so far, by their hash."""
    return fits.read_text().splitlines() if fits.exists() else []


def accuracies(run: Path) -> pd.DataFrame:
    columns = ["table", "row", "column", "target", "accuracy_mean", "accuracy_ci", "n"]
    return pd.read_csv(run / "tables/table1.csv")[columns]


def test_a_run_killed_three_times_comes_out_like_one_that_was_not(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moments of the kills come from random.Random({seed})")  # pytest shows it when the test fails
    rng = random.Random(seed)
    monkeypatch.setenv("PUDNET_BENCH_CACHE", str(cache_dir))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    method = tmp_path / "slow.py"
    method.write_text(SLOW)

    def whole(out: Path, fits: Path) -> None:
        """A run to its end, in this process."""
        monkeypatch.setenv("FITS", str(fits))
        done = CliRunner().invoke(app, call(method, out))
        assert done.exit_code == 0, done.output

    images = SplitImages(FAMILIES["digits"], load("digits", data_dir=None, cache_dir=cache_dir), torch.device("cpu"))
    place = {}
    for s in SEEDS:
        for index in range(GROUPS):
            fit = images.group("unseen", s, index).fit.images.contiguous().numpy().tobytes()
            place[sha256(fit).hexdigest()] = (s, index)
    assert len(place) == len(SEEDS) * GROUPS

    out, fits = tmp_path / "killed", tmp_path / "killed.log"
    monkeypatch.setenv("FITS", str(fits))
    finished: set[int] = set()  # seeds of the cells that are, one cell each
    for kill in range(KILLS):
        before = len(logged(fits))
        # The first kill comes while the run starts, maybe before its record is written; the others while it measures.
        wanted, rest = (
            (before + rng.randint(1, WARM_UPS + GROUPS), rng.uniform(0, 0.3)) if kill else (0, rng.uniform(0, 1))
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *call(method, out)],
            cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        ends = time.monotonic() + 60
        while not out.exists() or len(logged(fits)) < wanted:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < ends, "the run does not get on"
            time.sleep(0.002)
        time.sleep(rest)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
        measured = {place[fit][0] for fit in logged(fits)[before:] if fit in place}
        assert not measured & finished, "a finished cell was measured again"
        if (out / "record.json").exists():
            run = Run.open(out)
            finished = {cell.seed for cell in run.record.plan.cells if run.finished(cell.key)}

    before = len(logged(fits))
    whole(out, fits)
    measured_last = sorted(place[fit] for fit in logged(fits)[before:] if fit in place)
    assert measured_last == [(s, index) for s in SEEDS if s not in finished for index in range(GROUPS)]
    assert not list(out.glob("cells/*.corrupt"))

    whole(tmp_path / "smooth", tmp_path / "smooth.log")
    assert len(logged(tmp_path / "smooth.log")) == len(SEEDS) * (GROUPS + WARM_UPS)
    same = ["cell", "seed", "group", "snapshot", "accuracy"]  # cells have the same keys in every process
    killed_rows, smooth_rows = Run.open(out).frame(), Run.open(tmp_path / "smooth").frame()
    assert len(smooth_rows) == 2 * len(SEEDS) * GROUPS
    assert smooth_rows["accuracy"].nunique() > 5
    pd.testing.assert_frame_equal(killed_rows[same], smooth_rows[same])
    assert killed_rows["finished"].all()
    pd.testing.assert_frame_equal(accuracies(out), accuracies(tmp_path / "smooth"))
