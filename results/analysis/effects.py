"""What a method's answer owes to what a control is denied: the method minus its control, on the same groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pudnet_bench.results.analysis.intervals import Estimate, estimate_difference, last_snapshots

if TYPE_CHECKING:
    import pandas as pd

    from pudnet_bench.results.store.run_record import PlanRecord


@dataclass(frozen=True)
class Effect:
    """The effect of `name`, such as "the dataset": the variant `method` minus the variant `control`."""

    name: str
    method: str
    control: str


def planned_effects(plan: PlanRecord) -> tuple[Effect, ...]:
    """The effects that the plan's controls name."""
    return tuple(Effect(v.effect, v.control_of, v.name) for v in plan.variants if v.effect)


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
