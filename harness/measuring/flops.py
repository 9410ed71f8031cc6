"""FLOPs that a method spends on a group, by torch's counter, during warm-up and never while it is timed.

Matrix products, convolutions and attention are counted, forward and backward, with a multiply-add as two: whatever
`torch.utils.flop_counter` has a formula for. Elementwise operations, BatchNorm, pooling, `torch.cdist` and optimizer steps
count as zero.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import TypeVar

import torch

from pudnet_bench.harness.measuring.contract import fitting
from pudnet_bench.methods.base import Classifier, Dataset, Group, Method, Snapshot

Item = TypeVar("Item")


@dataclass(frozen=True)
class SnapshotFlops:
    """FLOPs of `fit` up to a snapshot, and of the snapshot's classifier per test image."""

    name: str
    epochs: float
    fit: float
    test: float


@dataclass(frozen=True)
class FlopCount:
    """Counts on one group of `images` fit images: its snapshots in order, none where nothing is known."""

    images: int = 0
    snapshots: tuple[SnapshotFlops, ...] = ()

    def of(self, snapshot: Snapshot, images: int) -> tuple[float, float]:
        """Return the FLOPs of `fit` up to `snapshot` of a group of `images` fit images, and those of its classifier per image.

        For a snapshot after the last one counted, the fit FLOPs are extrapolated in proportion to epochs, so work before
        the first epoch is counted once per epoch. Both are NaN where neither applies, or for a group of another size.
        """
        if images != self.images or not self.snapshots:
            return math.nan, math.nan
        for known in self.snapshots:
            if known.name == snapshot.name:
                return known.fit, known.test
        last = self.snapshots[-1]
        if not (last.epochs > 0 and snapshot.epochs > 0):
            return math.nan, math.nan
        return last.fit * snapshot.epochs / last.epochs, last.test


UNKNOWN = FlopCount()


def count(method: Method, group: Group, evaluate: Callable[[Classifier, Dataset], object]) -> FlopCount:
    """Count the FLOPs of fitting `method` to `group` and of `evaluate(classifier, group.test)`, for each snapshot.

    An iterative method is fitted up to its first snapshot with at least one epoch, any other method to its end. Compiled
    code is counted as it is written. Raises RuntimeError if an iterative method compiles, which must happen in its only
    warm-up and not here, or if a method records a CUDA graph; whatever else the method raises passes through.
    """
    snapshots = []
    with _refusing_to_compile() if method.iterative else nullcontext():
        for snapshot, fit in counted(fitting(method, group.fit)):
            with _counter() as spent:
                evaluate(snapshot.classifier, group.test)
            snapshots.append(SnapshotFlops(snapshot.name, float(snapshot.epochs), fit, spent() / len(group.test)))
            if method.iterative and snapshot.epochs > 0:
                break
    return FlopCount(len(group.fit), tuple(snapshots))


def counted(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """Yield each item with the FLOPs spent inside the generator so far; those between two items are not counted."""
    total = 0.0
    while True:
        with _counter() as spent:
            try:
                item = next(items)
            except StopIteration:
                return
        total += spent()
        yield item, total


class _NoModules:
    """Stand-in for the counter's module tracker, whose hooks keep the graph of every counted step alive."""

    @property
    def parents(self) -> frozenset[str]:
        """Modules to which an operation is attributed; read once per operation."""
        initialized: Callable[[], bool] = torch.cuda.is_initialized  # torch leaves it untyped
        if initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("it records a CUDA graph, and the replays of a graph cannot be counted")
        return _EVERYWHERE

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_EVERYWHERE = frozenset({"Global"})


@contextmanager
def _counter() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the FLOPs spent in the block so far."""
    from torch.utils.flop_counter import FlopCounterMode  # here: the import takes a fifth of a second

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        if "torch._dynamo" not in sys.modules:
            # torch imports its compiler only to shield the counter from it: seconds, in a process that never compiles.
            mode = counter.mode
            assert mode is not None
            unguarded = MethodType(inspect.unwrap(type(mode).__torch_dispatch__), mode)
            mode.__torch_dispatch__ = unguarded  # type: ignore[method-assign]
        yield counter.get_total_flops


def _refusing_to_compile() -> AbstractContextManager[None]:
    stance: AbstractContextManager[None] = torch.compiler.set_stance("fail_on_recompile")
    return stance
