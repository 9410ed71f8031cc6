"""The commands that report on runs, the catalog and this machine, from `list` to `doctor`, and `cancel`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pudnet_bench.harness.cli import completion, options
from pudnet_bench.harness.cli.options import TableFormat
from pudnet_bench.results.store.folders import cache_folder

if TYPE_CHECKING:
    from pudnet_bench.results.store.run import Run


def list_everything(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """List suites, methods, families and profiles."""
    from pudnet_bench.harness.console.terminal import print_table
    from pudnet_bench.methods.registry import entries
    from pudnet_bench.suites.catalog import PROFILES, SUITES
    from pudnet_bench.suites.families import FAMILIES

    if as_json:
        fields = ("name", "title", "targets", "families", "figure")
        options.print_json({
            "suites": [{field: getattr(suite, field) for field in fields} for suite in SUITES.values()],
            "methods": [{"name": m.name, "description": m.description} for m in entries().values()],
            "families": [asdict(f) for f in FAMILIES.values()],
            "profiles": [asdict(p) for p in PROFILES.values()],
        })  # fmt: skip
        return
    families = {}
    for f in FAMILIES.values():
        classes = f"{f.training_classes}/{f.unseen_classes} classes"
        families[f.name] = f"{f.label}: {f.source}, {classes}, {f.ways} ways, {f.images} images"
    sections = {
        "suites": {s.name: f"{s.title}; {', '.join(s.families)}" for s in SUITES.values()},
        "methods": {m.name: m.description for m in entries().values()},
        "families": families,
        "profiles": {p.name: p.description for p in PROFILES.values()},
    }
    for title, lines in sections.items():
        print_table([(f"  {name}", text) for name, text in lines.items()], title=title)


def status(reference: options.RunReference, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what a run has measured, cell by cell, and its Slurm jobs."""
    from pudnet_bench.harness.console.terminal import print_table, printable
    from pudnet_bench.harness.running.status import CellState, cell_statuses

    run = options.find_run(reference)
    record, statuses = run.record, cell_statuses(run)
    cells: list[dict[str, Any]] = []
    for cell in record.plan.cells:
        found = statuses[cell.key]
        logs = [str(log) for log in found.logs]
        cells.append({**asdict(cell), "done": found.done, "state": found.state, "reason": found.reason, "logs": logs})
    if as_json:
        about = {name: getattr(record, name) for name in ("suite", "profile", "device", "precision")}
        options.print_json({"run": str(run.folder), **about, "cells": cells})
        return
    print(printable(f"{run.folder}: {record.suite}, {record.profile}, {record.device}"))
    columns = ("method", "family", "target", "split", "seed", "groups", "state", "reason")
    shown = [{**cell, "groups": f"{cell['done']}/{cell['groups']}"} for cell in cells]
    print_table([[str(cell[name]) for name in columns] for cell in shown], header=("cell", *columns[1:]))
    ended = [cell for cell in cells if cell["state"] in (CellState.FAILED, CellState.LOST)]
    for log in sorted({log for cell in ended for log in cell["logs"]}):
        print(printable(log))


def cancel(reference: options.RunReference, debug: options.Debug = False) -> None:
    """Cancel a run's Slurm jobs; finished groups are kept."""
    from pudnet_bench.harness.running.status import cancel

    run = options.find_run(reference)
    again = f"`python -m harness resume {run.folder}` submits them again"
    print(f"{run.folder}: {len(cancel(run))} jobs cancelled; {again}")


def collect(reference: options.RunReference, paper: options.Paper = False, debug: options.Debug = False) -> None:
    """Write a run's tables and figures from what is measured so far."""
    from pudnet_bench.results.rendering.render import show

    run = options.find_run(reference)
    with _followed_by_surplus(run):
        show(run, paper)


def table(
    reference: options.RunReference,
    format: options.Format = TableFormat.MARKDOWN,
    paper: options.Paper = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print a run's table."""
    from pudnet_bench.results.rendering.run_tables import table_records, table_text

    run = options.find_run(reference)
    with _followed_by_surplus(run):
        if as_json:
            options.print_json(table_records(run, paper))
        else:
            print(table_text(run, format.value, paper), end="")


@contextmanager
def _followed_by_surplus(run: Run) -> Iterator[None]:
    """After the block, say to stderr what the run holds beyond what its last `run` asked for."""
    from pudnet_bench.harness.running.surplus import surplus_of_last

    line = surplus_of_last(run)  # pyarrow at times aborts a process that ends just after it has read a file
    yield
    if line:
        print(line, file=sys.stderr)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run or suite.", autocompletion=completion.runs)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Compared with it.", autocompletion=completion.runs)],
    format: options.Format = TableFormat.MARKDOWN,
    debug: options.Debug = False,
) -> None:
    """Compare two runs of one suite: differences, intervals, verdicts."""
    from pudnet_bench.results.rendering.run_tables import compare_runs

    print(compare_runs(options.find_run(run_a), options.find_run(run_b), format.value), end="")


def report(
    references: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs' folders or suites.", autocompletion=completion.runs)
    ],
    out: Annotated[Path | None, typer.Option(help="File [report.html in the first run].")] = None,
    debug: options.Debug = False,
) -> None:
    """Write one HTML page about runs: tables, plots, provenance."""
    from pudnet_bench.results.rendering.run_report import write_report

    path = write_report([options.find_run(reference) for reference in references], out)
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


def doctor(
    data: options.Data = None, cache: options.Cache = None, as_json: options.Json = False, debug: options.Debug = False
) -> None:
    """Examine this machine: device, memory, disk, Slurm, speed."""
    from pudnet_bench.harness.cli.doctor import examine
    from pudnet_bench.harness.console.terminal import dimmed, print_table

    findings = examine(data, cache_folder(cache))
    if as_json:
        options.print_json({f.name: {"found": f.found, "implies": f.implies, **f.values} for f in findings})
        return
    lines = [((f.name, f.found), ("", dimmed(f.implies))) for f in findings]
    print_table([row for pair in lines for row in pair if any(row)])
