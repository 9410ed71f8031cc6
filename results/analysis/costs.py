"""Total cost of a result: times, memory, FLOPs, energy, and when meta-training has paid for itself.

Everything is per family, target and device; times of different devices are never combined.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.comparison import judged
from pudnet_bench.results.analysis.intervals import PAIR, Estimate, Unit, estimate_difference, last_snapshots
from pudnet_bench.results.analysis.statistics import (
    break_even_count,
    break_even_epoch,
    mean_over_splits,
    of_one_thread_count,
)

_SETTING = ["family", "target", "device"]
COSTS = (
    "meta_train_seconds", "fit_seconds", "evaluation_seconds", "data_seconds", "peak_memory_bytes", "parameters",
    "fit_flops", "test_flops", "energy_joules",
)  # fmt: skip
"""What is accounted for: columns of `method_costs`."""
TIMED = ("threads", "n_timed")
"""Thread count of the times in a row, and how many of its n groups they are means over."""
METHOD_COSTS = (*_SETTING, "method", "snapshot", "n", *COSTS, *TIMED)
BREAK_EVENS = (
    *_SETTING, "method", "snapshot", "reference", "n", "accuracy", "reference_accuracy", "fit_seconds",
    "reference_fit_seconds", "break_even_epoch", "break_even_epoch_low", "break_even_epoch_high", "interval",
    "break_even_count", *TIMED,
)  # fmt: skip
DIFFERENCES = (
    *_SETTING, "method", "snapshot", "reference", "n", "splits", "difference", "low", "high", "interval", "p_value",
    "p_holm",
)  # fmt: skip
EFFECTS = (
    *_SETTING, "method", "control", "n", "splits", "difference", "low", "high", "interval", "p_value",
    "p_holm", "detectable",
)  # fmt: skip


def method_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Costs by family, target, device, method and snapshot of `Run.frame()`; columns `METHOD_COSTS`.

    meta_train_seconds: mean over trainings, NaN without meta-training. peak_memory_bytes: the largest of any group. The others
    are means over the n groups (of those with a known value; NaN for none): fit_seconds, fit_flops and energy_joules of a
    fit until the snapshot; evaluation_seconds of all test images, test_flops of one; data_seconds; parameters learned
    before any unseen group was met. Times and energy are over the groups of one thread count.
    """
    found = []
    for keys, rows in frame.groupby([*_SETTING, "method", "snapshot"], sort=False):
        timed, threads = of_one_thread_count(rows)
        costs = {
            "meta_train_seconds": _meta_train_seconds(rows),
            "fit_seconds": timed["seconds"].mean(),
            "peak_memory_bytes": rows["peak_memory_bytes"].max(),
            **{name: timed[name].mean() for name in ("evaluation_seconds", "data_seconds", "energy_joules")},
            **{name: rows[name].mean() for name in ("parameters", "fit_flops", "test_flops")},
        }
        found.append((*keys, len(rows), *(costs[name] for name in COSTS), threads, len(timed)))
    return pd.DataFrame(found, columns=list(METHOD_COSTS))


def break_evens(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """When training from scratch overtakes `reference`, and after how many datasets the reference has paid for itself.

    One row per snapshot of each iterative method (finite `epochs`), over the n groups that both measured; accuracies are
    fractions, means over class splits. break_even_epoch, its interval and the `interval`'s unit belong to the method's
    whole curve (`_epochs_of_break_even`), and NaN means never. break_even_count compares the reference's meta-training and
    fit with this snapshot's fit, and <NA> means never, or unknown where fit_seconds is NaN: times are over groups that both
    fitted with one thread count, and there may be none. Columns `BREAK_EVENS`.
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
            epochs = _epochs_of_break_even(curve, ours)
            for snapshot, theirs in both.groupby("snapshot", sort=False):
                timed, threads = of_one_thread_count(theirs[theirs["threads"] == theirs["threads_reference"]])
                predict, scratch = timed["seconds_reference"].mean(), timed["seconds"].mean()
                count = break_even_count(meta, predict, scratch)
                accuracies = (mean_over_splits(theirs, name) for name in ("accuracy", "accuracy_reference"))
                found.append(
                    (
                        *setting, method, snapshot, reference, len(theirs), *accuracies, scratch, predict, *epochs,
                        pd.NA if count is None else count, threads, len(timed),
                    )
                )  # fmt: skip
    # Python integers (a count may be huge) beside <NA>: as floats they would no longer print as counts.
    return pd.DataFrame(found, columns=list(BREAK_EVENS)).astype({"break_even_count": object})


def _epochs_of_break_even(curve: pd.DataFrame, reference: pd.DataFrame) -> tuple[float, float, float, Unit]:
    """The epoch at which the paired difference to `reference` reaches 0, those at which the ends of its interval do, its unit.

    The upper end reaches 0 first. Without a common unit of all epochs, there is no interval.
    """
    differences = {epochs: estimate_difference(rows, reference) for epochs, rows in curve.groupby("epochs")}
    measured = {epochs: difference for epochs, difference in differences.items() if difference.n}
    units = {difference.unit for difference in measured.values()}
    unit = units.pop() if len(units) == 1 else ""

    def reached(side: int) -> float:
        ends = [each.mean + side * each.half_width() if side else each.mean for each in measured.values()]
        epoch = break_even_epoch(pd.DataFrame({"epochs": list(measured), "accuracy": ends}), 0.0)
        return math.nan if epoch is None else epoch

    low, high = (reached(1), reached(-1)) if unit else (math.nan, math.nan)
    return reached(0), low, high, unit


def paired_differences(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every other method and snapshot minus `reference`, on the groups (`PAIR`) that both measured; columns `DIFFERENCES`.

    Difference, low and high in percentage points. The interval is of the unit `interval` ("" for too few), and at the
    confidence at which Holm's procedure over the whole table tests the row: it excludes 0 exactly where p_holm is below
    0.05. p_value is that of the row alone. Nothing in common: no row. Of a reference with several snapshots, the last.
    """
    found, differences = [], []
    for setting, rows in frame.groupby(_SETTING, sort=False):
        ours = last_snapshots(rows[rows["method"] == reference])
        others = rows[rows["method"] != reference]
        for (method, snapshot), theirs in others.groupby(["method", "snapshot"], sort=False):
            difference = estimate_difference(theirs, ours)
            if difference.n:
                differences.append(difference)
                names = {"method": method, "snapshot": snapshot, "reference": reference}
                found.append({**dict(zip(_SETTING, setting, strict=True)), **names, **_difference_values(difference)})
    return judged(pd.DataFrame(found, columns=list(DIFFERENCES)), differences)


def control_differences(frame: pd.DataFrame, controls: dict[str, str]) -> pd.DataFrame:
    """Each method minus each of its controls (`controls`: method by control), as `paired_differences` has them.

    `detectable` is the size of a difference that the row's own test would find with a power of 80%.
    """
    found, differences = [], []
    for setting, rows in frame.groupby(_SETTING, sort=False):
        for control, method in controls.items():
            own, denied = (last_snapshots(rows[rows["method"] == name]) for name in (method, control))
            difference = estimate_difference(own, denied)
            if difference.n:
                differences.append(difference)
                names = {"method": method, "control": control, "detectable": difference.detectable()}
                found.append({**dict(zip(_SETTING, setting, strict=True)), **names, **_difference_values(difference)})
    return judged(pd.DataFrame(found, columns=list(EFFECTS)), differences)


def _difference_values(difference: Estimate) -> dict[str, Any]:
    """What a row of `DIFFERENCES` and one of `EFFECTS` say of the difference alone; the rest is of all rows (`judged`)."""
    values = {name: getattr(difference, name) for name in ("n", "splits", "p_value")}
    return values | {"difference": difference.mean, "interval": difference.unit}


def _meta_train_seconds(rows: pd.DataFrame) -> float:
    """Mean over trainings (each split and seed trains once, and repeats the time in all its rows)."""
    return float(rows.groupby(["split", "seed"])["meta_train_seconds"].first().mean())
