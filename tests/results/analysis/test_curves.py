"""Learning curves: the points are the statistics of the rows, and the pictures are pictures of them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pudnet_bench.results.analysis.curves import COLUMNS, points
from pudnet_bench.results.analysis.intervals import SMALLEST
from tests.results.t_interval import mean_ci

PLACES = {"b-1-groups": ("B & co_%", 1.0), "a-10-groups": ("A", 10.0), "a-1-groups": ("A", 1.0)}


@pytest.fixture
def frame(make_row) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        make_row(method=method, group=group, accuracy=float(rng.uniform(0.4, 0.9)), training_groups=float(seen))
        for method, seen in (("a-10-groups", 10), ("a-1-groups", 1), ("b-1-groups", 1), ("other", 5))
        for group in range(6)
    ]
    return pd.DataFrame(rows)


def test_points_are_means_and_t_intervals_in_the_order_of_x(frame: pd.DataFrame) -> None:
    found = points(frame, PLACES)
    assert tuple(found.columns) == COLUMNS
    assert found[["curve", "x", "n"]].to_numpy().tolist() == [
        ["B & co_%", 1, 6],
        ["A", 1, 6],
        ["A", 10, 6],
    ]
    expected = mean_ci(100 * frame.loc[frame["method"] == "a-1-groups", "accuracy"].to_numpy())
    assert found.loc[1, "accuracy_mean"] == pytest.approx(expected.mean)
    assert found.loc[1, "accuracy_ci"] == pytest.approx(expected.half_width)


@settings(deadline=None, max_examples=40)
@given(splits=st.integers(1, 8), groups=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_point_is_the_mean_over_splits_and_has_an_interval_from_six_units_on(
    splits: int, groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    place = {"family": "fashion", "target": "convnet3", "device": "cpu", "method": "a-1-groups", "classes": ""}
    rows = pd.DataFrame(
        {**place, "split": split, "seed": split, "group": group, "accuracy": rng.uniform()}
        for split in range(splits) for group in range(groups + split)
    )  # fmt: skip
    (point,) = points(rows, PLACES).to_dict("records")
    means = 100 * rows.groupby("split")["accuracy"].mean()
    assert point["accuracy_mean"] == pytest.approx(means.mean())
    assert (point["n"], point["splits"]) == (len(rows), splits)
    units = means if splits > 1 else 100 * rows["accuracy"]
    if len(units) < SMALLEST:
        assert point["interval"] == ""
        assert math.isnan(point["accuracy_ci"])
    else:
        assert point["interval"] == ("splits" if splits > 1 else "groups")
        assert point["accuracy_ci"] == pytest.approx(mean_ci(units).half_width)


def test_no_curve_no_point(frame: pd.DataFrame) -> None:
    assert points(frame, {}).empty
