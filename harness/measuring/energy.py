"""Energy that a device uses over a region of code, in joules, where the device reports it.

CUDA: NVML's counter of the whole GPU (Volta and later), updated every 20 to 100 ms. CPU: the package domains of Linux's
powercap folder (RAPL, on Intel and AMD; often readable by root only), updated about every millisecond, without the memory
modules. Elsewhere nothing is reported.

A counter includes idle power and other processes. For a region shorter than the update interval, such as one prediction on
a GPU, a reading is noise and often zero; the mean over many groups is then the average power around them times their length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from pudnet_bench.harness.measuring.clock import Item, accumulated

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """A cumulative counter of joules that wraps to zero at `range`; `read` raises OSError where it cannot be read."""

    name: str
    read: Callable[[], float]
    range: float = math.inf

    def since(self, before: float) -> float:
        """Return the joules since it read `before`; too few if it wrapped more than once."""
        now = self.read()
        return now - before if now >= before else now + self.range - before


class EnergyMeter:
    """Meter of the energy of regions on one device. `start` and `stop` bracket a region; regions do not nest.

    A reading takes microseconds on a CPU and more on a GPU, so take it outside of what a clock times.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        """Find the counters of `device`; `powercap` is the kernel's folder of that name."""
        self.device = device
        self.counters = gpu_counters(device) if device.type == "cuda" else package_counters(powercap)

    def start(self) -> None:
        """Begin a region, after all work queued on the device before it has finished."""
        self._synchronize()
        try:
            self._before = [counter.read() for counter in self.counters]
        except OSError:
            self._before = []

    def stop(self) -> float:
        """Wait for all work that the region queued and return its joules over all counters; NaN where none reports."""
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
    """Yield each item with the joules used inside the generator so far; use between two items is not counted."""
    return accumulated(items, meter.start, meter.stop, 0.0)


def package_counters(powercap: Path) -> tuple[EnergyCounter, ...]:
    """Return a counter for each processor package in the folder `powercap`; none where one of them cannot be read.

    Sub-domains (cores, memory) are parts of a package, and "psys" (the whole board) contains it: neither is counted. A
    package listed by two interfaces counts once.
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
        raise OSError(f"{file} does not hold a number") from error


def gpu_counters(device: torch.device) -> tuple[EnergyCounter, ...]:
    """Return the counter of a CUDA device; none where NVML or the GPU has none (older GPUs, MIG instances)."""
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
