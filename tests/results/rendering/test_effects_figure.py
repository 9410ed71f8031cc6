"""The figure of effects: a line for each reading, bars that are its intervals, and the numbers behind it."""

from __future__ import annotations

import math

import pytest

from pudnet_bench.results.analysis.effects import Effect
from pudnet_bench.results.analysis.intervals import Estimate, Interval
from pudnet_bench.results.rendering.effects_figure import COLUMNS, effect_rows, effects_figure
from pudnet_bench.results.rendering.figures import to_bytes

LABELS = {"plain": "PudNet", "normed": "Normed sketch"}
FAMILIES = {"cifar100": "CIFAR100-set", "fashion": "Fashion-set"}


def estimate(mean: float, error: float = 0.5, unit: str = "classes") -> Estimate:
    interval = Interval(unit="classes", units=20, standard_error=error, df=9.0)
    return Estimate(
        mean=mean, n=300, splits=3, seeds=3, tuples=200, classes=48, intervals={"classes": interval},
        unit="classes" if unit else "",
    )  # fmt: skip


MEASURED = {
    Effect("the dataset", "plain", "plain-other"): {"cifar100": estimate(0.25), "fashion": estimate(-1.5, unit="")},
    Effect("the source", "plain", "plain-source"): {"cifar100": estimate(12.0)},
    Effect("the dataset", "normed", "normed-other"): {"cifar100": estimate(-0.75)},
}


def test_rows_have_every_effect_and_its_interval() -> None:
    rows = effect_rows(MEASURED, LABELS, FAMILIES)
    assert tuple(rows.columns) == COLUMNS
    assert rows["difference"].tolist() == [0.25, -1.5, 12.0, -0.75]
    half = estimate(0.25).half_width()
    assert rows["low"].tolist() == pytest.approx([0.25 - half, math.nan, 12 - half, -0.75 - half], nan_ok=True)
    assert (rows["high"] - rows["difference"]).tolist() == pytest.approx([half, math.nan, half, half], nan_ok=True)
    assert rows["label"].tolist() == ["PudNet", "PudNet", "PudNet", "Normed sketch"]
    assert rows["family_label"].tolist() == ["CIFAR100-set", "Fashion-set", "CIFAR100-set", "CIFAR100-set"]


def test_a_panel_for_each_family_with_a_line_for_each_reading() -> None:
    rows = effect_rows(MEASURED, LABELS, FAMILIES)
    figure = effects_figure(rows)
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["CIFAR100-set", "Fashion-set"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["PudNet", "Normed sketch"]
    points = [tuple(line.get_xdata()) for line in first.lines[1:]]  # the first is the line at 0
    assert points == [(0.25, -0.75), (12.0,)]
    heights = [tuple(line.get_ydata()) for line in first.lines[1:]]
    assert heights[0][0] < heights[1][0] < heights[0][1]  # both effects of a reading lie together
    (caption,) = [text.get_text().replace("\n", " ") for text in figure.texts]
    assert "effect on accuracy (percentage points). Means over 3 class splits. Bars are 95% intervals for" in caption
    assert "class-effects model, 48 classes of 3 class splits" in caption
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"of the dataset", "of the source"}
    assert to_bytes(figure, "png")[:4] == b"\x89PNG"
    assert not effects_figure(rows[rows["effect"] == "the dataset"]).legends
