"""Learning curves: the points are the statistics of the rows, and the pictures are pictures of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results.curves import COLUMNS, draw, learning_curves
from results.statistics import mean_ci

CURVES = {"a-1-groups": "A", "a-10-groups": "A", "b-1-groups": "B & co_%"}


@pytest.fixture
def frame(make_row) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        make_row(method=method, group=group, accuracy=float(rng.uniform(0.4, 0.9)), training_groups=float(seen))
        for method, seen in (("a-10-groups", 10), ("a-1-groups", 1), ("b-1-groups", 1), ("other", 5))
        for group in range(6)
    ]
    return pd.DataFrame(rows)


def test_points_are_means_and_t_intervals_in_the_order_of_groups_seen(frame: pd.DataFrame) -> None:
    points = learning_curves(frame, CURVES)
    assert tuple(points.columns) == COLUMNS
    assert points[["curve", "training_groups", "n"]].to_numpy().tolist() == [
        ["A", 1, 6],
        ["A", 10, 6],
        ["B & co_%", 1, 6],
    ]
    expected = mean_ci(100 * frame.loc[frame["method"] == "a-1-groups", "accuracy"].to_numpy())
    assert points.loc[0, "accuracy_mean"] == pytest.approx(expected.mean)
    assert points.loc[0, "accuracy_ci"] == pytest.approx(expected.half_width)


def test_no_curve_no_point(frame: pd.DataFrame) -> None:
    assert learning_curves(frame, {}).empty


@pytest.mark.parametrize(("format", "begins"), [("pdf", b"%PDF-"), ("png", b"\x89PNG")])
def test_the_same_points_give_the_same_bytes(frame: pd.DataFrame, format: str, begins: bytes) -> None:
    points = learning_curves(frame, CURVES)
    drawn = draw(points, "Title", format, {"A": 70.0})
    assert drawn.startswith(begins)
    assert drawn == draw(points, "Title", format, {"A": 70.0})
    assert drawn != draw(points, "Title", format)  # the paper's layer is seen
    assert drawn != draw(points.assign(accuracy_mean=50.0), "Title", format, {"A": 70.0})
