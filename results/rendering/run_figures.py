"""From a run on disk to its figures, as PDF and PNG with the numbers behind them as CSV. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

import pandas as pd

from pudnet_bench.results import paper
from pudnet_bench.results.analysis import correlation, curves
from pudnet_bench.results.rendering import figures
from pudnet_bench.results.rendering.run_tables import measured
from pudnet_bench.results.store.files import write_atomically
from pudnet_bench.results.store.run import Run

AXES = {"groups": "groups seen in meta-training", "eta": r"share of the sketch in the initial residual, $\eta$"}
TARGET_LABELS = {"convnet3": "ConvNet-3", "resnet18": "ResNet-18", "resnet34": "ResNet-34"}
PAIRS = 10  # canonical pairs shown, where there are enough groups for so many
SHUFFLES = 200  # of the control of Figure 1
FEWEST_GROUPS = 15  # for a canonical correlation: five folds of three
Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def write_figures(run: Run, with_paper: bool, say: Say = to_stderr) -> dict[str, bytes]:
    """Draw the figure of the run's plan into ``<run>/figures``, where it has one; ``say`` is told what cannot be drawn, and why.

    Returns what was written, by name within the run's folder.
    """
    plan = run.manifest["plan"]
    kind = plan.get("figure", "")
    if kind == "correlation":
        files = _correlations(run, say)
    elif kind == "losses":
        files = _losses(run)
    elif kind:
        files = _lines(run, AXES[kind], kind == "groups", with_paper)
    else:
        files = {}
    written = {f"figures/{run.manifest['suite']}{name}": content for name, content in files.items()}
    for name, content in written.items():
        (run.folder / "figures").mkdir(exist_ok=True)
        write_atomically(run.folder / name, content)
    return written


def _lines(run: Run, x_label: str, log_x: bool, with_paper: bool) -> dict[str, bytes]:
    plan = run.manifest["plan"]
    places = {v["name"]: (v["curve"], float(v["x"])) for v in plan["variants"] if v["curve"]}
    points = _labelled(plan, curves.points(measured(run), places))
    if points.empty:
        return {}
    printed = printed_points(run) if with_paper else None
    files = {".csv": points.to_csv(index=False).encode()}
    devices = list(dict.fromkeys(points["device"]))  # of a cluster's nodes; a figure has one
    for number, device in enumerate(devices, 1):
        shown = points[points["device"] == device]
        draw = partial(figures.draw_panels, shown, x_label, log_x=log_x, printed=printed)
        files |= _pictures(draw, f"-{number}" if len(devices) > 1 else "")
    return files


def printed_points(run: Run) -> pd.DataFrame:
    """The paper's numbers at their place: those of the figure, or else a table's at the groups that the paper trains on."""
    plan, suite = run.manifest["plan"], run.manifest["suite"]
    points = paper.load_points(suite)
    if len(points):
        return points
    numbers = paper.load(suite)
    of_row = {v["row"]: v["curve"] for v in plan["variants"] if v["row"]}
    numbers = numbers[numbers["row"].isin(list(of_row)) & numbers["column"].isin(list(plan["paper_groups"]))]
    return numbers.assign(curve=numbers["row"].map(of_row), x=numbers["column"].map(plan["paper_groups"]))


def losses(run: Run) -> pd.DataFrame | None:
    """What the meta-trainings behind the run's cells reported, a row per report, as ``figures.draw_losses`` takes
    it; all seeds, in a column ``seed``. None where nothing is kept.
    """
    plan, parts = run.manifest["plan"], []
    for cell in plan["cells"]:
        curve = run.curve(cell["key"])
        if curve is not None:
            final = curve[curve["phase"] == "final"].dropna(axis=1, how="all")
            parts.append(final.assign(family=cell["family"], target=cell["target"], seed=cell["seed"]))
    return _labelled(plan, pd.concat(parts, ignore_index=True)) if parts else None


def of_one_seed(losses: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lowest seed: a line is one training."""
    return losses[losses["seed"] == losses["seed"].min()]


def correlations(run: Run, say: Say = to_stderr) -> dict[str, pd.DataFrame]:
    """``correlation.correlation_table`` of each cell with enough groups, by its label; ``say`` is told of the others.

    Computed once for the groups that are measured, and kept with the run where it can be written. Raises StoreError where
    the parameters that it is computed from are gone.
    """
    plan, tables = run.manifest["plan"], {}
    labels = dict(plan["families"])
    frame = measured(run)
    for cell in plan["cells"]:
        groups = sorted(frame.loc[frame["cell"] == cell["key"], "group"].unique())
        if len(groups) < FEWEST_GROUPS:
            say(
                f"{cell['family']}: {len(groups)} groups are measured, and a canonical correlation needs at least "
                f"{FEWEST_GROUPS}; raise --groups"
            )
            continue
        title = f"{labels[cell['family']]}, {TARGET_LABELS.get(cell['target'], cell['target'])}, seed {cell['seed']}"
        tables[title] = _correlation(run, cell["key"], groups, cell["seed"])
    return tables


def _correlation(run: Run, key: str, groups: list[int], seed: int) -> pd.DataFrame:
    to_fit = len(groups) - -(-len(groups) // correlation.FOLDS)
    pairs = min(PAIRS, (to_fit - 1) // 2)
    which = sha256(json.dumps([[int(group) for group in groups], pairs, SHUFFLES]).encode()).hexdigest()[:10]
    kept = run.derived(key, f"correlations-{which}")
    if kept is not None:
        return kept
    arrays = run.parameters(key, groups)
    table = correlation.correlation_table(arrays["mean_image"], arrays["parameters"], pairs, SHUFFLES, seed)
    with contextlib.suppress(OSError):  # a run that may only be read
        run.keep_derived(key, f"correlations-{which}", table)
    return table


def _losses(run: Run) -> dict[str, bytes]:
    found = losses(run)
    if found is None:
        return {}
    numbers = found.drop(columns=["family_label", "target_label"])
    return {
        ".csv": numbers.to_csv(index=False).encode(),
        **_pictures(partial(figures.draw_losses, of_one_seed(found))),
    }


def _correlations(run: Run, say: Say) -> dict[str, bytes]:
    tables = correlations(run, say)
    if not tables:
        return {}
    rows = pd.concat([table.assign(family=label) for label, table in tables.items()], ignore_index=True)
    return {".csv": rows.to_csv(index=False).encode(), **_pictures(partial(correlation.draw, tables))}


def _pictures(draw: Callable[[str], bytes], stem: str = "") -> dict[str, bytes]:
    """What ``draw`` makes in each format, by the end of its file's name."""
    return {f"{stem}.{format}": draw(format) for format in ("pdf", "png")}


def _labelled(plan: dict[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with labels for its families and targets, in the order of the plan."""
    families, targets = [name for name, _ in plan["families"]], list(plan["targets"])
    ordered = frame.sort_values(
        ["target", "family"],
        key=lambda column: column.map((targets if column.name == "target" else families).index),
        kind="stable",
        ignore_index=True,
    )
    return ordered.assign(
        family_label=ordered["family"].map(dict(plan["families"])),
        target_label=ordered["target"].map(lambda name: TARGET_LABELS.get(name, name)),
    )
