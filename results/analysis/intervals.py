"""Means over groups, with an interval for each unit that they may be generalised over: splits, classes, groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pudnet_bench.results.analysis.class_effects import Groups, fit, standard_error

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["splits", "classes", "groups", ""]

PAIR = ["split", "seed", "group"]  # what two rows share that are measured on the same group
SMALLEST = 6  # units below which no interval is given
LEAST_DF = (
    2.0  # the class-effects model gives none of fewer: some are as wide as the scale, and those of more cover 95%
)
SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What a t interval of one unit needs: `units` that were seen, the mean's standard error, its degrees of freedom."""

    unit: Unit
    units: int
    standard_error: float
    df: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with every interval that its data allow; `unit` names the one to print, "" for none.

    The mean has the unit of the values and weighs every split alike. n counts groups, `tuples` distinct sets of classes.
    """

    mean: float
    n: int
    splits: int
    seeds: int
    tuples: int
    classes: int
    intervals: Mapping[Unit, Interval]
    unit: Unit

    def half_width(self, confidence: float = 0.95, unit: Unit | None = None) -> float:
        """Half width of the interval of `unit` (the one to print unless given); NaN where there is none."""
        from scipy.special import stdtrit  # scipy.stats.t.ppf is the same number, but takes a second to import

        interval = self.intervals.get(self.unit if unit is None else unit)
        if interval is None:
            return math.nan
        return float(stdtrit(interval.df, 0.5 + confidence / 2) * interval.standard_error)

    def detectable(self, power: float = 0.8) -> float:
        """The smallest mean, either way, that the test at 5% would find with this `power`; NaN without an interval.

        That is (t_0.975 + t_power) standard errors, which is the usual approximation to the noncentral t.
        """
        from scipy.special import stdtrit

        interval = self.intervals.get(self.unit)
        if interval is None:
            return math.nan
        return self.half_width() + float(stdtrit(interval.df, power) * interval.standard_error)

    @property
    def p_value(self) -> float:
        """Two-sided p of a mean of 0, by the printed interval; NaN without one."""
        from scipy.special import stdtr

        interval = self.intervals.get(self.unit)
        if interval is None:
            return math.nan
        if interval.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(interval.df, -abs(self.mean) / interval.standard_error))


def estimate(rows: pd.DataFrame, values: ArrayLike) -> Estimate:
    """Mean of `values` [n] of the groups that `rows` names, and its intervals.

    Args:
        rows: Columns `split`, `seed`, `group`, `classes` (the group's class ids, separated by spaces; "" if not known).
        values: One number for each row, in any unit.
    """
    array = np.asarray(values, dtype=np.float64)
    split = rows["split"].to_numpy()
    tuples = class_tuples(rows)
    distinct = set(tuples)
    classes = {each for one in distinct for each in one}
    means = np.array([array[split == each].mean() for each in np.unique(split)])
    intervals: dict[Unit, Interval] = {}
    if means.size >= SMALLEST:
        intervals["splits"] = _t(means, "splits")
    if means.size == 1 and array.size >= SMALLEST:
        intervals["groups"] = _t(array, "groups")
    by_class = () not in distinct and len(distinct) >= SMALLEST
    if by_class:
        error, df = standard_error(array, Groups(split=split, seed=rows["seed"].to_numpy(), tuples=tuples))
        if df >= LEAST_DF:
            intervals["classes"] = Interval(unit="classes", units=len(classes), standard_error=error, df=df)
    # Groups of classes that a mean cannot be generalised from are not passed off as all that there is to know.
    order: tuple[Unit, ...] = ("splits", "classes" if by_class else "groups")
    return Estimate(
        mean=float(means.mean()) if means.size else math.nan, n=array.size, splits=means.size,
        seeds=rows["seed"].nunique(), tuples=len(distinct - {()}), classes=len(classes), intervals=intervals,
        unit=next((unit for unit in order if unit in intervals), ""),
    )  # fmt: skip


def _t(units: NDArray[np.float64], unit: Unit) -> Interval:
    """The interval of a mean of independent units [n]; exactly equal ones have a standard error of 0."""
    error = 0.0 if np.ptp(units) == 0 else float(units.std(ddof=1)) / math.sqrt(units.size)
    return Interval(unit=unit, units=units.size, standard_error=error, df=units.size - 1.0)


def class_tuples(rows: pd.DataFrame) -> list[tuple[int, ...]]:
    """The sorted class ids of each row: which class has which label plays no part. () where they are not known."""
    return list(map(_sorted_ids, rows["classes"].tolist()))


@lru_cache(maxsize=200_000)  # all methods of a table are measured on the same groups
def _sorted_ids(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split())))


def common_groups(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The rows of `a` and of `b` of the groups that both measured, in the same order, and how many are not the same.

    Groups of the same numbers (`PAIR`) with other class ids are drawn from other streams; unknown ids ("") are no others.
    """
    ours, theirs = (rows.set_index(PAIR, drop=False) for rows in (a, b))
    common = ours.index.intersection(theirs.index).sort_values()
    ours, theirs = ours.loc[common].reset_index(drop=True), theirs.loc[common].reset_index(drop=True)
    other = (ours["classes"] != theirs["classes"]) & (ours["classes"] != "") & (theirs["classes"] != "")
    return ours[~other], theirs[~other], int(other.sum())


def paired_rows(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The groups that both measured: `PAIR`, `classes`, `accuracy_a`, `accuracy_b` (0..1), sorted by `PAIR`.

    Class ids are those of `a`, and those of `b` where `a` has none.
    """
    ours, theirs, _ = common_groups(a, b)
    classes = ours["classes"].where(ours["classes"] != "", theirs["classes"])
    return ours[PAIR].assign(classes=classes, accuracy_a=ours["accuracy"], accuracy_b=theirs["accuracy"])


def last_snapshots(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group (`PAIR`): the snapshot that took longest, which is the last one yielded."""
    return rows.sort_values("seconds", kind="stable").drop_duplicates(PAIR, keep="last")


def estimate_difference(a: pd.DataFrame, b: pd.DataFrame) -> Estimate:
    """Mean of a - b in percentage points over the groups that both measured, with its intervals.

    Accuracies are fractions k / n: differences are rounded to 12 digits, so that equal ones are equal.
    """
    both = paired_rows(a, b)
    return estimate(both, np.round(100 * (both["accuracy_a"] - both["accuracy_b"]), 12))


@dataclass(frozen=True, kw_only=True)
class Simultaneous:
    """Holm's verdict on one of several comparisons: below 0.05 the `adjusted_p` is significant over the whole family.

    The comparison's own interval at `confidence` excludes 0 exactly then.
    """

    adjusted_p: float
    confidence: float


def simultaneous(p_values: Sequence[float], level: float = SIGNIFICANCE) -> list[Simultaneous]:
    """Holm's step-down over a family of tests, in the order given (Holm 1979); NaN, which is no test, stays NaN.

    The k-th smallest of m is tested at level / (m - k + 1), and from the first that fails on, all have its level.
    Raises ValueError for a p-value that is not in 0..1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    tested = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]  # NaN sorts last
    factors = np.arange(tested.size, 0, -1)
    adjusted, confidence = np.full_like(values, np.nan), np.full_like(values, np.nan)
    adjusted[tested] = np.minimum(1.0, np.maximum.accumulate(values[tested] * factors))
    rejected = int((adjusted < level).sum())
    last = factors[min(rejected, tested.size - 1)] if tested.size else 1
    confidence[tested] = 1 - level / np.maximum(factors, last)
    return [Simultaneous(adjusted_p=float(p), confidence=float(c)) for p, c in zip(adjusted, confidence, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Component:
    """What one source of variation adds to the variance of a mean; everything but `units` is NaN where it cannot be told.

    Attributes:
        units: How many there are: class splits, distinct tuples, trainings, groups.
        deviation: Standard deviation that it gives to one group's value.
        share: Variance of the mean that it accounts for.
        doubled: Standard error of the mean with twice the splits; else with twice the classes, trainings (each with as many
            groups) or groups in each split.
    """

    units: int
    deviation: float
    share: float
    doubled: float


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """Where the variance of a mean over groups comes from, by the class-effects model.

    `split` includes the trainings as long as each split has one, and the classes where these are not known; `tuple` is what
    classes, and their combinations in a tuple, add.
    """

    standard_error: float
    split: Component
    tuple: Component
    training: Component
    group: Component


def variance_components(rows: pd.DataFrame, values: ArrayLike) -> VarianceComponents:
    """Where the variance of the mean of `values` [n] comes from; arguments as for `estimate`. All is NaN for n < 2."""
    array = np.asarray(values, dtype=np.float64)
    tuples, split, seed = class_tuples(rows), rows["split"].to_numpy(), rows["seed"].to_numpy()
    known = all(tuples) and len(set(tuples)) >= SMALLEST
    groups = Groups(split=split, seed=seed, tuples=tuples if known else [()] * len(tuples))
    effects = groups.effects()
    variances = fit(array, effects).variances if array.size > 1 else {}
    shares = dict(zip(variances, groups.shares(effects) * list(variances.values()), strict=True)) if variances else {}
    total = sum(shares.values()) if shares else math.nan

    def component(units: int, own: Sequence[str], halved: Sequence[str]) -> Component:
        told = [name for name in own if name in variances]
        if not told:
            return Component(units=units, deviation=math.nan, share=math.nan, doubled=math.nan)
        variance = sum(variances[name] / (len(tuples[0]) if name == "class" else 1) for name in told)
        left = total - sum(shares.get(name, 0.0) for name in halved) / 2
        share = float(sum(shares[name] for name in told))
        return Component(units=units, deviation=math.sqrt(variance), share=share, doubled=math.sqrt(left))

    return VarianceComponents(
        standard_error=math.sqrt(total),
        split=component(len(set(split.tolist())), ["split"], list(variances)),
        tuple=component(len(set(tuples) - {()}), ["class", "tuple"], ["class", "tuple"]),
        training=component(
            len(set(zip(split.tolist(), seed.tolist(), strict=True))), ["training"], ["training", "residual"]
        ),
        group=component(array.size, ["residual"], ["residual"]),
    )
