"""Where and how precisely to compute: device, threads, precision. One choice for every method of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pudnet_bench.errors import BenchError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


class ComputeError(BenchError):
    """A device or precision that this machine does not have; says which and the way out."""


@dataclass(frozen=True)
class Compute:
    """A device with its name and the precision of forward passes.

    ``bf16`` means autocast: parameters, optimiser and losses stay float32.
    """

    device: torch.device
    name: str
    precision: Precision

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        if self.precision == "fp32":
            return nullcontext
        import torch

        return partial(torch.autocast, self.device.type, torch.bfloat16)


def core_count() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The CPU's model and the number of cores this process may use."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123 - a file of the kernel's, read line by line
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        model = platform.processor() or platform.machine()
    return f"{model}, {core_count()} cores"


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 on ``device``: it has instructions of its own for them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """The device and precision asked for. Raises ComputeError when this machine lacks it."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ComputeError(
            "--device cuda: torch sees no CUDA device here; use --device cpu, or check `python -m harness doctor`"
        )
    if device not in ("cpu", "cuda"):
        raise ComputeError(f"--device takes auto, cpu or cuda, not '{device}'")
    if precision not in ("auto", "fp32", "bf16"):
        raise ComputeError(f"--precision takes auto, fp32 or bf16, not '{precision}'")
    where = torch.device(device)
    if device == "cuda":
        where = torch.device("cuda", torch.cuda.current_device())
        name = torch.cuda.get_device_name(where)
    else:
        name = processor_name()
    chosen: Precision = "bf16" if precision == "bf16" or (precision == "auto" and native_bf16(where)) else "fp32"
    return Compute(where, name, chosen)
