"""Several groups at once against one after another, for whoever asks whether it is worth it on a device.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each piece only runs once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.bench import batched
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose_device


def test_groups_at_once_against_one_by_one(benchmark: Any, cache_dir: Path) -> None:
    if not benchmark.enabled:
        shape, device = (1, 8, 8), torch.device("cpu")
        groups = batched.datasets(shape, 2, device)
        for way in (batched.one_by_one, batched.at_once, batched.vmapped):
            way(batched.trainer(shape, choose_device("cpu")), groups)
        for step in (batched.gradients_one_by_one, batched.gradients_at_once):
            step(batched.learner(shape, choose_device("cpu")), batched.episodes(shape, 2, device))
        return
    ratios = batched.measure(Setting(choose_device(), cache_dir))
    for ratio in ratios:
        benchmark.extra_info[ratio.name] = ratio.value
        print(f"\n{ratio.name}: {ratio.value:.2f} times as fast as {ratio.against} ({ratio.seconds:.3f} s)", end="")
    benchmark.pedantic(lambda: None, rounds=1)
