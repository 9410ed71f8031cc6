"""Pure functions: means, break-even points, Pareto fronts, comparable times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def mean_over_splits(rows: pd.DataFrame, column: str) -> float:
    """Mean of `column`, each class split weighing alike, as in `intervals.estimate`; NaN without rows."""
    return float(rows.groupby("split")[column].mean().mean())


def break_even_epoch(curve: pd.DataFrame, level: float) -> float | None:
    """The epoch at which training from scratch reaches `level`, or None if it never does.

    `curve` has the columns `epochs` and `accuracy` (mean over groups, in the unit of `level`), one row per measured
    epoch. Accuracy is interpolated linearly between measured epochs and not extrapolated before the first, so a curve
    that starts at or above the level breaks even at its first epoch.
    """
    ordered = curve.sort_values("epochs")
    before: tuple[float, float] | None = None
    for epoch, accuracy in zip(ordered["epochs"].tolist(), ordered["accuracy"].tolist(), strict=True):
        if accuracy >= level:
            if before is None:
                return float(epoch)
            share = (level - before[1]) / (accuracy - before[1])
            return float(before[0] + share * (epoch - before[0]))
        before = (epoch, accuracy)
    return None


def break_even_count(meta_train_seconds: float, predict_seconds: float, scratch_seconds: float) -> int | None:
    """Smallest number n of datasets with meta_train + n * predict <= n * scratch (all in seconds, at least 0).

    0 if there was no meta-training to pay for; None if it never pays, or if a time is not known (NaN or infinite).
    """
    times = (meta_train_seconds, predict_seconds, scratch_seconds)
    if not all(map(math.isfinite, times)):
        return None
    meta, predict, scratch = map(Fraction, times)  # a rounded quotient could be off by one dataset
    if meta <= 0:
        return 0
    return None if scratch <= predict else math.ceil(meta / (scratch - predict))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) pairs that no other dominates, in order of cost.

    A pair is dominated by one that costs at most as much with at least the value, and is better in one of the two.
    Equal pairs are all on the front or all off it.
    """
    front: list[int] = []
    highest = -math.inf
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        value = points[index][1]
        if value > highest or (front and points[front[-1]] == points[index]):
            front.append(index)
            highest = value
    return front


def of_one_thread_count(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows that a mean time of `rows` is over, and their thread count (0 if unknown).

    Times of different thread counts never enter one mean: the rows are those of the most frequent count, and of the
    largest among equally frequent ones.
    """
    counts = rows["threads"].value_counts()
    threads = int(counts.index[counts == counts.max()].max()) if len(counts) else 0
    return rows[rows["threads"] == threads], threads
