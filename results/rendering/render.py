"""Render a run: write its tables and figures, and print the table."""

from __future__ import annotations

import sys

from pudnet_bench.results.rendering.run_figures import write_figures
from pudnet_bench.results.rendering.run_tables import write_tables
from pudnet_bench.results.store.run import Run


def show(run: Run, with_paper: bool) -> None:
    """Write tables and figures of what is measured so far into the run's folder, and print the table."""
    tables = write_tables(run, with_paper)
    figures = write_figures(run, with_paper)
    print(tables[f"{run.record.suite}.md"])
    print(f"{run.folder / 'tables'}: LaTeX, Markdown and CSV", file=sys.stderr)
    if figures:
        print(f"{run.folder / 'figures'}: {', '.join(figures)}", file=sys.stderr)
