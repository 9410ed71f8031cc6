"""How close meta-training comes to the bare forward and backward pass of the same networks on the same images.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each piece only runs once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pudnet_bench.harness.bench.meta_training import GROUPS, PAIRS, meta_training
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose_device


@pytest.mark.parametrize(("family", "target"), PAIRS)
def test_meta_training_against_bare_passes(
    benchmark: Any, family: str, target: str, cache_dir: Path, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue("real_data") if family == "fashion" else None
    setting = Setting(choose_device(), cache_dir, data)
    rounds, groups = (7, GROUPS) if benchmark.enabled else (1, 1)
    ratio = meta_training(setting.images(family), target, setting.compute, rounds, groups)
    benchmark.extra_info["share_of_bare_speed"] = ratio.value
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{family} {target}: {ratio.value:.0%} of the bare passes' images per second")
    if benchmark.enabled:
        assert ratio.met
