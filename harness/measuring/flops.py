"""FLOPs: what a method computes for a group, by torch's own counter; counted while it warms up, never while it is timed.

Counted are products of matrices, convolutions and attention, forward and backward: whatever ``torch.utils.flop_counter``
has a formula for, a multiplication and an addition as two. Elementwise operations, BatchNorm, pooling, distances by
``torch.cdist`` and the steps of optimisers count nothing.
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

from pudnet_bench.methods.base import Classifier, Dataset, Group, Method, Snapshot

Item = TypeVar("Item")


@dataclass(frozen=True)
class SnapshotFlops:
    """FLOPs of ``fit`` until a snapshot was handed over, and of its classifier per test image."""

    name: str
    epochs: float
    fit: float
    test: float


@dataclass(frozen=True)
class FlopCount:
    """What was counted on one group, of ``images`` fit images: its snapshots in order, none where nothing is known."""

    images: int = 0
    snapshots: tuple[SnapshotFlops, ...] = ()

    def of(self, snapshot: Snapshot, images: int) -> tuple[float, float]:
        """FLOPs of ``fit`` until ``snapshot`` of a group of ``images`` fit images, and of its classifier per test image.

        A snapshot that was not counted has the fit FLOPs of the last one that was, in proportion to their epochs: what comes
        before the first epoch is then counted as often as epochs are. NaN where neither can be said, and for a group of
        another size.
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
    """The FLOPs of fitting ``method`` to ``group`` and of ``evaluate(classifier, group.test)``, for each snapshot.

    An iterative method is fitted until the first snapshot that has made an epoch; any other, and one without ``epochs``,
    to its end. Nothing is compiled meanwhile: what a compiler would make of the method is counted as it is written. But an
    iterative method that asks for one raises RuntimeError: its only warm-up has to be the one that compiles. So does a method
    that records a CUDA graph. Raises whatever the method raises, also because it does not bear to be counted.
    """
    snapshots = []
    with _refusing_to_compile() if method.iterative else nullcontext():
        for snapshot, fit in counted(iter(method.fit(group.fit))):
            with _counter() as spent:
                evaluate(snapshot.classifier, group.test)
            snapshots.append(SnapshotFlops(snapshot.name, float(snapshot.epochs), fit, spent() / len(group.test)))
            if method.iterative and snapshot.epochs > 0:
                break
    return FlopCount(len(group.fit), tuple(snapshots))


def counted(items: Iterator[Item]) -> Iterator[tuple[Item, float]]:
    """The items of a generator with the FLOPs spent inside it so far; what happens between two items is not counted."""
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
    """In the place of the counter's record of modules, whose hooks hold on to the graph of every step that was counted."""

    @property
    def parents(self) -> frozenset[str]:
        """Where an operation counts; asked for each."""
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("it records a CUDA graph, and what a graph replays cannot be counted")
        return _EVERYWHERE

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_EVERYWHERE = frozenset({"Global"})


@contextmanager
def _counter() -> Iterator[Callable[[], float]]:
    """Yields what tells how many FLOPs the block has spent so far."""
    from torch.utils.flop_counter import FlopCounterMode  # a fifth of a second, for those who count

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        if "torch._dynamo" not in sys.modules:
            # torch guards the counter against its compiler, for which it imports that: seconds, in a process that has no
            # use for a compiler, and nothing to guard against.
            mode = counter.mode
            assert mode is not None
            unguarded = MethodType(inspect.unwrap(type(mode).__torch_dispatch__), mode)
            mode.__torch_dispatch__ = unguarded  # type: ignore[method-assign]
        yield counter.get_total_flops


def _refusing_to_compile() -> AbstractContextManager[None]:
    return torch.compiler.set_stance("fail_on_recompile")
