"""Device and precision of a run: one choice for all of its methods."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pudnet_bench.errors import BenchError
from pudnet_bench.harness.measuring.quota import cpu_quota

if TYPE_CHECKING:
    import torch


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class DeviceKind(StrEnum):
    """A kind of device; `auto` is CUDA where torch sees it."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """Precision of forward passes; `auto` is bf16 where the device has instructions for it."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"

    def resolved(self, bf16: bool) -> Precision:
        """Return the precision, `auto` replaced by bf16 where that is the faster one."""
        return self if self != Precision.AUTO else Precision.BF16 if bf16 else Precision.FP32


class ComputeError(BenchError):
    """A device or precision that this machine does not have."""


@dataclass(frozen=True)
class Compute:
    """A device, its name, and the precision of forward passes.

    `bf16` means autocast: parameters, optimizer state and losses stay float32.
    """

    device: torch.device
    name: str
    precision: Precision

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Context manager for forward passes in this precision."""
        if self.precision == Precision.FP32:
            return nullcontext
        import torch

        return partial(torch.autocast, self.device.type, torch.bfloat16)


def core_count() -> int:
    """Return the number of cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no such call, and a sandbox may forbid it
        return os.cpu_count() or 1


def thread_limit() -> int:
    """Return how many threads can compute at once: a CPU quota in whole cores, at least 1, or else every core."""
    return max(1, int(min(core_count(), cpu_quota() or math.inf)))


def limit_threads() -> None:
    """Let torch use no more threads than a CPU quota has cores for, unless the user's environment says how many.

    With more, all of them are stopped together once the quota is used up.
    """
    import torch

    if not any(os.environ.get(name) for name in THREAD_VARIABLES) and torch.get_num_threads() > thread_limit():
        torch.set_num_threads(thread_limit())


def quota_text() -> str:
    """Return ", CPU quota of 1.5 cores", or "" where no quota is below the number of cores."""
    quota = cpu_quota()
    return f", CPU quota of {quota:.3g} cores" if quota is not None and quota < core_count() else ""


def processor_name() -> str:
    """Return the CPU model, the number of cores this process may use, and a smaller CPU quota."""
    try:
        # By hand: Python's platform module does not give the model on Linux. Line by line: one core's lines are enough.
        with Path("/proc/cpuinfo").open() as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = _model_elsewhere()
    return f"{model}, {core_count()} cores{quota_text()}"


def _model_elsewhere() -> str:
    """The CPU model on other systems: macOS tells it to `sysctl` alone."""
    import platform

    try:
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        told = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        told = ""
    return told or platform.processor() or platform.machine()


def native_bf16(device: torch.device) -> bool:
    """Return whether `device` has native bfloat16 instructions, and so multiplies faster in bfloat16 than in float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def choose_device(device: DeviceKind | str = DeviceKind.AUTO, precision: Precision | str = Precision.AUTO) -> Compute:
    """Return the device and precision of this machine, and let torch's threads follow its CPU quota.

    Raises ComputeError where it lacks the device.
    """
    import torch

    limit_threads()
    kind = DeviceKind(device)
    if kind == DeviceKind.AUTO:
        kind = DeviceKind.CUDA if torch.cuda.is_available() else DeviceKind.CPU
    if kind == DeviceKind.CPU:
        where, name = torch.device("cpu"), processor_name()
    elif torch.cuda.is_available():
        where = torch.device("cuda", torch.cuda.current_device())
        name = torch.cuda.get_device_name(where)
    else:
        remedy = "use --device cpu, or check `python -m harness doctor`"
        raise ComputeError(f"--device cuda: torch sees no CUDA device here; {remedy}")
    return Compute(where, name, Precision(precision).resolved(native_bf16(where)))
