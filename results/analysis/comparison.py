"""Significant differences: within a table, and between two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pudnet_bench.results.analysis.intervals import (
    SIGNIFICANCE,
    Estimate,
    common_groups,
    estimate,
    estimate_difference,
    simultaneous,
)
from pudnet_bench.results.analysis.statistics import mean_over_splits, of_one_thread_count

if TYPE_CHECKING:
    import pandas as pd

Rank = Literal["", "best", "second"]
Place = tuple[str, str, str]  # (method, snapshot, family)

PLACE = ["method", "snapshot", "family", "target"]
COMPARISON = (
    *PLACE, "same_cell", "n", "splits", "other_classes", "accuracy_a", "accuracy_b", "difference", "low", "high",
    "interval", "p_value", "p_holm", "verdict", "seconds_a", "seconds_b", "ratio", "threads_a", "threads_b",
    "same_threads",
)  # fmt: skip


def estimates(frame: pd.DataFrame) -> dict[Place, Estimate]:
    """The accuracy in percent of every method and snapshot in each family, for rows of one device and target."""
    return {
        (str(method), str(snapshot), str(family)): estimate(rows, 100 * rows["accuracy"])
        for (method, snapshot, family), rows in frame.groupby(["method", "snapshot", "family"], sort=False)
    }


def ranks(frame: pd.DataFrame, found: Mapping[Place, Estimate]) -> dict[Place, Rank]:
    """Rank of every method and snapshot in its family, for rows of one device and target with these `estimates`.

    "best": the highest mean, and those whose paired difference to it is not significant (Holm over all such tests of the
    frame, 5%). "second": the highest mean of the rest. Means are compared as printed, with two decimals. What has no
    interval has no rank, nor has any of its family if it leads it; a difference without one makes no tie.
    """
    rows = {
        (str(method), str(snapshot), str(family)): part
        for (method, snapshot, family), part in frame.groupby(["method", "snapshot", "family"], sort=False)
    }
    means = {place: round(found[place].mean, 2) for place in rows}
    families: dict[str, list[Place]] = {}
    for place in rows:
        families.setdefault(place[2], []).append(place)
    leaders = {
        family: max(places, key=lambda place: (means[place], bool(found[place].unit)))
        for family, places in families.items()
    }
    led = [place for place in rows if found[place].unit and found[leaders[place[2]]].unit]
    behind = [place for place in led if means[place] != means[leaders[place[2]]]]
    tests = simultaneous([estimate_difference(rows[leaders[place[2]]], rows[place]).p_value for place in behind])
    tied = {place for place, test in zip(behind, tests, strict=True) if test.adjusted_p >= SIGNIFICANCE}  # NaN is not
    ranked: dict[Place, Rank] = dict.fromkeys(rows, "")
    for family, places in families.items():
        best = {place for place in led if place[2] == family} - (set(behind) - tied)
        second = max((means[place] for place in places if place not in best), default=None)
        ranked |= dict.fromkeys(best, "best")
        ranked |= {
            place: "second" for place in behind if place[2] == family and place not in best and means[place] == second
        }
    return ranked


def compare(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Run b against run a (frames as `Run.frame()`): a row for each method, snapshot, family and target of both.

    Columns `COMPARISON`. Accuracies, difference (b - a), low and high in percent and percentage points, over the n groups
    (`PAIR`) that both measured; `other_classes` of the same numbers have other class ids in a and b, and are not paired.
    The interval is of the unit `interval` ("" for too few), at the confidence at which Holm's procedure over the whole
    comparison tests the row: it excludes 0 exactly where `verdict` is "better" or "worse" (of b, p_holm below 5%). Else
    that is "no difference shown", "too few units" or "no common groups". `same_cell` says whether all rows that are paired
    are of cells of the same key. Seconds are medians over all groups of one thread count (`of_one_thread_count`), `ratio`
    is seconds_b / seconds_a, `same_threads` says whether all rows of both are of one thread count. In the order of `b`.
    """
    import pandas as pd

    rows, found = [], []
    known = dict(iter(a.groupby(PLACE, sort=False)))
    for place, theirs in b.groupby(PLACE, sort=False):
        if place not in known:
            continue
        ours, theirs_too, other_classes = common_groups(known[place], theirs)
        difference = estimate_difference(theirs_too, ours)
        timed = [of_one_thread_count(part) for part in (known[place], theirs)]
        seconds = [float(part["seconds"].median()) for part, _ in timed]
        found.append(difference)
        rows.append({
            **dict(zip(PLACE, place, strict=True)),
            "same_cell": difference.n > 0 and ours["cell"].tolist() == theirs_too["cell"].tolist(),
            "n": difference.n, "splits": difference.splits, "other_classes": other_classes,
            "accuracy_a": 100 * mean_over_splits(ours, "accuracy"),
            "accuracy_b": 100 * mean_over_splits(theirs_too, "accuracy"),
            "difference": difference.mean, "interval": difference.unit, "p_value": difference.p_value,
            "seconds_a": seconds[0], "seconds_b": seconds[1], "ratio": seconds[1] / seconds[0],
            "threads_a": timed[0][1], "threads_b": timed[1][1],
            "same_threads": pd.concat([known[place]["threads"], theirs["threads"]]).nunique() == 1,
        })  # fmt: skip
    return judged(pd.DataFrame(rows, columns=list(COMPARISON)), found).assign(verdict=lambda table: _verdicts(table))


def judged(table: pd.DataFrame, differences: list[Estimate]) -> pd.DataFrame:
    """`table`, whose rows are about `differences`, with low, high and p_holm by Holm's procedure over all of them."""
    tests = simultaneous([difference.p_value for difference in differences])
    halves = [each.half_width(test.confidence) for each, test in zip(differences, tests, strict=True)]
    return table.assign(
        low=[each.mean - half for each, half in zip(differences, halves, strict=True)],
        high=[each.mean + half for each, half in zip(differences, halves, strict=True)],
        p_holm=[test.adjusted_p for test in tests],
    )


def _verdicts(table: pd.DataFrame) -> list[str]:
    def verdict(n: int, p: float, difference: float) -> str:
        if not n or p != p:
            return "too few units" if n else "no common groups"
        return "no difference shown" if p >= SIGNIFICANCE else "better" if difference > 0 else "worse"

    return [verdict(*values) for values in zip(table["n"], table["p_holm"], table["difference"], strict=True)]
