"""Figures of panels: what is drawn where, and pictures that can be opened and are the same every time."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from pudnet_bench.results.rendering.figures import (
    LOSSES,
    STYLES,
    first_trainings,
    losses_figure,
    panels_figure,
    to_bytes,
)
from pudnet_bench.results.rendering.interval_text import NONE, note

FAMILIES = {"fashion": "Fashion-set", "cifar100": "CIFAR100-set", "imagenet": "ImageNet-set"}
TARGETS = {"convnet3": "ConvNet-3", "resnet18": "ResNet-18"}
XS = (0.0, 0.1, 0.5, 0.9)


def points_of(families: list[str], targets: list[str], curves: list[str], xs: tuple[float, ...] = XS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "family": family,
                "family_label": FAMILIES[family],
                "target": target,
                "target_label": TARGETS[target],
                "device": "cpu",
                "curve": curve,
                "x": x,
                "accuracy_mean": rng.uniform(40, 90),
                "accuracy_ci": rng.uniform(0.2, 1.0),
                "n": 100,
                "interval": "groups",
                "splits": 1,
                "classes": 0,
                "seeds": 1,
            }
            for target in targets
            for family in families
            for curve in curves
            for x in xs
        ]
    )


def printed_of(curve: str, column: str, target: str, x: float, value: float, ci: float) -> pd.DataFrame:
    return pd.DataFrame([{"curve": curve, "column": column, "target": target, "x": x, "value": value, "ci": ci}])


def training_of(curves: pd.DataFrame, split: int, seed: int) -> pd.DataFrame:
    return curves.assign(split=split, seed=seed)


def losses_of(steps: int, families: tuple[str, ...] = ("fashion",)) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for family in families:
        frame = pd.DataFrame(
            {name: rng.gamma(4, 0.2, steps) for name in ("metric_loss", "full_loss", "consistency_loss")}
        )
        frame["loss"] = frame.sum(axis=1)
        frame["groups"] = 10 * np.arange(1, steps + 1)
        names = {"family": family, "family_label": FAMILIES[family], "target": "convnet3", "target_label": "ConvNet-3"}
        frames.append(frame.assign(**names))
    return pd.concat(frames)


def panels(points: pd.DataFrame, printed: pd.DataFrame | None = None, *, log_x: bool = False) -> Figure:
    return panels_figure(points, "eta", log_x=log_x, printed=printed)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for shown in figure.legends for text in shown.get_texts()]


def interval_note(figure: Figure) -> str:
    (shown,) = figure.legends
    return " ".join(shown.get_title().get_text().split())


def hollow(figure: Figure) -> list[tuple[str, str, str, list[list[float]]]]:
    """Title of the panel, colour, marker and places of the markers that are not filled."""
    return [
        (
            axes.get_title(),
            str(to_hex(line.get_color())).upper(),
            str(line.get_marker()),
            np.asarray(line.get_xydata()).tolist(),
        )
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_markerfacecolor() == "none"
    ]


def test_rows_are_targets_and_columns_are_families_in_the_order_given() -> None:
    figure = panels(points_of(["imagenet", "fashion", "cifar100"], ["resnet18", "convnet3"], ["PudNet"]))
    assert [axes.get_title() for axes in figure.axes] == [
        "ImageNet-set, ResNet-18 (n = 100)",
        "Fashion-set, ResNet-18 (n = 100)",
        "CIFAR100-set, ResNet-18 (n = 100)",
        "ImageNet-set, ConvNet-3 (n = 100)",
        "Fashion-set, ConvNet-3 (n = 100)",
        "CIFAR100-set, ConvNet-3 (n = 100)",
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 3 + ["eta"] * 3
    assert figure.get_supylabel() == "accuracy on unseen classes (%)"
    assert len({axes.get_ylim() for axes in figure.axes}) == 6
    assert legend(figure) == []  # one curve and nothing of the paper: nothing to tell apart


def test_a_family_without_a_target_has_no_panel_and_its_column_keeps_its_label() -> None:
    points = points_of(["fashion", "cifar100"], ["convnet3", "resnet18"], ["PudNet"])
    figure = panels(points[(points["family"] != "fashion") | (points["target"] != "resnet18")])
    assert [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes] == [
        ("Fashion-set, ConvNet-3 (n = 100)", "eta"),
        ("CIFAR100-set, ConvNet-3 (n = 100)", ""),
        ("CIFAR100-set, ResNet-18 (n = 100)", "eta"),
    ]


def test_lines_are_the_points_in_the_order_of_x_and_bands_their_intervals() -> None:
    points = points_of(["fashion"], ["convnet3"], ["A", "B"])
    figure = panels(points.iloc[::-1])
    lines = figure.axes[0].get_lines()
    for line, band, curve, style in zip(lines, figure.axes[0].collections, ["B", "A"], STYLES[:2], strict=True):
        rows = points[points["curve"] == curve]
        assert np.asarray(line.get_xydata()).tolist() == rows[["x", "accuracy_mean"]].to_numpy().tolist()
        assert (line.get_color(), line.get_marker(), line.get_linestyle()) == style
        extent = band.get_paths()[0].get_extents()
        assert extent.y0 == pytest.approx((rows["accuracy_mean"] - rows["accuracy_ci"]).min())
        assert extent.y1 == pytest.approx((rows["accuracy_mean"] + rows["accuracy_ci"]).max())
    assert legend(figure) == ["B", "A"]


def test_a_curve_has_the_same_style_in_every_panel() -> None:
    points = points_of(["fashion", "cifar100"], ["convnet3"], ["A", "B"])
    figure = panels(points[(points["family"] == "fashion") | (points["curve"] == "B")])
    assert [line.get_color() for line in figure.axes[1].get_lines()] == [STYLES[1][0]]


def test_printed_numbers_are_hollow_markers_at_their_place_in_the_colour_of_their_curve() -> None:
    points = points_of(["fashion", "cifar100"], ["convnet3"], ["A", "B"])
    printed = pd.concat(
        [
            printed_of("B", "cifar100", "convnet3", 0.3, 64.09, 0.4),
            printed_of("A", "fashion", "convnet3", 0.2, 97.0, float("nan")),
            printed_of("A", "fashion", "resnet18", 0.2, 10.0, 0.1),  # no such panel
            printed_of("A", "imagenet", "convnet3", 0.2, 10.0, 0.1),
            printed_of("A", "cifar100", "convnet3", 0.2, float("nan"), float("nan")),  # "-" in the paper
        ]
    )
    figure = panels(points, printed)
    assert hollow(figure) == [
        ("Fashion-set, ConvNet-3 (n = 100)", STYLES[0][0], "o", [[0.2, 97.0]]),
        ("CIFAR100-set, ConvNet-3 (n = 100)", STYLES[1][0], "s", [[0.3, 64.09]]),
    ]
    bars = [line for line in figure.axes[1].collections if isinstance(line, LineCollection)]
    assert [np.asarray(bar.get_segments()).round(6).tolist() for bar in bars] == [[[[0.3, 63.69], [0.3, 64.49]]]]
    assert legend(figure) == ["A", "B", "the paper's number"]


def test_printed_numbers_alone_bring_a_legend_and_those_without_a_panel_do_not() -> None:
    points = points_of(["fashion"], ["convnet3"], ["A"])
    assert legend(panels(points, printed_of("A", "fashion", "convnet3", 0.2, 97.0, 0.1))) == ["A", "the paper's number"]
    assert legend(panels(points, printed_of("A", "imagenet", "convnet3", 0.2, 97.0, 0.1))) == []


def test_a_single_point_is_seen_with_its_interval() -> None:
    figure = panels(points_of(["fashion"], ["convnet3"], ["A"], xs=(300.0,)), log_x=True)
    axes = figure.axes[0]
    assert axes.get_lines()[0].get_marker() == "o"
    assert len(axes.containers) == 1
    assert axes.get_xlim()[0] < 300 < axes.get_xlim()[1]
    figure.draw_without_rendering()
    assert "300" in [label.get_text() for label in axes.get_xticklabels()]


@pytest.mark.parametrize("xs", [(300.0,), XS])
def test_points_without_intervals_have_no_band_and_say_so(xs: tuple[float, ...]) -> None:
    points = points_of(["fashion"], ["convnet3"], ["A"], xs=xs).assign(accuracy_ci=float("nan"), n=3, interval="")
    figure = panels(points)
    assert figure.axes[0].containers == []
    assert [line.get_xydata().tolist() for line in figure.axes[0].get_lines()] == [
        points[["x", "accuracy_mean"]].to_numpy().tolist()
    ]
    assert not figure.axes[0].collections
    assert interval_note(figure) == f"Means over groups. {NONE}"
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_a_figure_says_what_its_intervals_are_about() -> None:
    points = points_of(["fashion", "cifar100"], ["convnet3"], ["A", "B"])
    assert interval_note(panels(points)) == note("Bands", [("groups", 1, 0, 1)])
    split = points.assign(interval="splits", splits=10, seeds=10, classes=40)
    assert interval_note(panels(split)) == note("Bands", [("splits", 10, 40, 10)])
    single = points_of(["fashion"], ["convnet3"], ["A"], xs=(300.0,))
    assert interval_note(panels(single)) == note("Bars", [("groups", 1, 0, 1)])


def test_log_axis_is_labelled_without_small_exponents() -> None:
    figure = panels(points_of(["fashion"], ["convnet3"], ["A"], xs=(10.0, 100.0, 1000.0, 100_000.0)), log_x=True)
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert {"10", "100", "1k", "10k", "100k"} <= set(labels)
    assert figure.axes[0].get_xscale() == "log"


def test_differing_numbers_of_groups_are_shown() -> None:
    points = points_of(["fashion"], ["convnet3"], ["A"])
    points.loc[0, "n"] = 80
    assert panels(points).axes[0].get_title() == "Fashion-set, ConvNet-3 (n = 80 to 100)"


def test_two_devices_or_nothing_are_refused() -> None:
    points = points_of(["fashion"], ["convnet3"], ["A"])
    with pytest.raises(ValueError, match="2 devices in one figure: cpu, cuda"):
        panels(pd.concat([points, points.assign(device="cuda")]))
    with pytest.raises(ValueError, match="no points"):
        panels(points.iloc[:0])


@pytest.mark.parametrize("log_x", [False, True])
def test_nothing_is_drawn_outside_or_over_another_text(log_x: bool) -> None:
    points = points_of(list(FAMILIES), list(TARGETS), ["PudNet", "Meta-DeepDBC", "MUSML"], xs=(10.0, 100.0, 50_000.0))
    printed = printed_of("PudNet", "fashion", "convnet3", 2000, 97, 1)
    figure = panels_figure(points, "groups seen in meta-training", log_x=log_x, printed=printed)
    figure.draw_without_rendering()
    texts = [*(axes.title for axes in figure.axes), *(axes.xaxis.label for axes in figure.axes[3:])]
    texts += figure.texts  # the label of y
    assert all(float(text.get_fontsize()) >= 7 for text in [*texts, *figure.legends[0].get_texts()])
    boxes = [artist.get_window_extent() for artist in (*texts, *figure.legends)]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_losses_apart_and_their_total_with_a_running_mean() -> None:
    curves = losses_of(500, ("fashion", "cifar100"))
    figure = losses_figure(curves)
    assert [axes.get_title() for axes in figure.axes] == ["Fashion-set, ConvNet-3", "CIFAR100-set, ConvNet-3"]
    assert legend(figure) == ["L1 metric", "L2 full classification", "L3 consistency", "total"]
    shown = curves[curves["family"] == "cifar100"]
    lines = figure.axes[1].get_lines()
    assert len(lines) == 8
    for number, (loss, (_, colour, _)) in enumerate(LOSSES.items()):
        raw, running = lines[2 * number], lines[2 * number + 1]
        assert np.asarray(raw.get_xydata()).tolist() == shown[["groups", loss]].to_numpy(dtype=float).tolist()
        assert raw.get_linewidth() < running.get_linewidth()
        assert {raw.get_color(), running.get_color()} == {colour}
        # The window of 2% of 500 steps is 10: five before a step, itself and four after it.
        assert np.asarray(running.get_ydata())[100] == pytest.approx(shown[loss].to_numpy()[95:105].mean())


def test_losses_are_those_of_the_lowest_split_and_seed_which_the_title_names() -> None:
    curves = losses_of(20)
    pairs = [(2, 0), (1, 5), (1, 3)]
    both = pd.concat([training_of(curves.assign(loss=number), *pair) for number, pair in enumerate(pairs)])
    shown = first_trainings(both)
    assert shown["loss"].tolist() == [2] * 20
    assert (
        losses_figure(shown).axes[0].get_title().replace("\n", " ") == "Fashion-set, ConvNet-3, class split 1, seed 3"
    )
    seeds = first_trainings(both[both["split"] == 1])
    assert losses_figure(seeds).axes[0].get_title() == "Fashion-set, ConvNet-3, seed 3"
    assert losses_figure(first_trainings(training_of(curves, 0, 0))).axes[0].get_title() == "Fashion-set, ConvNet-3"


def test_losses_that_were_not_trained_on_are_left_out() -> None:
    curves = losses_of(50).drop(columns="full_loss").assign(consistency_loss=float("nan"))
    assert legend(losses_figure(curves)) == ["L1 metric", "total"]
    with pytest.raises(ValueError, match="no losses"):
        losses_figure(curves[["family", "family_label", "target", "target_label", "groups"]])
    with pytest.raises(ValueError, match="no losses"):
        losses_figure(curves.iloc[:0])


def test_long_losses_are_thinned_and_a_spike_does_not_flatten_them() -> None:
    curves = losses_of(10_001)
    curves.loc[5000, ["metric_loss", "loss"]] = 1e3
    axes = losses_figure(curves).axes[0]
    assert max(np.size(line.get_xdata()) for line in axes.get_lines()) <= 2000
    assert axes.get_ylim()[1] < 20
    assert len(to_bytes(losses_figure(curves), "pdf")) < 300_000


@pytest.mark.parametrize(("format", "begins"), [("pdf", b"%PDF-"), ("png", b"\x89PNG")])
def test_the_same_numbers_give_the_same_bytes(format: str, begins: bytes) -> None:
    points = points_of(list(FAMILIES), ["convnet3"], ["PudNet", "MUSML"])
    printed = printed_of("PudNet", "fashion", "convnet3", 0.2, 97, 1)
    drawn = to_bytes(panels(points, printed), format)
    assert drawn.startswith(begins)
    assert b"CreationDate" not in drawn
    assert drawn == to_bytes(panels(points, printed), format)
    assert drawn != to_bytes(panels(points), format)
    losses = losses_of(300)
    assert to_bytes(losses_figure(losses), format).startswith(begins)
    assert to_bytes(losses_figure(losses), format) == to_bytes(losses_figure(losses), format)


def test_the_picture_has_the_size_of_a_page_and_ink_of_every_curve() -> None:
    points = points_of(list(FAMILIES), ["convnet3"], ["PudNet", "MUSML"])
    pixels = imread(io.BytesIO(to_bytes(panels(points), "png")))
    assert pixels.shape[:2] == (540, 1400)  # 7 x 2.7 inches at 200 dots per inch
    for colour, _, _ in STYLES[:2]:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels[..., :3] - wanted).max(axis=2) < 0.01).sum() > 500
