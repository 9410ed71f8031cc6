"""Two pieces of work timed turn by turn in one process, and what one takes in units of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from pudnet_bench.harness.measuring.clock import Clock


@dataclass(frozen=True)
class Ratio:
    """``value`` is the median over ``rounds`` of seconds of the work over seconds of ``against``, one pair a round.

    ``seconds`` and ``against_seconds`` are medians. ``goal`` is the largest value that meets it, or the smallest where
    ``more_is_better``; None where nothing is asked.
    """

    name: str
    against: str
    value: float
    seconds: float
    against_seconds: float
    rounds: int
    goal: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def interleaved(
    name: str,
    work: Callable[[], Any],
    against: str,
    other: Callable[[], Any],
    device: torch.device,
    *,
    rounds: int = 7,
    goal: float | None = None,
    inverse: bool = False,
) -> Ratio:
    """Time ``work`` and ``other`` turn by turn, once before to warm up. ``inverse``: speed instead of time, more is better."""
    clock = Clock(device)

    def seconds(piece: Callable[[], Any]) -> float:
        clock.start()
        piece()
        return clock.stop().wall_seconds

    other(), work()
    pairs = [(seconds(work), seconds(other)) for _ in range(rounds)]
    value = median(theirs / ours if inverse else ours / theirs for ours, theirs in pairs)
    return Ratio(
        name,
        against,
        value,
        median(ours for ours, _ in pairs),
        median(theirs for _, theirs in pairs),
        rounds,
        goal,
        inverse,
    )
