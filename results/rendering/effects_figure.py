"""Figure of effects: each reading's effect of what its control is denied, with its interval, for each family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from pudnet_bench.results.rendering.figures import NORMAL, SMALL, STYLES, wrapped
from pudnet_bench.results.rendering.interval_text import note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pudnet_bench.results.analysis.effects import Effect
    from pudnet_bench.results.analysis.intervals import Estimate

COLUMNS = (
    "family", "family_label", "effect", "method", "control", "label", "difference", "low", "high", "detectable", "interval", "n",
    "splits", "classes", "seeds",
)  # fmt: skip


def effect_rows(
    measured: Mapping[Effect, Mapping[str, Estimate]], labels: Mapping[str, str], families: Mapping[str, str]
) -> pd.DataFrame:
    """One row per effect and family, in percentage points; low and high are NaN without an interval. Columns `COLUMNS`."""
    rows = [
        (
            family, families.get(family, family), effect.name, effect.method, effect.control,
            labels.get(effect.method, effect.method), each.mean, each.mean - each.half_width(), each.mean + each.half_width(),
            each.detectable(), each.unit, each.n, each.splits, each.classes, each.seeds,
        )
        for effect, found in measured.items()
        for family, each in found.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def effects_figure(rows: pd.DataFrame) -> Figure:
    """A panel for each family with a line for each variant: mean and 95% interval of each of its effects."""
    from matplotlib.figure import Figure

    titles = dict(zip(rows["family"], rows["family_label"], strict=True))
    families = list(titles)
    labels, effects = (list(dict.fromkeys(rows[name])) for name in ("label", "effect"))
    width = {1: 4.5, 2: 6.0}.get(len(families), 7.0)
    figure = Figure(figsize=(width, 1.2 + 0.24 * len(labels)), layout="constrained")
    grid = figure.subplots(1, len(families), squeeze=False, sharey=True)[0]
    step = 0.5 / max(1, len(effects))
    for axes, family in zip(grid, families, strict=True):
        axes.axvline(0, color="#888888", linewidth=0.8)
        for number, effect in enumerate(effects):
            colour, marker, _ = STYLES[number % len(STYLES)]
            shown = rows[(rows["family"] == family) & (rows["effect"] == effect)]
            heights = [labels.index(label) + (number - (len(effects) - 1) / 2) * step for label in shown["label"]]
            axes.plot(shown["difference"], heights, marker, color=colour, markersize=3.5, label=f"of {effect}")
            axes.hlines(heights, shown["low"], shown["high"], color=colour, linewidth=1.2)
        axes.set_title(titles[family], fontsize=NORMAL)
        axes.set_yticks(range(len(labels)), labels, fontsize=SMALL)
        axes.tick_params(axis="x", labelsize=SMALL)
        axes.grid(alpha=0.3, axis="x")
    grid[0].invert_yaxis()
    claims = [tuple(row) for row in rows[["interval", "splits", "classes", "seeds"]].itertuples(index=False)]
    text = f"effect on accuracy (percentage points). {note('Bars', claims)}"
    figure.supxlabel(wrapped(text, figure, 1), fontsize=SMALL)
    if len(effects) > 1:
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(effects), fontsize=SMALL
        )
    return figure
