"""Time grows in proportion to the number of groups and images, or more slowly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import scale
from tests.benchmarks.growth import WORKLOADS, Workload
from tests.benchmarks.ratio import Comparison
from tests.benchmarks.setting import Setting

SMALL_AND_LARGE = {"groups": (200, 2_000), "images": (500, 5_000), "cells": (200, 2_000)}
GOAL = 1.2


@pytest.mark.parametrize("workload", [*WORKLOADS, *scale.WORKLOADS], ids=lambda workload: workload.name)
def test_large_size_against_many_small_ones(
    compare: Comparison, setting: Setting, workload: Workload, tmp_path: Path
) -> None:
    small, large = SMALL_AND_LARGE[workload.unit] if setting.measuring else (10, 20)
    once, often = (workload.prepare(n, setting.compute, tmp_path).work for n in (large, small))

    def repeat() -> None:
        for _ in range(large // small):
            often()

    name, against = f"{workload.name}, {large:,} {workload.unit}", f"{large // small} times {small:,}"
    ratio = compare(name, once, against, repeat, rounds=5, goal=GOAL)
    assert ratio is None or ratio.met, str(ratio)
