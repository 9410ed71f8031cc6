"""Learning curves: accuracy on unseen classes against the number of groups that a method was meta-trained on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from results.statistics import mean_ci

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours, told apart by colour-blind readers; markers and dashes tell them apart in grey.
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (3, 1, 1, 1))),
    ("#000000", "X", (0, (1, 1))),
)
COLUMNS = ("family", "target", "device", "curve", "training_groups", "accuracy_mean", "accuracy_ci", "n")


def learning_curves(frame: pd.DataFrame, curves: Mapping[str, str]) -> pd.DataFrame:
    """One row per point: mean accuracy and half-width of the 95% t interval over groups, in percent.

    ``frame`` is ``Run.frame()``; ``curves`` says which methods of it are points of a curve: method -> the curve's label.
    Columns: ``COLUMNS``, sorted by ``training_groups`` within a curve.
    """
    import pandas as pd

    frame = frame[frame["method"].isin(list(curves))]
    points = frame.assign(curve=frame["method"].map(dict(curves)))
    rows = []
    for keys, group in points.groupby(list(COLUMNS[:5]), sort=False):
        accuracy = mean_ci(100 * group["accuracy"].to_numpy())
        rows.append((*keys, accuracy.mean, accuracy.half_width, accuracy.n))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(list(COLUMNS[:5]), ignore_index=True)


def draw(points: pd.DataFrame, title: str, format: str, paper: Mapping[str, float] | None = None) -> bytes:
    """A figure of ``learning_curves`` of one family, target and device, as "pdf" or "png".

    Bands are the 95% intervals. ``paper`` gives the accuracy (percent) that the paper prints for a curve, drawn as a
    hollow marker at the right edge: the paper trains on more groups than the axis may show.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for number, (curve, rows) in enumerate(points.groupby("curve", sort=False)):
        colour, marker, dashes = STYLES[number % len(STYLES)]
        x, mean, half = (rows[name].to_numpy() for name in ("training_groups", "accuracy_mean", "accuracy_ci"))
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
        axes.plot(x, mean, linestyle=dashes, label=str(curve), **style)
        axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
        printed = (paper or {}).get(str(curve))
        if printed is not None:
            axes.plot(
                [1.0], [printed], linestyle="", markerfacecolor="none", clip_on=False,
                transform=axes.get_yaxis_transform(), **style,
            )  # fmt: skip
    if paper:
        hollow: dict[str, Any] = {"color": "0.4", "marker": "o", "markersize": 5, "markerfacecolor": "none"}
        axes.plot([], [], linestyle="", label="the paper's number (right edge)", **hollow)
    axes.set_xlabel("groups seen in meta-training")
    axes.set_ylabel("accuracy on unseen classes (%)")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format=format, dpi=160, metadata={"CreationDate": None} if format == "pdf" else None)
    return content.getvalue()
