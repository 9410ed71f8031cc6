"""Figure of canonical correlations: a panel for each family, learned pairs against shuffled ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.rendering.figures import NORMAL, SMALL, STYLES, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def correlation_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Figure 1: a panel per family of `tables` (label -> `correlation_table`), side by side. Raises ValueError for none."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not tables:
        raise ValueError("no family to draw")
    figure = Figure(figsize=(min(7.0, 0.7 + 2.5 * len(tables)), 2.6), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    learned, random = STYLES[0][0], STYLES[1][0]
    lowest = 0.0
    for axes, (label, table) in zip(panels, tables.items(), strict=True):
        pair = table["pair"].to_numpy()
        for suffix, alpha in (("", 0.2), ("_held_out", 0.12)):
            low, high = (table[f"random{suffix}_{end}"].to_numpy() for end in ("low", "high"))
            axes.fill_between(pair, low, high, color=random, alpha=alpha, linewidth=0)
        held_out: dict[str, Any] = {"linewidth": 0.8, "markersize": 3, "markerfacecolor": "white"}
        axes.plot(pair, table["learned"], color=learned, marker="o", markersize=4.5, label="learned")
        axes.plot(pair, table["random_mean"], color=random, marker="s", markersize=3.5, linestyle="--", label="random")
        axes.plot(pair, table["learned_held_out"], color=learned, marker="o", label="learned, held out", **held_out)
        axes.plot(
            pair, table["random_held_out_mean"], color=random, marker="s", linestyle=(0, (2, 2)),
            label="random, held out", **held_out,
        )  # fmt: skip
        lowest = min(lowest, table["learned_held_out"].min(), table["random_held_out_low"].min())
        title = f"{label} (n = {int(table['n'].iloc[0])})"
        axes.set_title(wrapped(title, figure, len(tables)), fontsize=NORMAL)
        axes.set_xlabel("canonical pair", fontsize=NORMAL)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=SMALL)
        axes.grid(alpha=0.3)
    panels[0].set_ylim(lowest - 0.05 if lowest < 0 else 0.0, 1.02)
    panels[0].set_ylabel("correlation coefficient", fontsize=NORMAL)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 4 if len(tables) > 1 else 2
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=NORMAL, handlelength=2.6
    )
    return figure
