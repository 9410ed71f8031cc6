"""From runs on disk to one page that shows them. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pudnet_bench.results import paper
from pudnet_bench.results.rendering.report import LearningCurve, ReportedRun, page
from pudnet_bench.results.rendering.run_figures import AXES, TARGET_LABELS, correlations, losses, printed_points
from pudnet_bench.results.rendering.run_tables import layouts, measured
from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.run import Run

PLAIN_AXES = {**AXES, "eta": "share of the sketch in the initial residual, η"}  # a page knows no TeX


def write_report(runs: Sequence[Run], out: Path | None) -> Path:
    """Write the page of ``runs`` to ``out``, or to ``report.html`` in the first run's folder, and return the file.

    Raises StoreError where ``out`` is a folder, OSError where it cannot be written.
    """
    path = out if out is not None else runs[0].folder / "report.html"
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder; give the name of a file, such as --out {path / 'report.html'}")
    text = page([reported(run) for run in runs])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path


def reported(run: Run) -> ReportedRun:
    """What the page needs of a run. Raises StoreError for a run without a plan."""
    if "plan" not in run.manifest:
        raise StoreError(f"{run.folder} does not say what was planned; give its `run` command again")
    suite = run.manifest["suite"]
    return ReportedRun(
        str(run.folder),
        run.manifest,
        measured(run),
        layouts(run),
        paper.load(suite),
        TARGET_LABELS,
        learning_curve(run),
        losses(run) if run.manifest["plan"].get("figure") == "losses" else None,
        _correlations(run) if run.manifest["plan"].get("figure") == "correlation" else {},
    )


def _correlations(run: Run) -> Mapping[str, pd.DataFrame]:
    try:
        return correlations(run)
    except StoreError as error:  # a copy of a run, without what was trained: the rest of the page is still worth having
        print(f"the page has no correlations: {error}", file=sys.stderr)
        return {}


def learning_curve(run: Run) -> LearningCurve | None:
    """The curve that the run's plan draws; None where it has none."""
    plan = run.manifest["plan"]
    kind = plan.get("figure", "")
    places = {v["name"]: (v["curve"], float(v["x"])) for v in plan["variants"] if v.get("curve")}
    if kind not in AXES or not places:
        return None
    return LearningCurve(PLAIN_AXES[kind], kind == "groups", places, printed_points(run))
