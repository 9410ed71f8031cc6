"""PudNet's prediction against the bare forward pass of its parts.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each piece only runs once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.bench import prediction
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose_device


def test_fit_against_the_bare_forward_pass(benchmark: Any, cache_dir: Path) -> None:
    if not benchmark.enabled:
        method, dataset = (
            prediction.predictor("convnet3", choose_device()),
            prediction.random_dataset(50, torch.device("cpu")),
        )
        kernels = prediction.bare_forward(method, dataset.images)
        assert [kernel.shape for kernel in kernels] == [k.shape for k in method.predicted(dataset).values()]
        return
    ratios = prediction.measure(Setting(choose_device(), cache_dir))
    for ratio in ratios:
        benchmark.extra_info[f"{ratio.name} / {ratio.against}"] = ratio.value
        print(f"\n{ratio.name}: {ratio.value:.2f} of {ratio.against} ({ratio.seconds * 1e3:.1f} ms)", end="")
    benchmark.pedantic(lambda: None, rounds=1)
    assert all(ratio.met for ratio in ratios if "convnet3" in ratio.name and ratio.goal)
