"""Memory does not grow with the number of groups."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from pudnet_bench.suites.groups import FamilyImages, TrainingStream

ROOT = Path(__file__).parents[3]
ALLOWED = 100e6  # bytes
DRY_RUNS = """
from pathlib import Path
from pudnet_bench.harness.measuring.clock import PeakMemory
from pudnet_bench.harness.cli.app import app
import torch
memory = PeakMemory(torch.device("cpu"))
for groups in ("100", "100", "100000"):  # the first one imports and settles
    memory.reset()
    # Without ProtoNet, whose learn2learn takes seconds to import; the number of groups is the same matter for all.
    app(["run", "table1", "--dry-run", "--methods", "pudnet,adam", "--device", "cpu", "--groups", groups], standalone_mode=False)
    print("peak", memory.read())
"""


def resident() -> int:
    """This process's resident set now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_planning_100000_groups_takes_no_more_memory_than_planning_100(cache_dir: Path) -> None:
    environment = {**os.environ, "PUDNET_BENCH_CACHE": str(cache_dir), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "100000" in done.stdout
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak ")]
    assert min(peaks) > 50e6  # a process with torch in it: the figure is one
    assert peaks[2] - peaks[1] < ALLOWED


@pytest.mark.parametrize("what", ["episodes of a training stream", "unseen groups"])
def test_drawing_10000_groups_does_not_grow(digits_images: FamilyImages, what: str) -> None:
    def draw(count: int) -> int:
        """Draws `count` groups and returns the bytes that storing them would have taken."""
        size = 0
        if what == "unseen groups":
            for index in range(count):
                group = digits_images.group("unseen", 0, index)
                size += group.fit.images.nbytes + group.test.images.nbytes
        else:
            for episode in islice(TrainingStream(digits_images, seed=0).episodes(), count):
                size += episode.support.images.nbytes + episode.query.images.nbytes
        return size

    draw(200)  # allocators settle
    before = resident()
    stored = draw(10_000)
    assert resident() - before < ALLOWED
    assert stored > 2 * ALLOWED  # had they been kept, it would have been seen
