"""The machine's limits: operations are counted right, and each is measured on the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import limits

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [limits.matmul_rate, limits.convolution_rate])
def test_operations_are_counted_as_torch_counts_them(
    rate: Callable[..., float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def one_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops())
        return 1.0

    monkeypatch.setattr(limits, "_fastest", one_second)
    assert rate(CPU, dtype) == pytest.approx(counted[0] / 1e9)
    assert counted[0] > 1e9


def test_limits_are_measured_on_the_device() -> None:
    rates = limits.limits(CPU, seconds=0.01)
    assert [rate.name for rate in rates] == [
        "matrix product, fp32", "matrix product, bf16", "convolution, fp32", "convolution, bf16", "copy within memory",
    ]  # fmt: skip
    assert [rate.unit for rate in rates] == 4 * ["GFLOP/s"] + ["GB/s"]
    assert all(0.1 < rate.value < 1e5 for rate in rates)
