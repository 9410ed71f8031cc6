"""What a method's answer owes to what a control is denied: the method minus its control, on the same groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pudnet_bench.results.analysis.costs import last_snapshots, paired_differences
from pudnet_bench.results.analysis.intervals import Estimate, estimate_difference


@dataclass(frozen=True)
class Effect:
    """The effect of `name`, such as "the dataset": the variant `method` minus the variant `control`."""

    name: str
    method: str
    control: str


EFFECTS = (
    "family", "target", "device", "method", "control", "n", "splits", "difference", "low", "high", "interval", "p_value",
    "p_holm",
)  # fmt: skip


def measured_effects(frame: pd.DataFrame, effects: Sequence[Effect]) -> dict[Effect, dict[str, Estimate]]:
    """Each effect in percentage points by family, of rows of one target and device; families without both are left out."""
    found: dict[Effect, dict[str, Estimate]] = {}
    for effect in effects:
        for family, rows in frame.groupby("family", sort=False):
            own, denied = (last_snapshots(rows[rows["method"] == name]) for name in (effect.method, effect.control))
            difference = estimate_difference(own, denied)
            if difference.n:
                found.setdefault(effect, {})[str(family)] = difference
    return found


def control_differences(frame: pd.DataFrame, controls: dict[str, str]) -> pd.DataFrame:
    """Each method minus each of its controls (`controls`: method by control), as `costs.paired_differences` has them."""
    parts = []
    for method in dict.fromkeys(controls.values()):
        own = [method, *(control for control, of in controls.items() if of == method)]
        table = paired_differences(frame[frame["method"].isin(own)], method)
        low, high = -table["high"], -table["low"]
        table = table.assign(difference=-table["difference"], low=low, high=high)
        parts.append(table.drop(columns="snapshot").rename(columns={"method": "control", "reference": "method"}))
    return pd.concat(parts)[list(EFFECTS)] if parts else pd.DataFrame(columns=list(EFFECTS))
