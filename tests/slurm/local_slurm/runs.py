"""What tests of whole runs on Slurm share: the command, and waiting for something to happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PROFILE = Path(__file__).parents[3] / "slurm/clusters/local.toml"


def on_slurm(cluster: str | Path, *arguments: object) -> tuple[object, ...]:
    """The words of `run table1` on the cluster of a profile, with the numbers of any other executor on a CPU."""
    run = ("run", "table1", "--executor", "slurm", "--cluster", cluster, "--device", "cpu", "--precision", "fp32")
    return (*run, *arguments)


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until `condition` holds; fail after so many seconds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.2)
