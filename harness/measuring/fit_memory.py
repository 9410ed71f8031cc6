"""Memory that a fit adds on a CPU, where the process holds much that no fit has asked for.

What a process holds depends on what ran before: libraries, images, and memory that was freed but not given back, from which
a later fit is served without the process growing. So the memory of a fit is measured in one of its own, after all that is
free has been given back. That makes the next fits slower, so it is never a timed one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import torch

from pudnet_bench.harness.measuring.clock import PeakMemory
from pudnet_bench.methods.base import Snapshot

UNKNOWN = -1  # bytes


class FitMemory:
    """The most that a fit adds to this process up to each of its snapshots; UNKNOWN where the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._memory = device, PeakMemory(device)
        self._added: list[int] = []  # in the fit of its own, by snapshot
        self._present = UNKNOWN  # in the present one until its first snapshot

    def can_measure(self) -> bool:
        """Return whether a fit of its own tells anything here."""
        self.begin()
        return self.device.type == "cpu" and self._memory.added() >= 0 and hasattr(_library(), "malloc_trim")

    def measure(self, snapshots: Iterator[Snapshot], iterative: bool) -> Iterator[Snapshot]:
        """Yield the snapshots of a fit, of an iterative method up to the first with an epoch, and note what they add."""
        library = _library()
        assert library is not None
        library.malloc_trim(0)
        self.begin()
        for snapshot in snapshots:
            self._added.append(self._memory.added())
            yield snapshot
            if iterative and isinstance(snapshot, Snapshot) and snapshot.epochs > 0:
                return

    def begin(self) -> None:
        """Begin a fit."""
        self._memory.reset()

    def until(self, snapshot: int) -> int:
        """Return the bytes until the snapshot of that number of the present fit: CUDA's own figure, or the larger of two.

        What the process grew by is too little where the fit was served from freed memory, and the fit of its own may have
        been that of a smaller group. Only the first snapshot's growth counts: the others follow an evaluation.
        """
        if self.device.type == "cuda":
            return self._memory.read()
        if snapshot == 0:
            self._present = self._memory.added()
        return max(self._present, self._added[min(snapshot, len(self._added) - 1)]) if self._added else UNKNOWN


def _library() -> ctypes.CDLL | None:
    """The C library of this process; None on a system that does not name it so."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
