"""Significant differences: within a table, and between two runs of one suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pudnet_bench.results.analysis import statistics
from pudnet_bench.results.analysis.statistics import holm, of_one_thread_count

if TYPE_CHECKING:
    import pandas as pd

Rank = Literal["", "best", "second"]
Place = tuple[str, str, str]  # (method, snapshot, family)

SIGNIFICANCE = 0.05
PAIR = ["seed", "group"]
PLACE = ["method", "snapshot", "family", "target"]
COMPARISON = (
    *PLACE, "n", "accuracy_a", "accuracy_b", "difference", "low", "high", "p_value", "p_holm", "verdict", "seconds_a",
    "seconds_b", "ratio", "threads_a", "threads_b", "same_threads",
)  # fmt: skip


def ranks(frame: pd.DataFrame) -> dict[Place, Rank]:
    """Rank of every method and snapshot in its family, for rows of one device and target (columns as `Run.frame()`).

    "best": the highest mean accuracy, and those that do not differ from it significantly on the groups that both measured
    (Wilcoxon, Holm over all comparisons of the frame, 5%). A comparison over so few groups that no difference could be
    significant makes no tie. "second": the highest mean of the rest. Means are compared as printed, with two decimals.
    """
    accuracies: dict[Place, pd.Series] = {
        (str(method), str(snapshot), str(family)): rows.set_index(PAIR)["accuracy"]
        for (method, snapshot, family), rows in frame.groupby(["method", "snapshot", "family"], sort=False)
    }
    means = {place: round(100 * float(values.mean()), 2) for place, values in accuracies.items()}
    families = {family: [place for place in means if place[2] == family] for _, _, family in means}
    leaders = {family: max(places, key=lambda place: means[place]) for family, places in families.items()}
    tests: dict[Place, tuple[float, int]] = {}
    for place in (place for places in families.values() for place in places):
        leader = leaders[place[2]]
        if means[place] != means[leader]:
            both = accuracies[leader].to_frame("best").join(accuracies[place], how="inner")
            tests[place] = (statistics.wilcoxon_p_value(both["best"], both["accuracy"]), len(both))
    adjusted = dict(zip(tests, holm([p_value for p_value, _ in tests.values()]), strict=True))
    tied = {
        place
        for place, (_, n) in tests.items()
        if adjusted[place] >= SIGNIFICANCE and len(tests) * statistics.smallest_p_value(n) < SIGNIFICANCE
    }
    found: dict[Place, Rank] = {}
    for family, places in families.items():
        best = [place for place in places if means[place] == means[leaders[family]] or place in tied]
        rest = [place for place in places if place not in best]
        second = max((means[place] for place in rest), default=None)
        found |= dict.fromkeys(best, "best")
        found |= {place: "second" if means[place] == second else "" for place in rest}
    return found


def compare(a: pd.DataFrame, b: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Run b against run a (frames as `Run.frame()`): a row for each method, snapshot, family and target of both.

    Columns `COMPARISON`. Accuracies, difference (b - a), low and high in percent and percentage points, over the n groups
    (seed, group) that both measured: bootstrap interval drawn from `seed`, Wilcoxon's p-value, and Holm's over the whole
    comparison. `verdict` is "better" or "worse" (of b) at 5% after Holm, "no difference shown", or "no common groups".
    Seconds are medians over all groups of one thread count (`of_one_thread_count`), `ratio` is seconds_b / seconds_a,
    `same_threads` says whether all rows of both are of one thread count. In the order of `b`.
    """
    import pandas as pd

    found = []
    for place, theirs in b.groupby(PLACE, sort=False):
        ours = a[(a[PLACE] == list(place)).all(axis=1)]
        if ours.empty:
            continue
        both = ours.merge(theirs, on=PAIR, suffixes=("_a", "_b")).sort_values(PAIR)
        first, second = 100 * both["accuracy_a"].to_numpy(), 100 * both["accuracy_b"].to_numpy()
        result = statistics.paired(second, first, seed=seed)
        means = (first.mean(), second.mean()) if result.n else (float("nan"), float("nan"))
        timed = [of_one_thread_count(rows) for rows in (ours, theirs)]
        seconds = [float(rows["seconds"].median()) for rows, _ in timed]
        same_threads = pd.concat([ours["threads"], theirs["threads"]]).nunique() == 1
        found.append(
            (
                *place, result.n, *means, result.mean, result.low, result.high, result.p_value, float("nan"), "",
                *seconds, seconds[1] / seconds[0], *(threads for _, threads in timed), same_threads,
            )
        )  # fmt: skip
    table = pd.DataFrame(found, columns=list(COMPARISON))
    tested = table["n"] > 0
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p_value"].tolist())
    table["verdict"] = [
        "no common groups" if not n else "no difference shown" if p >= SIGNIFICANCE else "better" if d > 0 else "worse"
        for n, p, d in zip(table["n"], table["p_holm"], table["difference"], strict=True)
    ]
    return table
