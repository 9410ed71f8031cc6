"""Tasks and training steps a second against the same work on learn2learn's pieces.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each piece only runs once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pudnet_bench.harness.bench import peers
from pudnet_bench.harness.bench.ratio import Ratio
from pudnet_bench.harness.measuring.device import choose_device
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import load

ROUNDS = 7


def images_of(family: str, cache_dir: Path, request: pytest.FixtureRequest) -> FamilyImages:
    data = None if family == "digits" else request.getfixturevalue("real_data")
    source = load(FAMILIES[family].source, data_dir=data, cache_dir=cache_dir)
    return FamilyImages(FAMILIES[family], source, choose_device().device)


def note(benchmark: Any, ratios: list[Ratio]) -> None:
    for ratio in ratios:
        benchmark.extra_info[f"{ratio.name} / {ratio.against}"] = ratio.value
        print(f"\n{ratio.name}: {ratio.value:.2f} times {ratio.against}", end="")
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("family", ["digits", "fashion", "cifar100"])
def test_sampling(benchmark: Any, family: str, cache_dir: Path, request: pytest.FixtureRequest) -> None:
    if not benchmark.enabled and family != "digits":
        pytest.skip("measured with -n 0")
    ratios = peers.sampling(images_of(family, cache_dir, request), ROUNDS if benchmark.enabled else 1)
    note(benchmark, ratios)
    if benchmark.enabled:
        assert all(ratio.value > 1 for ratio in ratios)
        if family == "fashion":
            assert all(ratio.met for ratio in ratios if "NWays, KShots" in ratio.against)


@pytest.mark.parametrize("family", ["digits", "fashion", "cifar100"])
def test_protonet_training(benchmark: Any, family: str, cache_dir: Path, request: pytest.FixtureRequest) -> None:
    if not benchmark.enabled and family != "digits":
        pytest.skip("measured with -n 0")
    ratios = peers.training(images_of(family, cache_dir, request), rounds=ROUNDS if benchmark.enabled else 1)
    note(benchmark, ratios)
    if benchmark.enabled:
        assert all(ratio.value > 1 for ratio in ratios if "learn2learn" in ratio.against)
