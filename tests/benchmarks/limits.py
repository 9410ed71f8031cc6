"""What the machine itself can do: matrix products, convolutions and memory, measured in the same session as the ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from pudnet_bench.harness.measuring.clock import Clock

MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns
IMAGES = {"cpu": 64, "cuda": 1024}
FLOATS = {"cpu": 2**24, "cuda": 2**28}  # copied: more than caches hold
CHANNELS, SIDE = 64, 16  # of ConvNet-3's second convolution, on images of 32x32
REGION = 0.02  # seconds timed at once, so that launches and readings of the clock do not count
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Rate:
    """The best rate of what is named, in `unit`."""

    name: str
    value: float
    unit: str


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """GFLOP/s of products of square matrices in `dtype`, as torch is set (TF32 or not), the best within `seconds`."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: a @ b, device, seconds) / 1e9


@torch.no_grad()
def convolution_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """GFLOP/s of ConvNet-3's second convolution (3x3, 64 to 64 channels, 16x16 pixels) forward, in channels-last memory.

    In `dtype`, as torch is set (TF32 or not), the best within `seconds`; a multiplication and an addition are two.
    """
    images = torch.randn(IMAGES[device.type], CHANNELS, SIDE, SIDE, device=device)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device)
    x, k = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in (images, kernel))
    operations = 2 * images.numel() * kernel[0].numel()
    return operations / _fastest(lambda: F.conv2d(x, k, padding=1), device, seconds) / 1e9


def copy_bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """GB/s (1e9 bytes) of copying float32 within the device's memory, bytes read and bytes written both counted."""
    source = torch.randn(FLOATS[device.type], device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device, seconds) / 1e9


def limits(device: torch.device, seconds: float = 0.5) -> list[Rate]:
    """Matrix products and convolutions in both precisions, and memory; each takes about `seconds`."""
    found = []
    for name, dtype in DTYPES.items():
        found.append(Rate(f"matrix product, {name}", matmul_rate(device, dtype, seconds), "GFLOP/s"))
    for name, dtype in DTYPES.items():
        found.append(Rate(f"convolution, {name}", convolution_rate(device, dtype, seconds), "GFLOP/s"))
    return [*found, Rate("copy within memory", copy_bandwidth(device, seconds), "GB/s")]


def _fastest(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The least time of one call of `work` by the device's clock, of all calls within `seconds`."""
    clock = Clock(device)

    def once(calls: int) -> float:
        clock.start()
        for _ in range(calls):
            work()
        return clock.stop().seconds / calls

    once(1)  # the first call loads libraries
    calls = math.ceil(REGION / max(once(1), 1e-6))
    best, ends = once(calls), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        best = min(best, once(calls))
    return best
