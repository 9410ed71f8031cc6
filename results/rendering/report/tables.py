"""Tables of a report page: results, costs and break-evens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.analysis import costs
from pudnet_bench.results.rendering import tables
from pudnet_bench.results.rendering.cost_tables import COSTS
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
        key = keys.get((cell.device, layout.target, cell.row.method, cell.row.snapshot, cell.column), "")
        line = rows.setdefault(cell.row, [words(row_label(cell.row))])
        if cell.n:
            accuracy = format_accuracy(cell.accuracy_mean, cell.accuracy_ci, "±")
            seconds = format_seconds(cell.seconds_mean) + (f" (t={cell.threads})" if cell.mixed_threads else "")
            line.append(Entry(accuracy, cell.accuracy_mean, key, opens=True, rank=cell.rank))
            line.append(Entry(seconds, cell.seconds_mean, key))
            line.append(Entry(f"{cell.n}" if cell.finished else f"{cell.n} (not finished)", cell.n, key))
        else:
            line += [Entry("—", None)] * 3
        if cell.column in with_paper:
            line += _paper_entries(number, run, printed.get((cell.row.in_paper, cell.column)), numbers)
    return PageTable(layout.title, _note(cells), tuple(heads), tuple(tuple(line) for line in rows.values()))


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


def _note(cells: Sequence[TableCell]) -> str:
    if not any(cell.n for cell in cells):
        return "Nothing is measured yet."
    note = "Mean ± 95% interval over n groups; time in seconds until a classifier is ready for one group"
    note += f", on {cells[0].device}."
    if any(cell.mixed_threads for cell in cells):
        note += f" {tables.MIXED_THREADS}"
    if sum(cell.n > 0 for cell in cells) > 1:
        note += tables.BOLD
    if any(cell.rank == "second" for cell in cells):
        note += tables.UNDERLINED
    return f"{note} Choose a number to see where it comes from."


@dataclass(frozen=True)
class _Setting:
    """The leading columns of a table of costs: the method, and of family, target and device those that differ.

    `common` are the names that all rows share, for the note below the table.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[Entry, ...], ...]
    common: str

    @classmethod
    def of(cls, run: ReportedRun, table: pd.DataFrame, keys: Mapping[Place, str]) -> _Setting:
        names: dict[str, list[str]] = {"Family": [], "Target": [], "Device": []}
        methods = []
        for row in table.to_dict("records"):
            name = run.row_name(row["method"], row["snapshot"])
            key = keys.get((row["device"], row["target"], row["method"], row["snapshot"], row["family"]), "")
            methods.append(Entry(name, name, key, opens=bool(key)))
            names["Family"].append(run.family_label(row["family"]))
            names["Target"].append(run.target_label(row["target"]))
            names["Device"].append(row["device"])
        differing = [name for name, values in names.items() if len(set(values)) > 1]
        return cls(
            tuple(Head(name, numeric=False) for name in ("Method", *differing)),
            tuple((method, *(words(names[name][place]) for name in differing)) for place, method in enumerate(methods)),
            ", ".join(values[0] for name, values in names.items() if name not in differing),
        )

    def note(self, text: str) -> str:
        return f"{self.common}. {text}" if self.common else text


def cost_table(run: ReportedRun, keys: Mapping[Place, str]) -> PageTable:
    """What each method and snapshot costs: the columns of which something is known."""
    table = costs.method_costs(run.frame)
    setting = _Setting.of(run, table, keys)
    known = {name: cost for name, cost in COSTS.items() if table[name].notna().any()}
    rows = []
    for where, row in zip(setting.rows, table.to_dict("records"), strict=True):
        key = where[0].key
        line = [
            Entry("none" if name == "meta_train_seconds" else "—", None, key)
            if math.isnan(row[name])
            else Entry(cost.text(row[name]), float(row[name]), key)
            for name, cost in known.items()
        ]
        rows.append((*where, *line, _groups(row, key)))
    heads = (*(Head(cost.unit or cost.name, cost.name if cost.unit else "") for cost in known.values()), Head("n"))
    note = (
        "Means over the n groups, of a fit until a classifier is ready; meta-training: mean over seeds; evaluation: all test "
        "images; peak memory: the largest of any group; parameters: learned before any unseen group."
    )
    if "fit_flops" in known or "test_flops" in known:
        note += " FLOPs: products of matrices and convolutions, by torch's counter."
    if "energy_joules" in known:
        note += " Energy: all that the device used meanwhile, other work and idling included."
    if (table["n_timed"] < table["n"]).any():
        note += f" {_MIXED_THREADS}"
    unknown = [cost.heading for name, cost in COSTS.items() if name not in known and name in _MEASURED_WHERE_POSSIBLE]
    if unknown:
        note += f" Not known of this run: {', '.join(unknown)}."
    return PageTable("Costs", setting.note(note), (*setting.heads, *heads), tuple(rows))


_MIXED_THREADS = "Times are over the groups of one thread count, where n says that there were several."
_MEASURED_WHERE_POSSIBLE = ("parameters", "fit_flops", "test_flops", "energy_joules")


def break_even_table(run: ReportedRun, keys: Mapping[Place, str]) -> PageTable | None:
    """When training from scratch breaks even with the plan's reference; None if there is nothing to compare."""
    reference = run.record.plan.reference
    table = costs.break_evens(run.frame, reference)
    if table.empty:
        return None
    label = run.record.plan.variant_labels.get(reference, reference)
    setting = _Setting.of(run, table, keys)
    rows = []
    for where, row in zip(setting.rows, table.to_dict("records"), strict=True):
        epoch, count, key = row["break_even_epoch"], row["break_even_count"], where[0].key
        never = "—" if math.isnan(row["fit_seconds"]) else "never"
        line = [
            Entry("never", None, key) if math.isnan(epoch) else Entry(f"{epoch:.3g}", epoch, key),
            Entry(f"{count:,}", float(count), key) if isinstance(count, int) else Entry(never, None, key),
            *(Entry(f"{100 * row[name]:.2f}", row[name], key) for name in ("accuracy", "reference_accuracy")),
            *(_seconds(row[name], key) for name in ("fit_seconds", "reference_fit_seconds")),
        ]
        rows.append((*where, *line, _groups(row, key)))
    heads = (
        Head("break-even epoch"), Head("break-even datasets"), Head("ACC (%)"), Head(f"{label} ACC (%)"), Head("fit (s)"),
        Head(f"{label} fit (s)"), Head("n"),
    )  # fmt: skip
    note = (
        f"Over the n groups that both measured. Epoch: where training from scratch becomes at least as accurate as {label}; "
        f"if it is the first measured one, that may be late. Datasets: after so many, {label}'s meta-training and "
        "predictions have taken no longer than fitting each of them."
    )
    if (table["n_timed"] < table["n"]).any():
        note += f" {_MIXED_THREADS}"
    return PageTable(f"Break-even with {label}", setting.note(note), (*setting.heads, *heads), tuple(rows))


def _seconds(value: float, key: str) -> Entry:
    return Entry("—", None, key) if math.isnan(value) else Entry(format_seconds(value), value, key)


def _groups(row: Mapping[Any, Any], key: str) -> Entry:
    mark = f" ({row['n_timed']} with {row['threads']} threads)" if row["n_timed"] < row["n"] else ""
    return Entry(f"{row['n']}{mark}", row["n"], key)
