"""What a person gets of a run: tables and figures in its folder, and the table on the screen. Imports no torch."""

from __future__ import annotations

import sys

from harness.drawing import write_figures
from harness.rendering import table_text, write_tables
from results.store import Run


def show(run: Run, with_paper: bool) -> None:
    """Write tables and figures of what is measured, and print the table."""
    write_tables(run, with_paper)
    figures = write_figures(run, with_paper)
    print(table_text(run, "markdown", with_paper))
    print(f"{run.folder / 'tables'}: LaTeX, Markdown and CSV", file=sys.stderr)
    if figures:
        print(f"{run.folder / 'figures'}: {', '.join(path.name for path in figures)}", file=sys.stderr)
