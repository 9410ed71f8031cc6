"""Points of a figure: accuracy on unseen classes against a number, such as the groups seen in meta-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pudnet_bench.results.analysis.intervals import estimate

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "family", "target", "device", "curve", "x", "accuracy_mean", "accuracy_ci", "n", "interval", "splits", "classes",
    "seeds",
)  # fmt: skip


def points(frame: pd.DataFrame, places: Mapping[str, tuple[str, float]]) -> pd.DataFrame:
    """One row per point: mean accuracy over class splits and half-width of its 95% interval, in percent.

    `frame` is `Run.frame()`; `places` says which methods of it are points: method -> (label of the line, x).
    Columns: `COLUMNS`; `n` counts groups, `interval` is the unit of the interval ("" and NaN for none), and the last three
    are attributes of `intervals.Estimate`. Lines in the order of `places`, each sorted by `x`.
    """
    import pandas as pd

    rows = []
    for keys, group in frame[frame["method"].isin(list(places))].groupby(["family", "target", "device", "method"]):
        *where, method = keys
        found = estimate(group, 100 * group["accuracy"])
        accuracy = (found.mean, found.half_width(), found.n)
        rows.append((*where, *places[str(method)], *accuracy, found.unit, found.splits, found.classes, found.seeds))
    order = {curve: place for place, curve in enumerate(dict.fromkeys(curve for curve, _ in places.values()))}
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(
        list(COLUMNS[:5]), key=lambda column: column.map(order) if column.name == "curve" else column, ignore_index=True
    )
