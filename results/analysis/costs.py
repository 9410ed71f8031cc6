"""What a result costs in all: times, memory, FLOPs, energy, and when meta-training has paid for itself.

Everything is per family, target and device; times of different devices are never combined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.comparison import PAIR
from pudnet_bench.results.analysis.statistics import break_even_count, break_even_epoch, paired
from pudnet_bench.results.rendering.escaping import escape_markdown
from pudnet_bench.results.rendering.tables import format_seconds

_SETTING = ["family", "target", "device"]


def duration(seconds: float) -> str:
    """Three digits, in milliseconds below a second: "3.18 ms", "43.4 s"."""
    return f"{format_seconds(1e3 * seconds)} ms" if seconds < 1 else f"{format_seconds(seconds)} s"


@dataclass(frozen=True)
class Cost:
    """How a cost is shown to people: its name, the unit of its numbers ("" where each carries its own), and their text."""

    name: str
    unit: str
    text: Callable[[float], str]

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def _amount(of: float) -> Callable[[float], str]:
    def text(value: float) -> str:
        amount = value / of
        return f"{amount:,.0f}" if amount >= 1000 else f"{float(f'{amount:.3g}'):.10g}"

    return text


COSTS = {
    "meta_train_seconds": Cost("meta-training", "", duration),
    "fit_seconds": Cost("fit", "", duration),
    "evaluation_seconds": Cost("evaluation", "", duration),
    "data_seconds": Cost("data", "", duration),
    "peak_memory_bytes": Cost("peak memory", "MB", _amount(1e6)),
    "parameters": Cost("parameters", "million", _amount(1e6)),
    "fit_flops": Cost("fit", "GFLOPs", _amount(1e9)),
    "test_flops": Cost("test image", "MFLOPs", _amount(1e6)),
    "energy_joules": Cost("energy", "J", _amount(1)),
}
"""What is accounted for, by the column of `method_costs`."""

METHOD_COSTS = (*_SETTING, "method", "snapshot", "n", *COSTS)
BREAK_EVENS = (
    *_SETTING,
    "method",
    "snapshot",
    "reference",
    "n",
    "accuracy",
    "reference_accuracy",
    "fit_seconds",
    "reference_fit_seconds",
    "break_even_epoch",
    "break_even_count",
)
DIFFERENCES = (*_SETTING, "method", "snapshot", "reference", "n", "difference", "low", "high", "p_value")


def method_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns `METHOD_COSTS`, one row per family, target, device, method and snapshot of `Run.frame()`.

    meta_train_seconds: mean over seeds, NaN without meta-training. peak_memory_bytes: the largest of any group. The others
    are means over the n groups (of those for which a value is known; NaN for none): fit_seconds, fit_flops and
    energy_joules of a fit until the snapshot; evaluation_seconds of all test images, test_flops of one; data_seconds;
    parameters learned before any unseen group was met.
    """
    found = []
    for keys, rows in frame.groupby([*_SETTING, "method", "snapshot"], sort=False):
        known: dict[str, Any] = {
            "meta_train_seconds": _meta_train_seconds(rows),
            "fit_seconds": rows["seconds"].mean(),
            "peak_memory_bytes": rows["peak_memory_bytes"].max(),
        }
        found.append((*keys, len(rows), *(known[name] if name in known else rows[name].mean() for name in COSTS)))
    return pd.DataFrame(found, columns=list(METHOD_COSTS))


def break_evens(frame: pd.DataFrame, reference: str = "pudnet") -> pd.DataFrame:
    """When training from scratch overtakes `reference`, and after how many datasets the reference has paid for itself.

    Columns `BREAK_EVENS`, one row per snapshot of each iterative method (finite `epochs`), over the n groups that both
    measured; accuracies are fractions. break_even_epoch belongs to the method's whole curve, and NaN says never;
    break_even_count compares the reference's meta-training and fit with this snapshot's fit, and <NA> says never.
    """
    found = []
    for setting, rows in frame.groupby(_SETTING, sort=False):
        ours = last_snapshots(rows[rows["method"] == reference])
        if ours.empty:
            continue
        meta = _meta_train_seconds(ours)
        meta = 0.0 if math.isnan(meta) else meta  # a reference without meta-training has nothing to pay back
        iterative = rows[(rows["method"] != reference) & rows["epochs"].map(math.isfinite)]
        for method, curve in iterative.groupby("method", sort=False):
            both = curve.merge(ours, on=PAIR, suffixes=("", "_reference"))
            if both.empty:
                continue
            level = both.drop_duplicates(PAIR)["accuracy_reference"].mean()
            epoch = break_even_epoch(both.groupby("epochs")[["accuracy"]].mean().reset_index(), level)
            for snapshot, theirs in both.groupby("snapshot", sort=False):
                predict, scratch = theirs["seconds_reference"].mean(), theirs["seconds"].mean()
                count = break_even_count(meta, predict, scratch)
                found.append(
                    (
                        *setting,
                        method,
                        snapshot,
                        reference,
                        len(theirs),
                        theirs["accuracy"].mean(),
                        theirs["accuracy_reference"].mean(),
                        scratch,
                        predict,
                        math.nan if epoch is None else epoch,
                        pd.NA if count is None else count,
                    )
                )
    # Python integers (a count may be huge) beside <NA>: as floats they would no longer print as counts.
    return pd.DataFrame(found, columns=list(BREAK_EVENS)).astype({"break_even_count": object})


def paired_differences(frame: pd.DataFrame, reference: str = "pudnet", seed: int = 0) -> pd.DataFrame:
    """Every other method and snapshot minus `reference`, on the groups (seed, group) that both measured.

    Columns `DIFFERENCES`: difference, low and high in percentage points (bootstrap interval of the mean, drawn from
    `seed`), p_value of Wilcoxon's test. Nothing in common: no row. Of a reference with several snapshots, the last.
    """
    found = []
    for setting, rows in frame.groupby(_SETTING, sort=False):
        ours = last_snapshots(rows[rows["method"] == reference])
        others = rows[rows["method"] != reference]
        for (method, snapshot), theirs in others.groupby(["method", "snapshot"], sort=False):
            both = theirs.merge(ours, on=PAIR, suffixes=("", "_reference")).sort_values(PAIR)
            if both.empty:
                continue
            result = paired(100 * both["accuracy"].to_numpy(), 100 * both["accuracy_reference"].to_numpy(), seed=seed)
            values = (result.n, result.mean, result.low, result.high, result.p_value)
            found.append((*setting, method, snapshot, reference, *values))
    return pd.DataFrame(found, columns=list(DIFFERENCES))


def csv_text(table: pd.DataFrame) -> str:
    """A frame of this module as CSV, full precision, empty where there is no value."""
    return table.to_csv(index=False, lineterminator="\n")


def markdown_text(table: pd.DataFrame) -> str:
    """A frame of this module as a Markdown table, "—" where there is no value.

    Costs are in units for people (`COSTS`), other numbers have four significant digits.
    """
    costs = COSTS if tuple(table.columns) == METHOD_COSTS else {}

    def shown(column: str, value: Any) -> str:
        if pd.isna(value):
            return "—"
        if column in costs:
            return costs[column].text(value)
        return f"{value:.4g}" if isinstance(value, float) else escape_markdown(str(value))

    names = list(table.columns)
    lines = [[costs[name].heading if name in costs else name for name in names], ["---"] * len(names)]
    for row in table.itertuples(index=False, name=None):
        lines.append([shown(name, value) for name, value in zip(names, row, strict=True)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def last_snapshots(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (seed, group): the snapshot that took longest, which is the last one handed over."""
    return rows.sort_values("seconds", kind="stable").drop_duplicates(PAIR, keep="last")


def _meta_train_seconds(rows: pd.DataFrame) -> float:
    """Mean over seeds (each seed trains once, and repeats the time in all its rows)."""
    return float(rows.groupby("seed")["meta_train_seconds"].first().mean())
