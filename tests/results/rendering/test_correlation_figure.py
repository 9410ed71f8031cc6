"""Figure 1: what is drawn is the table, and the picture is reproducible."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from pudnet_bench.results.analysis.correlation import correlation_table
from pudnet_bench.results.rendering.correlation_figure import correlation_figure
from pudnet_bench.results.rendering.figures import to_bytes


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(200, 2)) * [2.0, 1.0]
    x, y = (hidden @ rng.normal(size=(2, width)) + rng.normal(size=(200, width)) for width in (12, 40))
    return correlation_table(x, y, components=4, shuffles=40, seed=1)


@pytest.fixture(scope="module")
def unrelated() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return correlation_table(rng.normal(size=(200, 12)), rng.normal(size=(200, 40)), 4, shuffles=40, seed=1)


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no family"):
        correlation_figure({})


def test_figure_1_has_a_panel_per_family(table: pd.DataFrame, unrelated: pd.DataFrame) -> None:
    figure = correlation_figure({"Fashion-set": table, "CIFAR100-set": unrelated})
    assert [axes.get_title() for axes in figure.axes] == ["Fashion-set (n = 200)", "CIFAR100-set (n = 200)"]
    for axes, shown in zip(figure.axes, (table, unrelated), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        for label, column in (
            ("learned", "learned"),
            ("random", "random_mean"),
            ("learned, held out", "learned_held_out"),
            ("random, held out", "random_held_out_mean"),
        ):
            assert (
                np.asarray(lines[label].get_xydata()).tolist() == shown[["pair", column]].to_numpy(dtype=float).tolist()
            )
        assert lines["learned"].get_linestyle() == "-"
        assert lines["random"].get_linestyle() == "--"
        assert lines["learned"].get_linewidth() > lines["learned, held out"].get_linewidth()
        assert len(axes.collections) == 2  # the bands of random
        low, high = axes.get_ylim()
        assert low < min(shown["random_held_out_low"].min(), 0) and high > 1  # noqa: PT018
    assert len(figure.legends) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


def test_the_same_table_gives_the_same_picture(table: pd.DataFrame) -> None:
    for format, begins in (("pdf", b"%PDF-"), ("png", b"\x89PNG")):
        drawn = to_bytes(correlation_figure({"Fashion-set": table}), format)
        assert drawn.startswith(begins)
        assert drawn == to_bytes(correlation_figure({"Fashion-set": table}), format)
        assert b"CreationDate" not in drawn
    pixels = imread(io.BytesIO(to_bytes(correlation_figure({"Fashion-set": table}), "png")))
    assert pixels.std() > 0.05
