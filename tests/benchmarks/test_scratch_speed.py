"""Training from scratch at its best against the loop of a plain script.

`uv run pytest tests/benchmarks -n 0` measures; under xdist pytest-benchmark is off and each loop only runs once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pudnet_bench.harness.bench import scratch
from pudnet_bench.harness.bench.prediction import random_dataset
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import choose_device


def test_the_plain_loop_against_training_at_its_best(benchmark: Any, cache_dir: Path) -> None:
    if not benchmark.enabled:
        dataset = random_dataset(40, torch.device("cpu"))
        for loop in ("device", "dataloader"):
            scratch.epoch(scratch.trainer("convnet3", choose_device(), loop=loop), dataset)
        return
    ratios = scratch.measure(Setting(choose_device(), cache_dir))
    for ratio in ratios:
        benchmark.extra_info[ratio.name] = ratio.value
        print(f"\n{ratio.name}: {ratio.value:.2f} times {ratio.against} ({ratio.against_seconds:.3f} s)", end="")
    benchmark.pedantic(lambda: None, rounds=1)
    assert min(ratio.value for ratio in ratios if "plain" in ratio.name) > 1
