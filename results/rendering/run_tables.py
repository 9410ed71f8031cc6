"""Tables of a run on disk. Imports no torch: reading a table is instant."""

from __future__ import annotations

import hashlib
from functools import partial

from pudnet_bench.results import paper
from pudnet_bench.results.analysis import comparison, conditions, costs, variance
from pudnet_bench.results.analysis.effects import planned_effects
from pudnet_bench.results.rendering import comparison_tables, cost_tables
from pudnet_bench.results.rendering.escaping import Format, one_line
from pudnet_bench.results.rendering.tables import (
    Record,
    TableLayout,
    TableRow,
    notes,
    records,
    render,
    summarise,
    typeset,
)
from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import RECORD, RunRecord

EXTENSIONS: dict[Format, str] = {"latex": "tex", "markdown": "md", "csv": "csv"}


def layouts(run: Run) -> list[TableLayout]:
    """One layout per target of the run's plan, in the suite's order of rows."""
    plan = run.record.plan
    rows = []
    for variant in plan.variants:
        several = len(variant.snapshots) > 1
        for snapshot, label in variant.snapshots:
            epochs = f"@{snapshot.split()[0]}" if several else ""
            labels = (label, variant.label) if several else (variant.label, "")
            printed_as = variant.parent + epochs if variant.parent and not variant.curve_x else ""
            name = variant.name
            rows.append(TableRow(name + epochs, name, snapshot, *labels, printed_as, variant.section))
    table = partial(TableLayout, run.record.suite, plan.title, tuple(rows), plan.families)
    return [table(target, planned_effects(plan), plan.variant_labels) for target in plan.targets]


def table_text(run: Run, format: Format, with_paper: bool) -> str:
    """The run's tables, one per target, as one text; LaTeX begins with comments (`provenance_comments`)."""
    frame, numbers = run.planned_frame(), paper.load(run.record.suite) if with_paper else None
    texts = [render(frame, layout, format, numbers) for layout in layouts(run)]
    return _commented(run, texts, format)


def _commented(run: Run, texts: list[str], format: Format) -> str:
    return (provenance_comments(run.record) if format == "latex" else "") + "\n".join(texts)


def provenance_comments(record: RunRecord) -> str:
    """Comments of LaTeX, a line each: every command of the run with its commit, and which record it has."""
    calls = dict.fromkeys((one_line(call.command), call.commit[:12] or "none") for call in record.invocations)
    lines = [line for command, commit in calls for line in (f"command: {command}", f"commit: {commit}")]
    cells = hashlib.sha256("\n".join(sorted(cell.key for cell in record.plan.cells)).encode()).hexdigest()
    lines.append(f"record: {RECORD}, sha256 of its cells' keys {cells[:16]}")
    return "".join(f"% {line}\n" for line in lines)


def table_records(run: Run, with_paper: bool) -> list[Record]:
    """The run's tables for programs: a record for each cell (`tables.records`)."""
    frame, numbers = run.planned_frame(), paper.load(run.record.suite) if with_paper else None
    tables = [(summarise(frame, layout, ranked=False), layout) for layout in layouts(run)]
    return [record for cells, layout in tables for record in records(cells, layout, numbers)]


def compare_runs(a: Run, b: Run, format: Format) -> str:
    """Run `b` against run `a`, cell by cell; of different suites, the cells of the same keys.

    Raises StoreError if they have nothing to compare.
    """
    ours, theirs = a.planned_frame(), b.planned_frame()
    if a.record.suite != b.record.suite:
        ours, theirs = ours[ours["cell"].isin(theirs["cell"])], theirs[theirs["cell"].isin(ours["cell"])]
    table = comparison.compare(ours, theirs)
    if table.empty:
        what = "method on the same family and target" if a.record.suite == b.record.suite else "cell of the same key"
        raise StoreError(f"{a.folder} and {b.folder} have measured no {what}: there is nothing to compare.")
    about = {"A": provenance_line(a), "B": provenance_line(b)}
    return comparison_tables.text(table, about, conditions.differing(a.record, b.record), format)


def provenance_line(run: Run) -> str:
    """Where a run's numbers come from, in one line: that of its first invocation."""
    record, first = run.record, run.record.invocations[0]
    commit = first.commit[:12] or "no commit"
    return f"{run.folder}: {record.suite}, {record.profile}, {record.device}, {commit}, {first.command}"


def write_tables(run: Run, with_paper: bool) -> dict[str, str]:
    """Write all tables into `<run>/tables`: the suite's own, costs, variance, break-evens, differences.

    Returns the text of each by its file's name.
    """
    frame = run.planned_frame()
    suite, reference = run.record.suite, run.record.plan.reference
    numbers = paper.load(suite) if with_paper else None
    tables = [(layout, summarise(frame, layout), notes(frame, layout)) for layout in layouts(run)]
    texts = {
        f"{suite}.{extension}": _commented(
            run, [typeset(cells, layout, format, numbers, ends) for layout, cells, ends in tables], format
        )
        for format, extension in EXTENSIONS.items()
    }
    if len(frame):
        found = {"costs": costs.method_costs(frame)}
        if len(parts := variance.variance_table(frame)):
            found["variance"] = parts
        if (frame["method"] == reference).any():
            found["break-even"] = costs.break_evens(frame, reference)
            found["differences"] = costs.paired_differences(frame, reference)
        controls = {v.name: v.control_of for v in run.record.plan.variants if v.control_of}
        if len(effects := costs.control_differences(frame, controls)):
            found["controls"] = effects
        for name, table in found.items():
            texts[f"{suite}-{name}.csv"] = cost_tables.csv_text(table)
            texts[f"{suite}-{name}.md"] = cost_tables.markdown_text(table)
    (run.folder / "tables").mkdir(exist_ok=True)
    for name, text in texts.items():
        write_atomically(run.folder / "tables" / name, text.encode(errors="replace"))
    return texts
