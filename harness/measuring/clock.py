"""Time and peak memory of a region of code, measured by the same code on every device.

CUDA: two events on the current stream, with a synchronisation before either host clock is read. CPU: `perf_counter`.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")
Amount = TypeVar("Amount", "Elapsed", float)


@dataclass(frozen=True)
class Elapsed:
    """`seconds` by the device's own clock (CUDA events; on a CPU the host's clock) and `wall_seconds` by the host's."""

    seconds: float = 0.0
    wall_seconds: float = 0.0

    def __add__(self, other: Elapsed) -> Elapsed:
        return Elapsed(self.seconds + other.seconds, self.wall_seconds + other.wall_seconds)


class Clock:
    """Timer of regions on one device. `start` and `stop` bracket a region; regions do not nest."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.device = device
        if self.cuda:
            event: Callable[..., torch.cuda.Event] = torch.cuda.Event  # torch leaves its constructor untyped
            self._first, self._last = event(enable_timing=True), event(enable_timing=True)

    def start(self) -> None:
        """Begin a region, after all work queued on the device before it has finished."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
            self._first.record(torch.cuda.current_stream(self.device))
        self._began = time.perf_counter()

    def stop(self) -> Elapsed:
        """Wait for all work that the region queued on the device, end it, and return its duration."""
        if self.cuda:
            self._last.record(torch.cuda.current_stream(self.device))
            torch.cuda.synchronize(self.device)
        wall = time.perf_counter() - self._began
        return Elapsed(self._first.elapsed_time(self._last) / 1e3 if self.cuda else wall, wall)


def timed(items: Iterator[Item], clock: Clock) -> Iterator[tuple[Item, Elapsed]]:
    """Yield each item with the time spent inside the generator so far; time between two items is not counted."""
    return accumulated(items, clock.start, clock.stop, Elapsed())


def accumulated(
    items: Iterator[Item], start: Callable[[], None], stop: Callable[[], Amount], total: Amount
) -> Iterator[tuple[Item, Amount]]:
    """Yield each item with `total` plus what `stop` returned for each region inside the generator so far."""
    while True:
        start()
        try:
            item = next(items)
        except StopIteration:
            return
        total += stop()
        yield item, total


class PeakMemory:
    """Peak memory since `reset`, in bytes: of CUDA's allocator, or of this process's resident set on a CPU.

    Where the kernel does not let a process reset its own high-water mark, as on macOS, a CPU's figure is the process's peak
    so far. psutil has no such reset: `/proc/self/clear_refs` is the only one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._clear = self._status = None
        if device.type == "cpu":
            # Open for life: the kernel takes longer to find these files than to read or write them.
            with suppress(OSError):
                self._status = _open_for_life(self, Path("/proc/self/status"), os.O_RDONLY)
                self._clear = _open_for_life(self, Path("/proc/self/clear_refs"), os.O_WRONLY)
        self._level: int | None = None  # at the last reset, if that had an effect

    def reset(self) -> None:
        """Start a new measurement."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._clear is not None:
            try:
                os.write(self._clear, b"5")
                self._level = self._high_water()
            except OSError:
                self._level = None

    def added(self) -> int:
        """Return how much a CPU's resident set has grown since `reset`, at its peak; -1 where that is unknown."""
        peak = self._high_water()
        return -1 if peak is None or self._level is None else max(0, peak - self._level)

    def read(self) -> int:
        """Return the peak since `reset`, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = self._high_water()
        return _peak_so_far() if peak is None else peak

    def _high_water(self) -> int | None:
        """The high-water mark of the resident set; None where the kernel does not say."""
        try:
            status = os.pread(self._status, 8192, 0) if self._status is not None else b""
            return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
        except (OSError, IndexError, ValueError):
            return None


def _peak_so_far() -> int:
    """The most memory that this process has had, in bytes; 0 on a system that does not count it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _open_for_life(owner: object, path: Path, flags: int) -> int:
    """Return a file descriptor that is closed when `owner` is garbage-collected."""
    descriptor = os.open(path, flags)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor
