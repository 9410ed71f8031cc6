"""Plots of a report page's results: accuracy against time, FLOPs, epochs and what a figure varies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pudnet_bench.results.analysis import curves, intervals
from pudnet_bench.results.analysis.intervals import PAIR, Estimate, estimate, last_snapshots
from pudnet_bench.results.analysis.statistics import of_one_thread_count, pareto_front
from pudnet_bench.results.rendering.charts import Level, Point, Scale, Series, chart
from pudnet_bench.results.rendering.interval_text import about, claim, note
from pudnet_bench.results.rendering.report.model import Plot, ReportedRun, row_label
from pudnet_bench.results.rendering.tables import TableCell, TableLayout, column_labels, format_accuracy, format_seconds

if TYPE_CHECKING:
    import pandas as pd

ACCURACY = "accuracy on unseen classes (%)"


@dataclass(frozen=True)
class Effort:
    """A quantity that accuracy is plotted against: a column of rows, in units of `unit`, its name, axis and format."""

    column: str
    unit: float
    name: str
    axis: str
    text: Callable[[float], str]


TIME = Effort("seconds", 1.0, "time", "time until a classifier is ready (s)", lambda x: f"{format_seconds(x)} s")
FLOPS = Effort("fit_flops", 1e9, "FLOPs", "GFLOPs until a classifier is ready", lambda x: f"{x:.3g} GFLOPs")


def effort_plots(
    run: ReportedRun, cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, styles: Mapping[str, int],
    effort: Effort,
) -> list[Plot]:  # fmt: skip
    """Accuracy against time or FLOPs, a plot for each family."""
    means = {
        tuple(map(str, where)): float(_of_effort(rows, effort).mean()) / effort.unit
        for where, rows in frame.groupby(["method", "snapshot", "family"], sort=False)
    }
    names = _method_labels(cells)
    plots = []
    for family, label in column_labels({cell.column for cell in cells}, layout).items():
        measured = [cell for cell in cells if cell.column == family and cell.n]
        places = [(cell, means[cell.row.method, cell.row.snapshot, family]) for cell in measured]
        # What is not known, or none at all, has no place on a logarithmic axis.
        shown = [(cell, x) for cell, x in places if x > 0]
        if len(shown) < 2:  # nothing to compare it with
            continue
        found = [
            run.estimates[cell.device, layout.target, cell.row.method, cell.row.snapshot, family] for cell, _ in shown
        ]
        pairs = [(x, accuracy.mean) for (_, x), accuracy in zip(shown, found, strict=True)]
        front = pareto_front(pairs)
        points: dict[str, list[Point]] = {}
        for place, ((cell, x), accuracy) in enumerate(zip(shown, found, strict=True)):
            text = f"{row_label(cell.row)}: {_percent(accuracy)} in {effort.text(x)} (n = {accuracy.n})"
            point = Point(x, accuracy.mean, accuracy.half_width(), text, place in front)
            points.setdefault(cell.row.method, []).append(point)
        series = [Series(names[method], tuple(p), styles[method]) for method, p in points.items()]
        title = f"Accuracy against {effort.name}, {label}"
        drawing = chart(title, series, effort.axis, ACCURACY, x_scale="log", front=[pairs[place] for place in front])
        told = f"{note('Bars', map(claim, found))} Snapshots of one training are joined. Ringed: on the Pareto front."
        plots.append(Plot(title, drawing, told))
    return plots


def _percent(accuracy: Estimate) -> str:
    return f"{format_accuracy(accuracy.mean, accuracy.half_width(), '±')} %"


def _of_effort(rows: pd.DataFrame, effort: Effort) -> pd.Series:
    return (of_one_thread_count(rows)[0] if effort is TIME else rows)[effort.column]


def _method_labels(cells: Sequence[TableCell]) -> dict[str, str]:
    """The label of each method: that of its block, where it has one."""
    return {cell.row.method: cell.row.group_label or cell.row.label for cell in reversed(cells)}


def epoch_plots(
    cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, styles: Mapping[str, int], reference: str
) -> list[Plot]:
    """Accuracy against epochs of what trains from scratch, with the level of `reference` on the same groups."""
    names = _method_labels(cells)
    plots = []
    for family, label in column_labels({cell.column for cell in cells}, layout).items():
        here = frame[frame["family"] == family]
        trained = here[np.isfinite(here["epochs"].to_numpy()) & (here["method"] != reference).to_numpy()]
        if len(here[["method", "snapshot"]].drop_duplicates()) < 2 or trained.empty:
            continue
        series, found = [], []
        for method, rows in trained.groupby("method", sort=False):
            points = []
            for epochs in sorted(rows["epochs"].unique()):
                some = rows[rows["epochs"] == epochs]
                mean = estimate(some, 100 * some["accuracy"])
                title = f"{names[str(method)]}, epoch {epochs:g}: {_percent(mean)} (n = {mean.n})"
                points.append(Point(float(epochs), mean.mean, mean.half_width(), title=title))
                found.append(mean)
            series.append(Series(names[str(method)], tuple(points), styles[str(method)]))
        ours = last_snapshots(here[here["method"] == reference]).merge(trained[PAIR].drop_duplicates(), on=PAIR)
        title, told, levels = f"Accuracy against epochs, {label}", "", []
        if len(ours):
            level = estimate(ours, 100 * ours["accuracy"])
            text = f"{names[reference]}: {_percent(level)} (n = {level.n})"
            levels.append(Level(text, level.mean, level.half_width(), styles[reference]))
            found.append(level)
            told = f" {names[reference]}'s level is over the groups that were also trained on."
        told = note("Bars and band" if levels else "Bars", map(claim, found)) + told
        plots.append(Plot(title, chart(title, series, "epochs", ACCURACY, x_scale="whole", levels=levels), told))
    return plots


def learning_plots(run: ReportedRun) -> list[Plot]:
    """Accuracy against the number that a run varies: a plot for each target, family and device."""
    curve = run.curve
    if curve is None or not len(run.frame):
        return []
    points = curves.points(run.frame, curve.places)
    order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in curve.places.values()))}
    plots = []
    for where, rows in points.groupby(["target", "family", "device"], sort=False):
        target, family, device = map(str, where)
        printed = curve.printed[(curve.printed["target"] == target) & (curve.printed["column"] == family)]
        series = []
        for name, line in rows.groupby("curve", sort=False):
            series.append(Series(str(name), _line_points(line, "accuracy_mean", "accuracy_ci"), order[str(name)]))
        for name, line in printed.dropna(subset=["x", "value"]).groupby("curve", sort=False):
            style = order.setdefault(str(name), len(order))
            series.append(Series(f"{name}, the paper", _line_points(line, "value", "ci"), style, "paper"))
        x = [point.x for one in series for point in one.points]
        title = f"{run.family_label(family)}, {run.target_label(target)}"
        x_scale: Scale = "log" if curve.log_x and min(x) > 0 else "linear"
        drawing = chart(title, series, curve.x_label, ACCURACY, x_scale=x_scale)
        claims = rows[["interval", "splits", "classes", "seeds"]].itertuples(index=False, name=None)
        told = f"{note('Bars', claims)} On {device}."
        plots.append(Plot(title, drawing, told, with_paper=any(one.look == "paper" for one in series)))
    return plots


def _line_points(line: pd.DataFrame, mean: str, half: str) -> tuple[Point, ...]:
    return tuple(
        Point(
            float(row["x"]), float(row[mean]), float(row[half]),
            title=f"{row['curve']} at {row['x']:,g}: {format_accuracy(row[mean], row[half], '±')} %"
            + (f" (n = {row['n']})" if "n" in row else ""),
        )
        for row in line.sort_values("x").to_dict("records")
    )  # fmt: skip


def scatter(
    cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, reference: str
) -> dict[str, Any] | None:
    """Data of the page's scatter: accuracy (percent) of every row on every group, first of all against `reference`.

    None for fewer than two rows.
    """
    rows = {(cell.row.method, cell.row.snapshot): cell.row for cell in cells if cell.n}
    if len(rows) < 2:
        return None
    families = []
    for family, label in column_labels({cell.column for cell in cells}, layout).items():
        here = frame[frame["family"] == family]
        if here.empty:
            continue
        wide = here.pivot_table(index=PAIR, columns=["method", "snapshot"], values="accuracy", aggfunc="first")
        accuracies = [[round(100 * float(v), 3) for v in wide[place]] if place in wide else [] for place in rows]
        groups = [[int(number) for number in place] for place in wide.index]
        pairs = _pairs([here[(here["method"] == method) & (here["snapshot"] == name)] for method, name in rows])
        families.append({"label": label, "groups": groups, "accuracies": accuracies, "pairs": pairs})
    methods = [method for method, _ in rows]
    y = methods.index(reference) if reference in methods else len(methods) - 1
    return {"rows": [row_label(row) for row in rows.values()], "families": families, "x": 0 if y else 1, "y": y}


def _pairs(rows: Sequence[pd.DataFrame]) -> list[list[dict[str, Any]]]:
    """Entry [i][j], j < i: `rows[i]` minus `rows[j]` in points, with Holm's verdict over all pairs and its interval."""
    found = [[intervals.estimate_difference(a, b) for b in rows[:place]] for place, a in enumerate(rows)]
    verdicts = iter(intervals.simultaneous([pair.p_value for line in found for pair in line]))
    return [[_pair(pair, next(verdicts)) for pair in line] for line in found]


def _pair(found: Estimate, verdict: intervals.Simultaneous) -> dict[str, Any]:
    half = found.half_width(verdict.confidence) if found.unit else math.nan
    return {
        "mean": round(found.mean, 3), "low": round(found.mean - half, 3), "high": round(found.mean + half, 3),
        "confidence": round(100 * verdict.confidence, 2), "differs": verdict.adjusted_p < intervals.SIGNIFICANCE,
        "about": about(*claim(found)),
    }  # fmt: skip
