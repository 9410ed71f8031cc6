"""Energy: the joules that a device has used over a region, where it reports them.

CUDA: NVML's counter of the whole GPU (Volta and later), which is brought up to date every 20 to 100 ms. CPU: the package
domains of Linux's powercap folder (Intel's RAPL, also on AMD), about every millisecond: cores, caches and what else is in
the package, memory modules not. Elsewhere nothing is reported; the files of powercap are often readable by root only.

A counter does not know whose work it counts: other processes and idling are in it. A region shorter than an update, such as a
single prediction on a GPU, has a figure that is noise, often zero; the mean over many groups is then the power in the
time around the regions, multiplied by their length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """Joules since some moment: ``read`` raises OSError where it cannot. Past ``range`` joules it begins again at zero."""

    name: str
    read: Callable[[], float]
    range: float = math.inf

    def since(self, before: float) -> float:
        """Joules since it read ``before``; a counter that has begun again more than once tells too few."""
        now = self.read()
        return now - before if now >= before else now + self.range - before


class EnergyMeter:
    """Joules of regions on one device. ``start`` and ``stop`` bracket a region; regions do not nest.

    Reading takes some microseconds on a CPU and more on a GPU: outside of what a clock times.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        """``powercap`` is the folder of that name in the kernel's tree of classes."""
        self.device = device
        self.counters = gpu_counters(device) if device.type == "cuda" else package_counters(powercap)

    def start(self) -> None:
        """Begin a region; whatever was queued on the device before is finished first."""
        self._synchronize()
        try:
            self._before = [counter.read() for counter in self.counters]
        except OSError:
            self._before = []

    def stop(self) -> float:
        """Joules of all counters since ``start``, when all that the region queued is done; NaN where nothing is reported."""
        self._synchronize()
        if not self._before:
            return math.nan
        try:
            return sum(counter.since(was) for counter, was in zip(self.counters, self._before, strict=True))
        except OSError:
            return math.nan

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def metered(items: Iterator[Item], meter: EnergyMeter) -> Iterator[tuple[Item, float]]:
    """The items of a generator with the joules used inside it so far; what happens between two items is not counted."""
    total = 0.0
    while True:
        meter.start()
        try:
            item = next(items)
        except StopIteration:
            return
        total += meter.stop()
        yield item, total


def package_counters(powercap: Path) -> tuple[EnergyCounter, ...]:
    """A counter for each processor package in the folder ``powercap``; none where one of them cannot be read.

    A package's sub-domains (cores, memory) are parts of it, and "psys", the whole board, contains it; a package that is
    there twice, by another interface, counts once.
    """
    found: dict[str, EnergyCounter] = {}
    try:
        for domain in sorted(powercap.iterdir(), key=lambda path: (len(path.name), path.name)):
            name = domain / "name"
            if not name.exists():
                continue
            package = name.read_text().strip()
            if package.startswith("package-") and package not in found:
                read = partial(_joules, domain / "energy_uj")
                found[package] = EnergyCounter(package, read, _joules(domain / "max_energy_range_uj"))
                read()
    except OSError:
        return ()
    return tuple(found.values())


def _joules(file: Path) -> float:
    try:
        return int(file.read_text()) / 1e6
    except ValueError as error:
        raise OSError(f"{file} holds no number") from error


def gpu_counters(device: torch.device) -> tuple[EnergyCounter, ...]:
    """The counter of a CUDA device; none where NVML or the GPU has none (older ones, and parts of one under MIG)."""
    counter = _nvml_counter(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return () if counter is None else (counter,)


@cache
def _nvml_counter(uuid: str) -> EnergyCounter | None:
    try:
        import pynvml
    except ImportError:
        return None

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    try:
        pynvml.nvmlInit()
        # By its UUID: NVML numbers all GPUs, torch those that CUDA_VISIBLE_DEVICES leaves.
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        read()
    except (pynvml.NVMLError, OSError):
        return None
    return EnergyCounter(uuid, read)
