"""From a run on disk to its tables. Imports no torch: reading a table is instant."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pudnet_bench.results import paper
from pudnet_bench.results.analysis import comparison, costs
from pudnet_bench.results.rendering.escaping import Format
from pudnet_bench.results.rendering.rendered import EXTENSIONS
from pudnet_bench.results.rendering.tables import TableLayout, TableRow, records, render, summarise, typeset
from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.run import Run


def merge_plans(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The plan of a run that is asked for again: what is new is added, and a cell planned anew replaces its old self."""
    if not old:
        return new

    def cell_place(cell: dict[str, Any]) -> tuple[Any, ...]:
        return cell["method"], cell["family"], cell["target"], cell["seed"]

    cells = {cell_place(cell): cell for cell in old["cells"]}
    for cell in new["cells"]:
        earlier = cells.get(cell_place(cell))
        if earlier is not None and earlier["key"] == cell["key"]:
            cell = {**cell, "groups": max(cell["groups"], earlier["groups"])}
        cells[cell_place(cell)] = cell
    merged: dict[str, Any] = {
        "title": new["title"],
        "figure": new["figure"],
        "paper_groups": {**old["paper_groups"], **new["paper_groups"]},
        "cells": list(cells.values()),
    }
    for part in ("targets", "families", "variants"):
        merged[part] = old[part] + [item for item in new[part] if item not in old[part]]
    return merged


def layouts(run: Run) -> list[TableLayout]:
    """One layout per target of the run's plan, in the suite's order of rows."""
    plan = run.manifest["plan"]
    rows = []
    for variant in plan["variants"]:
        several = len(variant["snapshots"]) > 1
        for snapshot, label in variant["snapshots"]:
            epochs = f"@{snapshot.split()[0]}" if several else ""
            rows.append(
                TableRow(
                    variant["name"] + epochs,
                    variant["name"],
                    snapshot,
                    label if several else variant["label"],
                    variant["label"] if several else "",
                    variant["row"] + epochs if variant["row"] and not variant["x"] else "",
                )
            )
    columns = tuple((name, label) for name, label in plan["families"])
    suite = run.manifest["suite"]
    return [TableLayout(suite, plan["title"], tuple(rows), columns, target) for target in plan["targets"]]


def measured(run: Run) -> pd.DataFrame:
    """The rows of the cells that are in the run's plan."""
    return run.frame([cell["key"] for cell in run.manifest["plan"]["cells"]])


def table_text(run: Run, format: Format, with_paper: bool) -> str:
    """The run's tables, one per target, as one text."""
    frame = measured(run)
    numbers = paper.load(run.manifest["suite"]) if with_paper else None
    return "\n".join(render(frame, layout, format, numbers) for layout in layouts(run))


def table_records(run: Run, with_paper: bool) -> list[dict[str, str | int | float | None]]:
    """The run's tables for programs: a record for each cell (``results.rendering.tables.records``)."""
    frame = measured(run)
    numbers = paper.load(run.manifest["suite"]) if with_paper else None
    return [record for layout in layouts(run) for record in records(frame, layout, numbers)]


def comparison_text(a: Run, b: Run, format: Format) -> str:
    """Run ``b`` against run ``a``, cell by cell. Raises StoreError where they have nothing to compare."""
    if a.manifest["suite"] != b.manifest["suite"]:
        raise StoreError(
            f"{a.folder} is a run of {a.manifest['suite']} and {b.folder} of {b.manifest['suite']}; give two of one suite"
        )
    table = comparison.compare(measured(a), measured(b))
    if table.empty:
        raise StoreError(
            f"{a.folder} and {b.folder} have measured no method on the same family and target; nothing to compare"
        )
    return comparison.text(table, {"A": provenance_line(a), "B": provenance_line(b)}, format)


def provenance_line(run: Run) -> str:
    """Where a run's numbers come from, in one line."""
    manifest = run.manifest
    commit = str(manifest["git_commit"] or "")[:12] or "no commit"
    return f"{run.folder}: {manifest['suite']}, {manifest['profile']}, {manifest['device']}, {commit}, {manifest['command']}"


def write_tables(run: Run, with_paper: bool) -> dict[str, bytes]:
    """Render everything into ``<run>/tables``: the suite's table, costs, break-evens, differences.

    Returns what was written, by name within the run's folder.
    """
    frame = measured(run)
    suite = run.manifest["suite"]
    numbers = paper.load(suite) if with_paper else None
    tables = [(layout, summarise(frame, layout)) for layout in layouts(run)]
    texts = {
        f"{suite}.{extension}": "\n".join(typeset(cells, layout, format, numbers) for layout, cells in tables)
        for format, extension in EXTENSIONS.items()
    }
    if len(frame):
        references = {"costs": costs.method_costs(frame)}
        if (frame["method"] == "pudnet").any():
            references |= {"break-even": costs.break_evens(frame), "differences": costs.paired_differences(frame)}
        for name, table in references.items():
            texts[f"{suite}-{name}.csv"] = costs.csv_text(table)
            texts[f"{suite}-{name}.md"] = costs.markdown_text(table)
    (run.folder / "tables").mkdir(exist_ok=True)
    written = {f"tables/{name}": text.encode() for name, text in texts.items()}
    for name, content in written.items():
        write_atomically(run.folder / name, content)
    return written
