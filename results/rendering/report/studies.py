"""Plots and tables of a report page's figures: losses of meta-training and canonical correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pudnet_bench.results.rendering.charts import Look, Point, Series, chart
from pudnet_bench.results.rendering.figures import LOSSES, first_trainings, losses_of, running_mean, top_of_losses
from pudnet_bench.results.rendering.report.model import Entry, Head, PageTable, Plot, ReportedRun, words

if TYPE_CHECKING:
    import pandas as pd

CORRELATION_NOTE = (
    "Learned: datasets with the parameters trained on them. Random: with those of others; the areas have 95% of the "
    "shuffles. Held out: on samples that the analysis was not fitted to; without, chance alone correlates."
)
MOST_STEPS, MOST_TITLED = 400, 100  # steps of a training that are drawn, and that can be pointed at
_LOSS_STYLES = dict(zip(LOSSES, (0, 1, 2, 6), strict=True))  # colours and dashes close to those of the figure
_CORRELATIONS: tuple[tuple[str, str, Look], ...] = (("", "", ""), (", held out", "_held_out", "hollow"))


def _trainings(losses: pd.DataFrame | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """(label, rows in the order of the groups) of one meta-training for each target and family."""
    if losses is None:
        return
    for _, rows in first_trainings(losses).groupby(["target", "family"], sort=False):
        first = rows.iloc[0]
        names = first["family_label"], first["target_label"], first["training"]
        yield ", ".join(filter(None, names)), rows.sort_values("groups", kind="stable")


def loss_plots(run: ReportedRun) -> list[Plot]:
    """The losses of meta-training against the groups seen, a plot for each training."""
    plots = []
    for title, rows in _trainings(run.losses):
        x, top = rows["groups"].to_numpy(dtype=float), top_of_losses(rows)
        steps, thinned = np.arange(0, len(rows), -(-len(rows) // MOST_STEPS)), []
        titled = np.arange(0, len(rows), -(-len(rows) // MOST_TITLED))
        for loss in losses_of(rows):
            label, style = LOSSES[loss][0], _LOSS_STYLES[loss]
            raw, running = rows[loss].to_numpy(dtype=float), running_mean(rows[loss])
            single = tuple(Point(x[place], raw[place]) for place in steps if math.isfinite(raw[place]))
            mean = tuple(
                Point(x[place], running[place], title=f"{label} at {x[place]:,.0f} groups: {running[place]:.3g}")
                for place in titled
                if math.isfinite(running[place])
            )
            thinned += [Series(label, single, style, "faint"), Series(label, mean, style, "line")]
        drawing = chart(title, sorted(thinned, key=lambda one: one.look), "groups seen in meta-training", "loss",
                        x_scale="whole", y_range=(0.0, top))  # fmt: skip
        note = (
            "Strong: mean over 2% of the reported steps around each. Faint: single steps, whose rare spikes may be cut."
        )
        plots.append(Plot(title, drawing, note))
    return plots


def loss_tables(run: ReportedRun) -> list[PageTable]:
    """The mean of each loss in the quarters of a meta-training: the plots, for those who cannot see them."""
    rows, quarters = [], ("first quarter", "second", "third", "last quarter")
    for title, training in _trainings(run.losses):
        parts = np.array_split(np.arange(len(training)), len(quarters))
        for loss in losses_of(training):
            values = training[loss].to_numpy(dtype=float)
            means = (float(values[part].mean()) if len(part) else math.nan for part in parts)
            entries = (Entry("—", None) if math.isnan(mean) else Entry(f"{mean:.3g}", mean) for mean in means)
            rows.append((words(title), words(LOSSES[loss][0]), *entries))
    if not rows:
        return []
    heads = (Head("Training", numeric=False), Head("Loss", numeric=False), *(Head(part) for part in quarters))
    return [PageTable("Mean losses by quarter of meta-training", "", heads, tuple(rows))]


def correlation_plots(run: ReportedRun) -> list[Plot]:
    """Canonical correlations of true and of shuffled pairs, a plot for each cell."""
    plots = []
    for title, table in run.correlations.items():
        series, lowest = [], 0.0
        for kind, suffix, look in _CORRELATIONS:
            learned, random = table[f"learned{suffix}"], table[f"random{suffix}_mean"]
            ends = list(zip(table[f"random{suffix}_low"], table[f"random{suffix}_high"], strict=True))
            name = f"random{kind}"
            series += [
                Series(f"learned{kind}", tuple(
                    Point(pair, value, title=f"learned{kind}, pair {pair}: {value:.3f}")
                    for pair, value in zip(table["pair"], learned, strict=True)
                ), 0, look),
                Series(name, tuple(
                    Point(pair, value, title=f"{name}, pair {pair}: {value:.3f} ({low:.3f} to {high:.3f})")
                    for pair, value, (low, high) in zip(table["pair"], random, ends, strict=True)
                ), 1, look, tuple(ends)),
            ]  # fmt: skip
            lowest = min(lowest, float(learned.min()), min(low for low, _ in ends))
        drawing = chart(title, series, "canonical pair", "correlation coefficient", x_scale="whole",
                        y_range=(lowest, 1.0))  # fmt: skip
        plots.append(Plot(f"{title} (n = {int(table['n'].iloc[0])})", drawing, CORRELATION_NOTE))
    return plots


def correlation_tables(run: ReportedRun) -> list[PageTable]:
    """The numbers of the plots."""
    heads = [Head("Pair")]
    for kind, _, _ in _CORRELATIONS:
        heads += [Head(label, kind.removeprefix(", ")) for label in ("learned", "random", "95% of the random")]
    tables = []
    for title, table in run.correlations.items():
        rows = []
        for row in table.to_dict("records"):
            line = [Entry(f"{row['pair']:.0f}", float(row["pair"]))]
            for _, suffix, _ in _CORRELATIONS:
                low, high = row[f"random{suffix}_low"], row[f"random{suffix}_high"]
                line += [_fixed(row[f"learned{suffix}"]), _fixed(row[f"random{suffix}_mean"])]
                line.append(Entry(f"{low:.3f} to {high:.3f}", low))
            rows.append(tuple(line))
        tables.append(PageTable(f"Canonical correlations, {title}", "", tuple(heads), tuple(rows)))
    return tables


def _fixed(value: float) -> Entry:
    return Entry(f"{value:z.3f}", value)
