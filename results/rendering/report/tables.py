"""Tables of a report page: results, costs and break-evens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.analysis import costs
from pudnet_bench.results.rendering import tables
from pudnet_bench.results.rendering.cost_tables import COSTS
from pudnet_bench.results.rendering.interval_text import claim, sentence
from pudnet_bench.results.rendering.report.model import Entry, Head, PageTable, Place, ReportedRun, row_label, words
from pudnet_bench.results.rendering.tables import TableCell, TableLayout, TableRow, format_accuracy, format_seconds

if TYPE_CHECKING:
    import pandas as pd


def result_table(
    number: int, run: ReportedRun, layout: TableLayout, cells: Sequence[TableCell], keys: Mapping[Place, str],
    numbers: dict[str, Any],
) -> PageTable:  # fmt: skip
    """The table of one target and device, with the paper's numbers; adds the facts behind those to `numbers`."""
    printed = tables.printed_numbers(run.printed, layout.target)
    labels = tables.column_labels({cell.column for cell in cells}, layout)
    with_paper = {column for column in labels if any((cell.row.in_paper, column) in printed for cell in cells)}
    heads = [Head("Method", numeric=False)]
    for column, over in labels.items():
        heads += [Head(label, over) for label in ("ACC (%)", "time (s)", "n")]
        if column in with_paper:
            heads += [Head(label, over, paper=True) for label in ("paper ACC", "paper time")]
    rows: dict[TableRow, list[Entry]] = {}
    for cell in cells:
        place = (cell.device, layout.target, cell.row.method, cell.row.snapshot, cell.column)
        key = keys.get(place, "")
        line = rows.setdefault(cell.row, [words(row_label(cell.row))])
        if cell.n:
            accuracy = format_accuracy(run.estimates[place].mean, run.estimates[place].half_width(), "±")
            seconds = format_seconds(cell.seconds_mean) + (f" (t={cell.threads})" if cell.mixed_threads else "")
            line.append(Entry(accuracy, run.estimates[place].mean, key, opens=True, rank=cell.rank))
            line.append(Entry(seconds, cell.seconds_mean, key))
            line.append(Entry(f"{cell.n}" if cell.finished else f"{cell.n} (not finished)", cell.n, key))
        else:
            line += [Entry("—", None)] * 3
        if cell.column in with_paper:
            line += _paper_entries(number, run, printed.get((cell.row.in_paper, cell.column)), numbers)
    return PageTable(
        layout.title, _note(run, layout, cells), tuple(heads), tuple(tuple(line) for line in rows.values())
    )


def _paper_entries(
    number: int, run: ReportedRun, printed: Mapping[Any, Any] | None, numbers: dict[str, Any]
) -> list[Entry]:
    if printed is None:
        return [Entry("—", None, paper=True)] * 2
    key, seconds = f"p{number}-{len(numbers)}", printed["seconds"]
    accuracy = format_accuracy(printed["value"], printed["ci"], "±")
    facts = [("source", f"the paper's {printed['table']}, as printed"), ("row, as printed", printed["printed"])]
    facts += [("note", printed["note"])] if printed["note"] else []
    numbers[key] = {"run": None, "title": "The paper's number", "facts": facts}
    return [
        Entry(accuracy, printed["value"], key, opens=True, paper=True),
        # The paper prints every number with two decimals.
        Entry("—", None, paper=True) if math.isnan(seconds) else Entry(f"{seconds:.2f}", seconds, key, paper=True),
    ]


def _note(run: ReportedRun, layout: TableLayout, cells: Sequence[TableCell]) -> str:
    if not any(cell.n for cell in cells):
        return "Nothing is measured yet."
    device = cells[0].device
    found = [each for place, each in run.estimates.items() if place[:2] == (device, layout.target)]
    splits = max(each.splits for each in found)
    note = f"Mean over n groups{f' of {splits} class splits, each of which weighs the same' if splits > 1 else ''}. "
    note += sentence("± is the 95% interval", map(claim, found))
    note += f" Time in seconds until a classifier is ready for one group, on {device}."
    if any(cell.mixed_threads for cell in cells):
        note += f" {tables.MIXED_THREADS}"
    if sum(cell.n > 0 for cell in cells) > 1:
        note += tables.BOLD
    if any(cell.rank == "second" for cell in cells):
        note += tables.UNDERLINED
    return f"{note} Choose a number to see where it comes from."


def _table(
    name: str, run: ReportedRun, table: pd.DataFrame, keys: Mapping[Place, str], heads: Iterable[Head],
    entries: Callable[[dict[Any, Any], str], list[Entry]], note: str,
) -> PageTable:  # fmt: skip
    """A page's table of a frame of `analysis.costs`: `entries` gives the fields of a row with a key of provenance.

    Before them are the method, and of family, target and device those that differ; the note has the others, and says so if
    times are over fewer than the n groups.
    """
    rows = table.to_dict("records")
    names: dict[str, Callable[[str], str]] = {"Family": run.family_label, "Target": run.target_label, "Device": str}
    differing = [name for name in names if table[name.lower()].nunique() > 1]
    lines = []
    for row in rows:
        label = run.row_name(row["method"], row["snapshot"])
        key = keys.get((row["device"], row["target"], row["method"], row["snapshot"], row["family"]), "")
        mark = f" ({row['n_timed']} with {row['threads']} threads)" if row["n_timed"] < row["n"] else ""
        groups = Entry(f"{row['n']}{mark}", row["n"], key)
        where = (words(names[name](row[name.lower()])) for name in differing)
        lines.append((Entry(label, label, key, opens=bool(key)), *where, *entries(row, key), groups))
    common = ", ".join(names[name](rows[0][name.lower()]) for name in names if name not in differing)
    if (table["n_timed"] < table["n"]).any():
        note += " Times are over the groups of one thread count, where n says that there were several."
    settings = (Head(name, numeric=False) for name in ("Method", *differing))
    return PageTable(name, f"{common}. {note}" if common else note, (*settings, *heads, Head("n")), tuple(lines))


def cost_table(run: ReportedRun, keys: Mapping[Place, str]) -> PageTable:
    """What each method and snapshot costs: the columns of which something is known."""
    table = costs.method_costs(run.frame)
    known = {name: cost for name, cost in COSTS.items() if table[name].notna().any()}

    def entries(row: dict[Any, Any], key: str) -> list[Entry]:
        return [
            Entry("none" if name == "meta_train_seconds" else "—", None, key)
            if math.isnan(row[name])
            else Entry(cost.text(row[name]), float(row[name]), key)
            for name, cost in known.items()
        ]

    note = (
        "Means over the n groups, of a fit until a classifier is ready; meta-training: mean over seeds; evaluation: all test "
        "images; peak memory: the largest of any group; parameters: learned before any unseen group."
    )
    if "fit_flops" in known or "test_flops" in known:
        note += " FLOPs: products of matrices and convolutions, by torch's counter."
    if "energy_joules" in known:
        note += " Energy: all that the device used meanwhile, other work and idling included."
    unknown = [COSTS[name].heading for name in _MEASURED_WHERE_POSSIBLE if name not in known]
    if unknown:
        note += f" Not known of this run: {', '.join(unknown)}."
    heads = (Head(cost.unit or cost.name, cost.name if cost.unit else "") for cost in known.values())
    return _table("Costs", run, table, keys, heads, entries, note)


_MEASURED_WHERE_POSSIBLE = ("parameters", "fit_flops", "test_flops", "energy_joules")


def break_even_table(run: ReportedRun, keys: Mapping[Place, str]) -> PageTable | None:
    """When training from scratch breaks even with the plan's reference; None if there is nothing to compare."""
    reference = run.record.plan.reference
    table = costs.break_evens(run.frame, reference)
    if table.empty:
        return None
    label = run.record.plan.variant_labels.get(reference, reference)
    labels = ("break-even epoch", "break-even datasets", "ACC (%)", f"{label} ACC (%)", "fit (s)", f"{label} fit (s)")

    def seconds(value: float, key: str) -> Entry:
        return Entry("—", None, key) if math.isnan(value) else Entry(format_seconds(value), value, key)

    def entries(row: dict[Any, Any], key: str) -> list[Entry]:
        epoch, count = row["break_even_epoch"], row["break_even_count"]
        never = "—" if math.isnan(row["fit_seconds"]) else "never"
        return [
            Entry("never", None, key) if math.isnan(epoch) else Entry(f"{epoch:.3g}", epoch, key),
            Entry(f"{count:,}", float(count), key) if isinstance(count, int) else Entry(never, None, key),
            *(Entry(f"{100 * row[name]:.2f}", row[name], key) for name in ("accuracy", "reference_accuracy")),
            *(seconds(row[name], key) for name in ("fit_seconds", "reference_fit_seconds")),
        ]

    note = (
        f"Over the n groups that both measured. Epoch: where training from scratch becomes at least as accurate as {label}; "
        f"if it is the first measured one, that may be late. Datasets: after so many, {label}'s meta-training and "
        "predictions have taken no longer than fitting each of them."
    )
    return _table(f"Break-even with {label}", run, table, keys, map(Head, labels), entries, note)
