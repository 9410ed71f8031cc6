"""Report page of runs on disk. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pudnet_bench.results import paper
from pudnet_bench.results.rendering.report.model import LearningCurve, ReportedRun
from pudnet_bench.results.rendering.report.page import page
from pudnet_bench.results.rendering.run_figures import AXES, correlations, losses, printed_points
from pudnet_bench.results.rendering.run_tables import layouts
from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.run import Run

PLAIN_AXES = {**AXES, "eta": "share of the sketch in the initial residual, η"}  # a page knows no TeX


def write_report(runs: Sequence[Run], out: Path | None) -> Path:
    """Write the page of `runs` to `out`, or to `report.html` in the first run's folder, and return the file.

    Raises StoreError if `out` is a folder, and OSError if it cannot be written.
    """
    path = out if out is not None else runs[0].folder / "report.html"
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder; give the name of a file, such as --out {path / 'report.html'}")
    text = page([reported(run) for run in runs])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode(errors="replace"))
    return path


def reported(run: Run) -> ReportedRun:
    """What the page needs of a run."""
    figure = run.record.plan.figure
    return ReportedRun(
        name=str(run.folder),
        record=run.record,
        frame=run.planned_frame(),
        layouts=layouts(run),
        printed=paper.load(run.record.suite),
        curve=learning_curve(run),
        losses=losses(run) if figure == "losses" else None,
        correlations=_correlations(run) if figure == "correlation" else {},
    )


def _correlations(run: Run) -> Mapping[str, pd.DataFrame]:
    try:
        return correlations(run)
    except StoreError as error:  # a copy of a run without parameters: the rest of the page is still useful
        print(f"the page has no correlations: {error}", file=sys.stderr)
        return {}


def learning_curve(run: Run) -> LearningCurve | None:
    """The curve that the run's plan draws, if it draws one."""
    kind, places = run.record.plan.figure, run.record.plan.figure_places
    if kind not in AXES or not places:
        return None
    return LearningCurve(PLAIN_AXES[kind], kind == "groups", places, printed_points(run))
