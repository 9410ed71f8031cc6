"""Effects of what controls are denied: the method minus its control, on the same groups, by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pudnet_bench.results.analysis.costs import EFFECTS, control_differences, paired_differences
from pudnet_bench.results.analysis.effects import Effect, measured_effects

MakeRow = Callable[..., dict[str, Any]]
EFFECT = Effect("the dataset", "pudnet", "pudnet-other")


@pytest.fixture
def measured(make_row: MakeRow) -> pd.DataFrame:
    """Eight class splits of two families, a method two points above one control and equal to another."""
    draw = np.random.default_rng(0)
    rows = []
    for family in ("fashion", "cifar100"):
        for split in range(8):
            own = 0.5 + round(float(draw.normal()) / 50, 3)
            where = {"family": family, "split": split, "group": 0}
            rows += [make_row(method="pudnet", accuracy=own, **where)]
            rows += [make_row(method="pudnet-other", accuracy=own - 0.02 - (split % 2) / 1000, **where)]
            rows += [make_row(method="pudnet-noise", accuracy=own, **where)]
    return pd.DataFrame(rows)


def test_an_effect_is_the_paired_difference_of_each_family(measured: pd.DataFrame) -> None:
    found = measured_effects(measured, [EFFECT, Effect("nothing", "pudnet", "absent")])
    assert list(found) == [EFFECT]
    assert list(found[EFFECT]) == ["fashion", "cifar100"]
    for estimate in found[EFFECT].values():
        assert (estimate.n, estimate.splits, estimate.unit) == (8, 8, "splits")
        assert estimate.mean == pytest.approx(2.05)
        assert estimate.half_width() < 0.1  # the spread of the splits is common to both


def test_controls_are_compared_with_the_method_they_are_of(measured: pd.DataFrame) -> None:
    table = control_differences(measured, {"pudnet-other": "pudnet", "pudnet-noise": "pudnet"})
    assert tuple(table.columns) == EFFECTS
    reverse = paired_differences(measured, "pudnet")
    assert table["difference"].tolist() == (-reverse["difference"]).tolist()
    assert table["low"].tolist() == (-reverse["high"]).tolist()
    assert table["p_holm"].tolist() == reverse["p_holm"].tolist()
    others = table[table["control"] == "pudnet-other"]
    assert (others["low"] > 1.9).all()
    assert (others["p_holm"] < 0.01).all()
    equal = table[table["control"] == "pudnet-noise"]
    assert (equal["difference"] == 0).all()
    assert (equal["p_holm"] == 1).all()


def test_without_controls_there_is_an_empty_table(measured: pd.DataFrame) -> None:
    assert tuple(control_differences(measured, {}).columns) == EFFECTS
    assert control_differences(measured, {"absent": "pudnet"}).empty
