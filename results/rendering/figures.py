"""Figures of panels: rows are target networks, columns are families of data sets.

Accuracies are drawn against a number (groups seen, an option's value, epochs), losses against the groups seen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pudnet_bench.results.rendering.interval_text import note

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable for colour-blind readers; markers and dashes distinguish them in grey.
STYLES = (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1))), ("#56B4E9", "P", (0, (3, 1, 1, 1))), ("#000000", "X", (0, (1, 1))),
)  # fmt: skip
# Column of `losses_figure` -> its name in the legend, colour and dashes.
LOSSES: dict[str, tuple[str, str, Literal["-", "--", "-.", ":"]]] = {
    "metric_loss": ("L1 metric", STYLES[0][0], "--"),
    "full_loss": ("L2 full classification", STYLES[1][0], "-."),
    "consistency_loss": ("L3 consistency", STYLES[2][0], ":"),
    "loss": ("total", "#000000", "-"),
}
SMALL, NORMAL = 7.0, 7.5  # points: ticks; titles, labels and legend


def losses_of(curves: pd.DataFrame) -> list[str]:
    """The columns of `LOSSES` that `curves` has values of."""
    return [name for name in LOSSES if name in curves and curves[name].notna().any()]


def running_mean(loss: pd.Series) -> np.ndarray:
    """Mean [steps] of a loss over 2% of the steps around each."""
    window = max(1, round(0.02 * len(loss)))
    return loss.rolling(window, center=True, min_periods=1).mean().to_numpy(dtype=float)


def top_of_losses(curves: pd.DataFrame) -> float:
    """Where the axis of the losses of one training ends: rare spikes of single steps may leave the panel."""
    tops = [max(np.nanmax(running_mean(curves[n])), curves[n].quantile(0.995)) for n in losses_of(curves)]
    return 1.05 * float(max(tops)) if tops and max(tops) > 0 else 1.0


def training_label(training: tuple[int, int], trainings: Collection[tuple[int, int]]) -> str:
    """Name of one (split, seed) of several `trainings`; "" for the only one."""
    split, seed = training
    if len(set(trainings)) < 2:
        return ""
    return f"class split {split}, seed {seed}" if len({each for each, _ in trainings}) > 1 else f"seed {seed}"


def first_trainings(losses: pd.DataFrame) -> pd.DataFrame:
    """The rows of one training for each target and family, of the lowest (split, seed); `training` has its label."""
    known = losses[["target", "family", "split", "seed"]].drop_duplicates().sort_values(["split", "seed"])
    pairs = list(zip(known["split"], known["seed"], strict=True))
    known = known.assign(training=[training_label(pair, pairs) for pair in pairs])
    return losses.merge(known.drop_duplicates(["target", "family"]))


def to_bytes(figure: Figure, format: str) -> bytes:
    """The picture as "pdf" or "png"; the same figure gives the same bytes."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):  # journals refuse Type 3 fonts
        figure.savefig(content, format=format, dpi=200, metadata={"CreationDate": None} if format == "pdf" else None)
    return content.getvalue()


def _grid(frame: pd.DataFrame, x_label: str, y_label: str) -> tuple[Figure, list[tuple[Axes, pd.DataFrame, str]]]:
    """A figure, and for each panel its axes, its rows of `frame` and its name: family, target, training if labelled."""
    from matplotlib.figure import Figure

    targets, families = (list(dict.fromkeys(frame[name])) for name in ("target", "family"))
    width = {1: 3.5, 2: 5.5}.get(len(families), 7.0)
    figure = Figure(figsize=(width, 0.7 + 2.0 * len(targets)), layout="constrained")
    grid = figure.subplots(len(targets), len(families), squeeze=False)
    if len(targets) > 1:
        figure.supylabel(y_label, fontsize=NORMAL)
    else:  # beside its panel, however high the legend is
        grid[0, 0].set_ylabel(y_label, fontsize=NORMAL)
    lowest = frame["target"].map(targets.index).groupby(frame["family"].to_numpy()).max()
    panels = []
    for (row, column), axes in np.ndenumerate(grid):
        shown = frame[(frame["target"] == targets[row]) & (frame["family"] == families[column])]
        if shown.empty:
            axes.remove()
            continue
        axes.tick_params(which="both", labelsize=SMALL)
        axes.grid(alpha=0.3)
        if row == lowest[families[column]]:  # not once for the figure: that label and the legend would share one place
            axes.set_xlabel(wrapped(x_label, figure, len(families)), fontsize=NORMAL)
        first = shown.iloc[0]
        names = first["family_label"], first["target_label"], first.get("training", "")
        panels.append((axes, shown, ", ".join(filter(None, names))))
    return figure, panels


def wrapped(text: str, figure: Figure, columns: int) -> str:
    """`text` at the size NORMAL, broken into lines no wider than one of the `columns` of the figure."""
    inches = figure.get_figwidth() / columns - 0.3
    letters = int(inches * 72 / (0.53 * NORMAL))  # a letter is about half as wide as it is high
    # textwrap does not break at the no-break space, which keeps "n = 100" together.
    text = text.replace(" = ", "\xa0=\xa0")
    lines = textwrap.wrap(text, letters, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\xa0", " ")


def panels_figure(
    points: pd.DataFrame, x_label: str, *, log_x: bool = False, printed: pd.DataFrame | None = None
) -> Figure:
    """Accuracy against x: a panel per target (row) and family (column) of `points`, in its order.

    `points` has the columns of `curves.points`, family_label and target_label; a point whose interval is NaN has no band.
    `printed` has the paper's numbers: curve, column (a family), target, x, value, ci (percent); they are hollow markers in
    the curve's colour, and those without a panel are left out. Above the legend is what the intervals are about. Raises
    ValueError for no points and for points of more than one device.
    """
    from matplotlib.lines import Line2D

    if points.empty:
        raise ValueError("no points to draw")
    devices = sorted(set(points["device"]))
    if len(devices) > 1:
        raise ValueError(f"points of {len(devices)} devices in one figure: {', '.join(devices)}")
    if printed is not None:
        pairs = set(zip(points["family"], points["target"], strict=True))
        drawn = [pair in pairs for pair in zip(printed["column"], printed["target"], strict=True)]
        printed = printed[drawn].dropna(subset=["x", "value"])
    names = list(dict.fromkeys([*points["curve"], *([] if printed is None else printed["curve"])]))
    styles: dict[Any, Any] = {name: STYLES[number % len(STYLES)] for number, name in enumerate(names)}

    figure, panels = _grid(points, x_label, "accuracy on unseen classes (%)")
    columns = points["family"].nunique()
    for axes, shown, name in panels:
        for curve, rows in shown.groupby("curve", sort=False):
            _draw_curve(axes, rows.sort_values("x"), styles[curve])
        x = set(shown["x"])
        if printed is not None:
            here = (printed["column"] == shown["family"].iloc[0]) & (printed["target"] == shown["target"].iloc[0])
            x |= set(printed.loc[here, "x"])
            for curve, rows in printed[here].groupby("curve", sort=False):
                colour, marker, _ = styles[curve]
                axes.errorbar(
                    rows["x"], rows["value"], yerr=rows["ci"], linestyle="", color=colour, marker=marker, markersize=7,
                    markerfacecolor="none", elinewidth=0.8, zorder=3,
                )  # fmt: skip
        if log_x:
            _set_log_x(axes, sorted(x))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, 101.0))  # an interval may reach beyond what an accuracy can be
        fewest, most = int(shown["n"].min()), int(shown["n"].max())
        number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        axes.set_title(wrapped(f"{name} (n = {number})", figure, columns), fontsize=NORMAL)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dashes, markersize=4, linewidth=1.2, label=str(curve))
        for curve, (colour, marker, dashes) in styles.items()
    ]
    if printed is not None and not printed.empty:
        hollow: dict[str, Any] = {"color": "0.3", "marker": "o", "markersize": 7, "markerfacecolor": "none"}
        handles.append(Line2D([], [], linestyle="", label="the paper's number", **hollow))
    _place_legend(figure, handles if len(handles) > 1 else [], _interval_note(points))
    return figure


def _interval_note(points: pd.DataFrame) -> str:
    claims = points[["interval", "splits", "classes", "seeds"]].itertuples(index=False, name=None)
    return note("Bands" if points.groupby(["family", "target", "curve"]).size().max() > 1 else "Bars", claims)


def _set_log_x(axes: Axes, x: list[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.set_xscale("log")
    # No powers of ten: their exponents would be too small to read in print.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,g}k" if x >= 1000 else f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if x[-1] < 10 * x[0]:  # one power of ten or none is within reach
        axes.xaxis.set_major_locator(FixedLocator(x))


def _draw_curve(axes: Axes, rows: pd.DataFrame, style: Any) -> None:
    colour, marker, dashes = style
    x, mean, half = (rows[name].to_numpy(dtype=float) for name in ("x", "accuracy_mean", "accuracy_ci"))
    axes.plot(x, mean, color=colour, marker=marker, linestyle=dashes, markersize=4, linewidth=1.2)
    known = np.isfinite(half)
    if known.sum() > 1:
        axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    elif known.any():  # a band of no width would not be seen
        axes.errorbar(x[known], mean[known], yerr=half[known], color=colour, elinewidth=1.2, capsize=2.5, linestyle="")


def _place_legend(figure: Figure, handles: list[Any], title: str = "") -> None:
    inches = [0.56 + len(handle.get_label()) * 0.53 * NORMAL / 72 for handle in handles]  # the line's sample, the text
    columns = len(handles)
    while columns > 1 and sum(part.max() for part in np.array_split(inches, columns)) > figure.get_figwidth():
        columns -= 1
    figure.legend(
        handles=handles, loc="outside lower center", ncols=max(1, columns), frameon=False, fontsize=NORMAL,
        handlelength=2.6, title=wrapped(title, figure, 1) or None, title_fontsize=SMALL,
    )  # fmt: skip


def losses_figure(curves: pd.DataFrame) -> Figure:
    """Losses against groups seen in meta-training, a panel per target (row) and family (column).

    `curves` has the columns family, family_label, target, target_label, groups, and any of metric_loss, full_loss,
    consistency_loss and loss (their sum); one row per recorded step of one training, which a column `training` may
    name. The strong line is the running mean over 2% of the steps, the light line a single step, thinned to at most 2000;
    rare spikes may leave the panel. Raises ValueError for no rows or no loss.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    losses = losses_of(curves)
    if not losses:
        raise ValueError("no losses to draw")
    figure, panels = _grid(curves, "groups seen in meta-training", "loss")
    columns = curves["family"].nunique()
    for axes, shown, name in panels:
        shown = shown.sort_values("groups", kind="stable")
        x, step = shown["groups"].to_numpy(dtype=float), -(-len(shown) // 2000)
        for number, loss in enumerate(losses):
            _, colour, dashes = LOSSES[loss]
            raw = shown[loss].to_numpy(dtype=float)
            if np.isnan(raw).all():
                continue
            running = running_mean(shown[loss])
            axes.plot(x[::step], raw[::step], color=colour, linewidth=0.4, alpha=0.25, zorder=1, rasterized=True)
            axes.plot(x[::step], running[::step], color=colour, linewidth=1.3, linestyle=dashes, zorder=2 + number)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_ylim(0, top_of_losses(shown))
        axes.set_title(wrapped(name, figure, columns), fontsize=NORMAL)
    styles = [LOSSES[loss] for loss in losses]
    handles = [Line2D([], [], color=colour, linestyle=dash, linewidth=1.3, label=text) for text, colour, dash in styles]
    _place_legend(figure, handles)
    return figure
