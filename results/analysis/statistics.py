"""Pure functions: means and their intervals, paired tests, break-even points, Pareto fronts, comparable times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MeanCI:
    """A mean and the half width of its confidence interval, in the unit of the values; n is their number."""

    mean: float
    half_width: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b, its bootstrap interval [low, high], Wilcoxon's p-value, and the number of pairs."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int


def mean_ci(values: ArrayLike, confidence: float = 0.95) -> MeanCI:
    """Mean and t interval of `values` [n]. The half width is NaN for n < 2, the mean too for n = 0."""
    from scipy.special import stdtrit  # scipy.stats.t.ppf is the same number, but takes a second to import

    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return MeanCI(float(array[0]) if array.size else math.nan, math.nan, array.size)
    quantile = stdtrit(array.size - 1, 0.5 + confidence / 2)
    half_width = quantile * array.std(ddof=1) / math.sqrt(array.size)
    return MeanCI(float(array.mean()), float(half_width), array.size)


def paired(
    a: ArrayLike, b: ArrayLike, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """Compare two methods on the same groups: a[i] and b[i] are measured on group i.

    The interval is the percentile bootstrap of the mean of a - b over groups (the same for the same seed), p the
    two-sided Wilcoxon signed-rank test: 1.0 when all differences are zero. Everything is NaN for n = 0.
    Raises ValueError for different lengths or values that are not finite.
    """
    if np.shape(a) != np.shape(b) or np.ndim(a) != 1:
        raise ValueError(f"pairs need two lists of the same length, not {np.shape(a)} and {np.shape(b)}")
    difference = _differences(a, b)
    if not np.isfinite(difference).all():
        raise ValueError("pairs need finite values")
    n = difference.size
    if n == 0:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan, 0)

    generator = np.random.default_rng(seed)
    at_once = max(1, 2_000_000 // n)  # bounds the memory of the index array to 16 MB
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate([difference[generator.integers(0, n, size=(size, n))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return PairedDifference(float(difference.mean()), float(low), float(high), _wilcoxon(difference), n)


def wilcoxon_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """p of the two-sided Wilcoxon signed-rank test of pairs a[i], b[i]: 1.0 without a difference, NaN without a pair."""
    difference = _differences(a, b)
    return _wilcoxon(difference) if difference.size else math.nan


def _differences(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Accuracies are fractions k / n: rounding makes equal differences equal again, so that Wilcoxon sees the ties."""
    return np.asarray(np.round(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), 12))


ALL_SIGNS = (
    13  # pairs up to which p is over all assignments of signs; beyond, scipy chooses: exact, or asymptotic with ties
)


def _wilcoxon(difference: np.ndarray) -> float:
    changed = difference[difference != 0]
    if changed.size < 2:
        return 1.0
    from scipy.stats import permutation_test, rankdata, wilcoxon

    if difference.size > ALL_SIGNS:
        return float(wilcoxon(difference).pvalue)
    # As scipy's wilcoxon for so few pairs, ties and zeros included, in a fortieth of its time: that ranks every assignment.
    signed = np.sign(changed) * rankdata(np.abs(changed))
    positive = permutation_test(
        (signed,), lambda x, axis: x.clip(0).sum(axis), permutation_type="samples", vectorized=True
    )
    return float(positive.pvalue)


def smallest_p_value(pairs: int) -> float:
    """The smallest p that Wilcoxon's two-sided test can give for so many pairs: all differences of one sign."""
    return min(1.0, 2.0 ** (1 - pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: one below 0.05 is significant at 5% over the whole family (Holm 1979).

    The k-th smallest of n is multiplied by n - k + 1, is at least as large as the one before, and at most 1.
    Raises ValueError for a p-value that is not in 0..1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values lie between 0 and 1")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)))
    return [float(value) for value in adjusted]


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
