"""Where the variance of a table's means comes from, and what more splits, classes, trainings or groups would buy."""

from __future__ import annotations

import math

import pandas as pd

from pudnet_bench.results.analysis.intervals import Component, variance_components

_SETTING = ["family", "target", "device", "method", "snapshot"]
SOURCES = {"class split": "split", "class tuple": "tuple", "training seed": "training", "group": "group"}
VARIANCE = (*_SETTING, "source", "units", "deviation", "share", "standard_error", "standard_error_doubled")


def variance_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each source of variation that can be told, of every mean over several splits or seeds; columns `VARIANCE`.

    `units` counts what was measured of the source; `deviation` is the standard deviation that it gives to one group's
    accuracy, in percentage points; `share` its part of the variance of the mean, 0 to 1. `standard_error` is the mean's,
    and `standard_error_doubled` what it would be with twice the units (`intervals.Component.doubled`).
    """
    found = []
    for keys, rows in frame.groupby(_SETTING, sort=False):
        if len(rows[["split", "seed"]].drop_duplicates()) < 2:
            continue
        components = variance_components(rows, 100 * rows["accuracy"])
        error = components.standard_error
        for source, name in SOURCES.items():
            one: Component = getattr(components, name)
            if not math.isnan(one.share):
                share = one.share / error**2 if error else math.nan
                found.append((*keys, source, one.units, one.deviation, share, error, one.doubled))
    return pd.DataFrame(found, columns=list(VARIANCE))
