"""Time grows in proportion to the groups and images, or more slowly.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and small sizes run once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pudnet_bench.harness.bench import growth
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose_device


def test_time_grows_in_proportion(benchmark: Any, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not benchmark.enabled:
        monkeypatch.setattr(growth, "SMALL_AND_LARGE", {"groups": (10, 20), "images": (10, 20)})
    ratios = growth.measure(Setting(choose_device(), cache_dir, rounds=3 if benchmark.enabled else 1))
    for ratio in ratios:
        benchmark.extra_info[f"{ratio.name} / {ratio.against}"] = ratio.value
        print(f"\n{ratio.name}: {ratio.value:.2f} of {ratio.against}", end="")
    benchmark.pedantic(lambda: None, rounds=1)
    assert [ratio.name.split(",")[0] for ratio in ratios] == [subject.name.split(",")[0] for subject in growth.SUBJECTS]
    if benchmark.enabled:
        assert all(ratio.met for ratio in ratios)
