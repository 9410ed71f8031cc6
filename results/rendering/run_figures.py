"""Figures of a run on disk, as PDF and PNG with the numbers behind them as CSV. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import pandas as pd

from pudnet_bench.results import paper
from pudnet_bench.results.analysis import correlation, curves
from pudnet_bench.results.analysis.effects import measured_effects, planned_effects
from pudnet_bench.results.rendering import figures
from pudnet_bench.results.rendering.correlation_figure import correlation_figure
from pudnet_bench.results.rendering.effects_figure import effect_rows, effects_figure
from pudnet_bench.results.rendering.tables import TARGET_LABELS
from pudnet_bench.results.store.files import write_atomically
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import PlanRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"groups": "groups seen in meta-training", "eta": r"share of the sketch in the initial residual, $\eta$"}
PAIRS = 10  # canonical pairs shown, where there are enough groups for so many
SHUFFLES = 200  # of the control of Figure 1
FEWEST_GROUPS = 15  # for a canonical correlation: five folds of three


def write_figures(run: Run, with_paper: bool) -> list[str]:
    """Draw the figure of the run's plan, if it has one, into `<run>/figures`, and return the names of its files."""
    kind = run.record.plan.figure
    files = dict[str, bytes]()
    if draw := {"correlation": _correlations, "losses": _losses, "effects": _effects}.get(kind):
        files = draw(run)
    elif kind:
        files = _lines(run, AXES[kind], kind == "groups", with_paper)
    for suffix, content in files.items():
        (run.folder / "figures").mkdir(exist_ok=True)
        write_atomically(run.folder / "figures" / f"{run.record.suite}{suffix}", content)
    return [f"{run.record.suite}{suffix}" for suffix in files]


def _lines(run: Run, x_label: str, log_x: bool, with_paper: bool) -> dict[str, bytes]:
    plan = run.record.plan
    points = _labelled(plan, curves.points(run.planned_frame(), plan.figure_places))
    if points.empty:
        return {}
    printed = printed_points(run) if with_paper else None
    files = {".csv": points.to_csv(index=False).encode()}
    devices = list(dict.fromkeys(points["device"]))  # of a cluster's nodes; a figure has one
    for number, device in enumerate(devices, 1):
        shown = points[points["device"] == device]
        draw = partial(figures.panels_figure, shown, x_label, log_x=log_x, printed=printed)
        files |= _pictures(draw, f"-{number}" if len(devices) > 1 else "")
    return files


def printed_points(run: Run) -> pd.DataFrame:
    """The paper's numbers at their place: those of the figure, or else a table's at the groups that the paper trains on."""
    plan, suite = run.record.plan, run.record.suite
    points, numbers = paper.load_points(suite), paper.load(suite)
    if len(points):
        return points
    of_row, groups = {v.parent: v.curve_label for v in plan.variants if v.parent}, dict(plan.paper_groups)
    numbers = numbers[numbers["row"].isin(list(of_row)) & numbers["column"].isin(list(groups))]
    return numbers.assign(curve=numbers["row"].map(of_row), x=numbers["column"].map(groups))


def losses(run: Run) -> pd.DataFrame | None:
    """Reports of the meta-trainings behind the run's cells, a row each, as `figures.losses_figure` takes them.

    All class splits and seeds, in the columns `split` and `seed`. None where there are no reports.
    """
    plan, parts = run.record.plan, []
    for cell in plan.cells:
        curve = run.curve(cell.key)
        if curve is not None:
            final = curve[curve["phase"] == "final"].dropna(axis=1, how="all")
            parts.append(final.assign(family=cell.family, target=cell.target, split=cell.split, seed=cell.seed))
    return _labelled(plan, pd.concat(parts, ignore_index=True)) if parts else None


def correlations(run: Run) -> dict[str, pd.DataFrame]:
    """`correlation.correlation_table` of each cell with enough groups, by its label; stderr names the others.

    Computed once for the groups that are measured, and saved with the run if it is writable. Raises StoreError if the
    parameters that it is computed from are gone.
    """
    tables, labels, frame = {}, run.record.plan.family_labels, run.planned_frame()
    trainings = {(cell.split, cell.seed) for cell in run.record.plan.cells}
    for cell in run.record.plan.cells:
        groups = sorted(frame.loc[frame["cell"] == cell.key, "group"].unique())
        if len(groups) < FEWEST_GROUPS:
            print(f"{cell.family}: {len(groups)} groups are measured, and a canonical correlation needs at least "
                  f"{FEWEST_GROUPS}; raise --groups", file=sys.stderr)  # fmt: skip
            continue
        training = figures.training_label((cell.split, cell.seed), trainings)
        title = ", ".join(filter(None, (labels[cell.family], TARGET_LABELS.get(cell.target, cell.target), training)))
        tables[title] = _correlation(run, cell.key, groups, cell.seed)
    return tables


def _correlation(run: Run, key: str, groups: list[int], seed: int) -> pd.DataFrame:
    to_fit = len(groups) - -(-len(groups) // correlation.FOLDS)
    pairs = min(PAIRS, (to_fit - 1) // 2)
    which = sha256(json.dumps([[int(group) for group in groups], pairs, SHUFFLES]).encode()).hexdigest()[:10]
    saved = run.derived(key, f"correlations-{which}")
    if saved is not None:
        return saved
    arrays = run.parameters(key, groups)
    table = correlation.correlation_table(arrays["mean_image"], arrays["parameters"], pairs, SHUFFLES, seed)
    with contextlib.suppress(OSError):  # a read-only run
        run.save_derived(key, f"correlations-{which}", table)
    return table


def _losses(run: Run) -> dict[str, bytes]:
    found = losses(run)
    if found is None:
        return {}
    numbers = found.drop(columns=["family_label", "target_label"])
    shown = figures.first_trainings(found)  # a line is one training
    return {".csv": numbers.to_csv(index=False).encode(), **_pictures(partial(figures.losses_figure, shown))}


def _correlations(run: Run) -> dict[str, bytes]:
    tables = correlations(run)
    if not tables:
        return {}
    rows = pd.concat([table.assign(family=label) for label, table in tables.items()], ignore_index=True)
    return {".csv": rows.to_csv(index=False).encode(), **_pictures(partial(correlation_figure, tables))}


def _effects(run: Run) -> dict[str, bytes]:
    plan, named, parts = run.record.plan, planned_effects(run.record.plan), []
    for (target, device), frame in run.planned_frame().groupby(["target", "device"], sort=False):
        rows = effect_rows(measured_effects(frame, named), plan.variant_labels, plan.family_labels)
        parts += [rows.assign(target=str(target), device=str(device))] if len(rows) else []
    if not parts:
        return {}
    files = {".csv": pd.concat(parts).to_csv(index=False).encode()}
    for number, rows in enumerate(parts, 1):
        files |= _pictures(partial(effects_figure, rows), f"-{number}" if len(parts) > 1 else "")
    return files


def _pictures(draw: Callable[[], Figure], stem: str = "") -> dict[str, bytes]:
    """The figure in each format, by the suffix of its file's name; each is drawn anew, as saving lays a figure out."""
    return {f"{stem}.{format}": figures.to_bytes(draw(), format) for format in ("pdf", "png")}


def _labelled(plan: PlanRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with labels for its families and targets, in the order of the plan."""
    places = {"family": list(plan.family_labels), "target": list(plan.targets)}

    def place(column: pd.Series) -> pd.Series:
        return column.map(places[str(column.name)].index)

    ordered = frame.sort_values(["target", "family"], key=place, kind="stable", ignore_index=True)
    targets = ordered["target"].map(lambda name: TARGET_LABELS.get(name, name))
    return ordered.assign(family_label=ordered["family"].map(plan.family_labels), target_label=targets)
