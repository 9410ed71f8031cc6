"""How time and memory grow with size: exponents with their intervals, and the figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pudnet_bench.results.rendering.figures import NORMAL, SMALL, STYLES, to_bytes, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

POINTS = ("subject", "unit", "n", "seconds", "cpu_seconds", "peak_bytes", "extra_bytes")
QUANTITIES = ("seconds", "cpu_seconds", "peak_bytes")
SPEED_UPS = ("processes", "seconds")
EXPONENTS = ("subject", "unit", "quantity", "exponent", "low", "high", "n")


@dataclass(frozen=True)
class Exponent:
    """The exponent b of y = a n^b with its 95% t interval from `n` points; the bounds are NaN for fewer than three."""

    value: float
    low: float
    high: float
    n: int


def exponent(sizes: np.ndarray, values: np.ndarray) -> Exponent:
    """Fit log `values` to log `sizes`, both [n] and positive, by least squares; raises ValueError for fewer than two sizes."""
    from scipy.special import stdtrit

    if len(set(np.asarray(sizes).tolist())) < 2:
        raise ValueError("an exponent needs two sizes")
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(values, dtype=np.float64))
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    if len(x) < 3:
        return Exponent(slope, math.nan, math.nan, len(x))
    residuals = y - y.mean() - slope * centred
    error = math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(centred @ centred))
    half = float(stdtrit(len(x) - 2, 0.975)) * error
    return Exponent(slope, slope - half, slope + half, len(x))


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """The exponent of each of `QUANTITIES` for each subject of `points` (columns `POINTS`), in columns `EXPONENTS`."""
    import pandas as pd

    found = []
    for (subject, unit), rows in points.groupby(["subject", "unit"], sort=False):
        for quantity in QUANTITIES:
            fitted = exponent(rows["n"].to_numpy(), rows[quantity].to_numpy())
            found.append((subject, unit, quantity, fitted.value, fitted.low, fitted.high, fitted.n))
    return pd.DataFrame(found, columns=list(EXPONENTS))


def draw(points: pd.DataFrame, speed_ups: pd.DataFrame, format: str) -> bytes:
    """Draw time (above) and memory (below) against n, a column per unit, and the speed-up with processes.

    Args:
        points: Columns `POINTS`.
        speed_ups: Columns `SPEED_UPS`, a row per repetition; may be empty.
        format: "pdf" or "png".

    Returns:
        The file's content. Dotted lines are in proportion to n.
    """
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(points["unit"]))
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    grid = figure.subplots(2, len(units) + 1, squeeze=False, width_ratios=[3] * len(units) + [2])
    for column, unit in enumerate(units):
        shown = points[points["unit"] == unit]
        above, below = grid[0, column], grid[1, column]
        for (_, rows), (colour, marker, dashes) in zip(shown.groupby("subject", sort=False), STYLES, strict=False):
            label = str(rows["subject"].iloc[0])
            style = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 3.5, "linewidth": 1.1}
            above.plot(rows["n"], rows["seconds"], label=wrapped(label, figure, 2 * len(units) + 1), **style)
            below.plot(rows["n"], rows["extra_bytes"] / 1e6, **style)
        first, last = shown["n"].min(), shown["n"].max()
        low = shown["seconds"].min()
        above.plot([first, last], [low, low * last / first], color="0.5", linestyle=":", linewidth=1)
        above.set_yscale("log")
        below.set_ylim(0, max(50, 1.1 * points["extra_bytes"].max() / 1e6))
        for axes in (above, below):
            axes.set_xscale("log")
            _dress(axes, f"number of {unit}")
        # Below the speed-up, where there is space.
        legend = grid[1, -1].legend(
            *above.get_legend_handles_labels(), title=f"over {unit}", loc="upper left", alignment="left", frameon=False,
            bbox_to_anchor=(-0.25, 1 - 0.78 * column), borderaxespad=0, fontsize=SMALL, title_fontsize=SMALL,
        )  # fmt: skip
        legend.set_in_layout(False)
        if column < len(units) - 1:  # the next legend would replace it
            grid[1, -1].add_artist(legend)
    grid[0, 0].set_ylabel("seconds (dotted: in proportion)", fontsize=NORMAL)
    grid[1, 0].set_ylabel("memory beyond what was given (MB)", fontsize=NORMAL)
    _draw_speed_ups(grid[0, -1], speed_ups)
    grid[1, -1].set_axis_off()
    return to_bytes(figure, format)


def speed_up(speed_ups: pd.DataFrame) -> dict[int, float]:
    """The speed relative to one process by the number of processes: ratios of median seconds."""
    medians = speed_ups.groupby("processes")["seconds"].median()
    return {int(str(processes)): float(medians[1] / seconds) for processes, seconds in medians.items()}


def _draw_speed_ups(axes: Axes, speed_ups: pd.DataFrame) -> None:
    if speed_ups.empty:
        axes.remove()
        return
    measured = speed_up(speed_ups)
    axes.bar([str(p) for p in measured], list(measured.values()), color=STYLES[5][0])
    for place, processes in enumerate(measured):
        axes.plot([place - 0.4, place + 0.4], [processes] * 2, color="0.3", linestyle=":", linewidth=1.2)
        axes.text(place, measured[processes] / 2, f"{measured[processes]:.2f}", ha="center", fontsize=NORMAL)
    _dress(axes, "processes")
    axes.set_ylabel("speed-up of a run (dotted: ideal)", fontsize=NORMAL)


def _dress(axes: Axes, x_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=NORMAL)
    axes.tick_params(which="both", labelsize=SMALL)
    axes.grid(alpha=0.3)
