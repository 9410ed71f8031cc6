"""The tool that lists shares of variance reads a run and its artifacts, and changes neither."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def harness(*command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PUDNET_BENCH_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_trained_pudnet_of_a_run_has_its_shares(tmp_path: Path) -> None:
    asked = (
        "--methods",
        "pudnet,pudnet-sketch-norm,pudnet-sketch-norm-other",
        "--training-groups",
        "5",
        "--groups",
        "2",
    )
    harness("harness", "run", "readings", *asked, "--out", "r", folder=tmp_path)
    files = {
        path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.suffix != ".lock"
    }
    rows = list(csv.DictReader(io.StringIO(harness("tests.benchmarks.variation", "r", folder=tmp_path))))
    assert [row["method"] for row in rows] == ["pudnet", "pudnet-sketch-norm"]
    assert {row["family"] for row in rows} == {"digits.held-out"}
    assert all(0 < float(row[name]) < 1 for row in rows for name in ("sketch", "context", "kernels"))
    assert float(rows[0]["context"]) < float(rows[1]["context"])  # the part that all datasets share is taken away
    assert {path: path.read_bytes() for path in files} == files
