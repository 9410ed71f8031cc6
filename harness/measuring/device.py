"""Device and precision of a run: one choice for all of its methods."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pudnet_bench.errors import BenchError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


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
        if self.precision == "fp32":
            return nullcontext
        import torch

        return partial(torch.autocast, self.device.type, torch.bfloat16)


def core_count() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the CPU model and the number of cores this process may use."""
    try:
        # By hand: Python's platform module does not give the model on Linux. Line by line: one core's lines are enough.
        with Path("/proc/cpuinfo").open() as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        model = platform.processor() or platform.machine()
    return f"{model}, {core_count()} cores"


def machine(device: str) -> str | None:
    """What `choose_device(device)` goes by here, found without torch; None where only torch knows.

    That is the processor, its instructions, and that torch can see no other device: neither is there a CUDA driver that could
    be loaded, nor a device of AMD's.
    """
    if device != "cpu" and (device != "auto" or _loads("libcuda.so.1") or Path("/dev/kfd").exists()):
        return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    instructions = next((line for line in lines if line.startswith(("flags", "Features"))), None)
    return instructions and f"{processor_name()} {instructions}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def native_bf16(device: torch.device) -> bool:
    """Return whether `device` has native bfloat16 instructions, and so multiplies faster in bfloat16 than in float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))


def choose_device(device: str = "auto", precision: str = "auto") -> Compute:
    """Return the device and precision asked for.

    Args:
        device: "cpu", "cuda" or "auto" (CUDA where torch sees a GPU).
        precision: "fp32", "bf16" or "auto" (bfloat16 where the device has instructions for it).

    Raises:
        ComputeError: This machine lacks the device, or an argument is none of these.
    """
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
    chosen = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
    name = torch.cuda.get_device_name(chosen) if device == "cuda" else processor_name()
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(chosen))
    return Compute(chosen, name, "bf16" if bf16 else "fp32")
