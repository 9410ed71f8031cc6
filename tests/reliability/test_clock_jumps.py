"""The machine's clock is set by years while a run measures: times stay what they are, nothing is lost or done twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from pudnet_bench.results.store.run import Run

ROOT = Path(__file__).parents[2]
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
PAUSE = 0.1
METHOD = f"""
import time
from pathlib import Path

import torch
from pudnet_bench.methods.base import Snapshot
from pudnet_bench.methods.protonet import ProtoNet


class Slow(ProtoNet):
    name = "slow"

    def fit(self, dataset):
        with (Path(__file__).parent / "clock.log").open("a") as log:
            log.write(f"{{time.time()}}\\n")
        ends = time.perf_counter() + {PAUSE}  # libfaketime breaks time.sleep
        while time.perf_counter() < ends:
            pass
        yield from super().fit(dataset)
"""


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARIES, reason="libfaketime (Debian's package of that name) is not installed")
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(METHOD)
    jump = tmp_path / "jump"
    jump.write_text("+0")
    call = [
        sys.executable, "-m", "harness", "run", "table1", "--methods", "slow", "--method", str(tmp_path / "slow.py:Slow"),
        "--groups", "40", "--training-groups", "2", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(jump),
        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    log = tmp_path / "clock.log"
    began = time.monotonic()
    with subprocess.Popen(call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for fits, offset in ((3, "+2000d"), (15, "-3000d"), (25, "+0")):
            while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < fits):
                time.sleep(0.02)
            new = jump.with_suffix(".new")
            new.write_text(offset)
            new.replace(jump)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said.decode()
    took = time.monotonic() - began
    clock = pd.Series([float(line) for line in log.read_text().splitlines()])
    assert clock.diff().max() > 100e6 > -100e6 > clock.diff().min()  # in seconds: the process saw the jumps
    rows = Run.open(tmp_path / "out").frame()
    assert rows["finished"].all()
    assert rows["group"].tolist() == list(range(40))
    for column in ("seconds", "wall_seconds"):
        assert rows[column].min() >= PAUSE
    for column in ("seconds", "wall_seconds", "evaluation_seconds", "data_seconds", "meta_train_seconds"):
        assert rows[column].between(0, took).all(), column
    assert rows["wall_seconds"].sum() < took
    fits = len(clock)
    again = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert len(log.read_text().splitlines()) == fits, again.stderr  # nothing is measured twice
