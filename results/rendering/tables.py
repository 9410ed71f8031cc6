"""Tables of measured rows in LaTeX, Markdown or CSV, optionally with the paper's numbers.

Accuracy is in percent (mean over class splits, and a 95% interval of `analysis.intervals`), time in seconds of fitting
one group. Each device has its own table, and times of different thread counts never enter one mean
(`analysis.statistics`).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.analysis.comparison import Rank, estimates, ranks
from pudnet_bench.results.analysis.effects import measured_effects
from pudnet_bench.results.analysis.intervals import Estimate, Unit
from pudnet_bench.results.analysis.statistics import of_one_thread_count
from pudnet_bench.results.rendering.captions import Basis, claim, counted, footnote, fullest, is_other, mark
from pudnet_bench.results.rendering.effect_text import effect_sentences
from pudnet_bench.results.rendering.escaping import Format, escape_latex, escape_markdown, markdown_table, one_line
from pudnet_bench.results.rendering.latex import table_environment

if TYPE_CHECKING:
    import pandas as pd

    from pudnet_bench.results.analysis.effects import Effect


@dataclass(frozen=True)
class TableRow:
    """A row: `id` ("adam@30") names it, also in the paper's numbers unless `printed_as` differs.

    `method` and `snapshot` select its measurements. Neighbouring rows with the same `group_label` ("Adam scratch") form a
    block; "" means no block. Neighbouring rows with the same `section` follow its heading; "" means none.
    """

    id: str
    method: str
    snapshot: str
    label: str
    group_label: str = ""
    printed_as: str = ""
    section: str = ""

    @property
    def in_paper(self) -> str:
        """The row's name in the paper's numbers."""
        return self.printed_as or self.id


@dataclass(frozen=True)
class TableLayout:
    """What a table shows: `columns` are (family id, label) and `target` the one target network of the table.

    It ends with the `effects`; `labels` are those of the methods that they are about.
    """

    name: str
    title: str
    rows: tuple[TableRow, ...]
    columns: tuple[tuple[str, str], ...]
    target: str
    effects: tuple[Effect, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableCell:
    """One row and column on one device. Accuracies in percent, times in seconds; NaN (and n = 0) if not measured.

    `accuracy_ci` is the half width of the interval to print, of `basis.unit`; `half_widths` has those of every unit.
    `training_groups` are the lengths of meta-training behind it, `precisions` those of its rows. Times are over the
    `n_timed` groups that were measured with one thread count, `threads`. `rank` is that of `analysis.comparison.ranks`.
    """

    row: TableRow
    column: str
    device: str
    basis: Basis = field(default_factory=Basis)
    accuracy_mean: float = math.nan
    accuracy_ci: float = math.nan
    half_widths: Mapping[Unit, float] = field(default_factory=dict)
    seconds_mean: float = math.nan
    seconds_median: float = math.nan
    threads: int = 0
    n_timed: int = 0
    training_groups: tuple[float, ...] = ()
    precisions: tuple[str, ...] = ()
    rank: Rank = ""

    @property
    def n(self) -> int:
        """Number of groups, over all splits and seeds."""
        return self.basis.n

    @property
    def splits(self) -> int:
        return self.basis.splits

    @property
    def seeds(self) -> int:
        return self.basis.seeds

    @property
    def unit(self) -> Unit:
        """The unit of the printed interval, "" for none."""
        return self.basis.unit

    @property
    def finished(self) -> bool:
        """False while a cell behind it is being measured."""
        return self.basis.finished

    @property
    def mixed_threads(self) -> bool:
        """Whether some of the groups were measured with another thread count, and have no part in the times."""
        return self.n_timed < self.n


TARGET_LABELS = {"convnet3": "ConvNet-3", "resnet18": "ResNet-18", "resnet34": "ResNet-34"}
BOLD = (
    " Bold: the best of a column, and what does not differ from it significantly (paired t tests for the same unit, Holm, "
    "5%)."
)
UNDERLINED = " Underlined: the best of the rest."
WITHOUT = " Without ±: too few classes or groups for an interval."
MARKED = "A cell with an n is over n groups, or not finished."
MIXED_THREADS = "A time with a t is over the groups that were measured with t threads; others had another thread count."
CSV_COLUMNS = (
    "table", "row", "column", "target", "accuracy_mean", "accuracy_ci", "interval", "ci_splits", "ci_classes", "ci_groups",
    "n", "splits", "seeds", "seconds_mean", "seconds_median", "device", "threads", "paper_accuracy", "paper_ci",
    "paper_seconds", "label",
)  # fmt: skip
UNITS: tuple[Unit, ...] = ("splits", "classes", "groups")
Record = dict[str, str | int | float | None]
Printed = Mapping[tuple[str, str], Mapping[Any, Any]]
"""Rows of the paper's numbers (`results.paper.load`) of one target, by row and column."""


def summarise(frame: pd.DataFrame, layout: TableLayout, *, ranked: bool = True) -> list[TableCell]:
    """Every cell of the table, by device, row and column; missing ones included.

    `frame` is `Run.frame()`; rows of other targets belong to other tables and are left out. Measured methods and
    families that the layout does not know (user-defined ones) follow the layout's rows and columns. Without any
    measurement there is one device, "". Ranking takes most of the time, and is skipped unless `ranked`.
    """
    frame = frame[frame["target"] == layout.target]
    measured: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for device, on_device in frame.groupby("device", sort=False):
        found = estimates(on_device)
        placed = ranks(on_device, found) if ranked else {}
        for (method, snapshot, family), rows in on_device.groupby(["method", "snapshot", "family"], sort=False):
            place = str(method), str(snapshot), str(family)
            measured[str(device), *place] = {**_values(rows, found[place]), "rank": placed.get(place, "")}
    shown = [*_planned_rows(layout, measured), *_extra_rows(layout, measured)]
    shown.sort(key=lambda row: row.section != "")  # a heading is above rows of its section only
    columns = column_labels((keys[3] for keys in measured), layout)
    return [
        TableCell(row, column, device, **measured.get((device, row.method, row.snapshot, column), {}))
        for device in sorted({keys[0] for keys in measured} or {""})
        for row in shown
        for column in columns
    ]


def _values(rows: pd.DataFrame, estimate: Estimate) -> dict[str, Any]:
    """The fields of the cell with these rows, but for its place and rank."""
    timed, threads = of_one_thread_count(rows)
    basis = Basis(
        unit=estimate.unit, n=estimate.n, splits=estimate.splits, seeds=estimate.seeds, classes=estimate.classes,
        trainings=len(rows[["split", "seed"]].drop_duplicates()),
        finished=bool(rows["finished"].all()) if "finished" in rows else True,
    )  # fmt: skip
    return {
        "basis": basis,
        "accuracy_mean": estimate.mean,
        "accuracy_ci": estimate.half_width(),
        "half_widths": {unit: estimate.half_width(unit=unit) for unit in estimate.intervals},
        "seconds_mean": float(timed["seconds"].mean()),
        "seconds_median": float(timed["seconds"].median()),
        "threads": threads,
        "n_timed": len(timed),
        "training_groups": tuple(rows["training_groups"].dropna().unique()),
        "precisions": tuple(filter(None, rows["precision"].unique())),
    }


def records(cells: Sequence[TableCell], layout: TableLayout, paper: pd.DataFrame | None) -> list[Record]:
    """The table for programs: the values of each cell by `CSV_COLUMNS`, None for missing ones."""
    printed = {} if paper is None else printed_numbers(paper, layout.target)
    found = []
    for cell in cells:
        number = printed.get((cell.row.in_paper, cell.column), {})
        values: list[str | int | float | None] = [
            layout.name, cell.row.id, cell.column, layout.target, cell.accuracy_mean, cell.accuracy_ci, cell.unit or None,
            *(cell.half_widths.get(unit) for unit in UNITS), cell.n, cell.splits, cell.seeds,
            cell.seconds_mean, cell.seconds_median, cell.device, cell.threads if cell.n else None,
            number.get("value"), number.get("ci"), number.get("seconds"),
            one_line(", ".join(filter(None, (cell.row.group_label, cell.row.label)))),
        ]  # fmt: skip
        known = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
        found.append(dict(zip(CSV_COLUMNS, known, strict=True)))
    return found


def render(frame: pd.DataFrame, layout: TableLayout, format: Format, paper: pd.DataFrame | None = None) -> str:
    """The table as text, ending in a newline. `paper` is `results.paper.load(layout.name)`, or None to leave it out.

    latex: one `table` environment per device, no wider than the text; the document needs `\\usepackage{booktabs,graphicx}`.
    The paper's numbers are below ours, in italics; in Markdown and CSV they have separate columns.
    csv: one row per cell, full precision, accuracies in percent, empty where nothing is measured or printed.
    A cell over fewer groups than the caption says, still being measured, or with times over fewer groups is marked.
    """
    return typeset(summarise(frame, layout, ranked=format != "csv"), layout, format, paper, notes(frame, layout))


def notes(frame: pd.DataFrame, layout: TableLayout) -> dict[str, list[str]]:
    """The sentences that the table of each device ends with, with a literal ± and %: the effects that are measured."""
    rows, families = frame[frame["target"] == layout.target], dict(layout.columns)
    return {
        str(device): effect_sentences(measured_effects(on_device, layout.effects), layout.labels, families)
        for device, on_device in rows.groupby("device", sort=False)
    }


def typeset(
    cells: list[TableCell],
    layout: TableLayout,
    format: Format,
    paper: pd.DataFrame | None = None,
    ends: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """`render`, from the cells that `summarise` found and the sentences of `notes`."""
    if format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records(cells, layout, paper))
        return text.getvalue()
    if format not in ("latex", "markdown"):
        raise ValueError(f"unknown table format {format!r}: choose latex, markdown or csv")
    printed = None if paper is None else printed_numbers(paper, layout.target)
    by_device: dict[str, list[TableCell]] = {}
    for cell in cells:
        by_device.setdefault(cell.device, []).append(cell)
    write = _latex if format == "latex" else _markdown
    several = len(by_device) > 1
    return "\n".join(write(part, layout, printed, several, (ends or {}).get(d, ())) for d, part in by_device.items())


def format_seconds(seconds: float) -> str:
    """Three significant digits without an exponent: 0.0312, 26.0, 1230."""
    return f"{Decimal(f'{seconds:.2e}'):f}"


def _planned_rows(layout: TableLayout, measured: Iterable[tuple[str, str, str, str]]) -> list[TableRow]:
    """The layout's rows, but for a method whose measured snapshots have other names: those alone have numbers."""
    found = {(method, snapshot) for _, method, snapshot, _ in measured}
    methods = {method for method, _ in found}
    return [row for row in layout.rows if (row.method, row.snapshot) in found or row.method not in methods]


def _extra_rows(layout: TableLayout, measured: Iterable[tuple[str, str, str, str]]) -> list[TableRow]:
    known = {(row.method, row.snapshot) for row in layout.rows}
    extra = dict.fromkeys((method, snapshot) for _, method, snapshot, _ in measured)
    return [
        TableRow("@".join(filter(None, names)), *names, label=", ".join(filter(None, names)))
        for names in extra
        if names not in known
    ]


def printed_numbers(paper: pd.DataFrame, target: str) -> Printed:
    """The rows of `results.paper.load` that are of `target`, by row and column."""
    return {(row["row"], row["column"]): row for row in paper[paper["target"] == target].to_dict("records")}


def _grid(cells: list[TableCell]) -> list[tuple[TableRow, str, str, list[TableCell]]]:
    """The cells of one device as (row, section and group label to print, its cells).

    A section's heading is above its first row, a block's label in its first row; "" for the others.
    """
    by_row: dict[TableRow, list[TableCell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, []).append(cell)
    lines, section, block = [], "", ""
    for row, row_cells in by_row.items():
        heading = "" if row.section == section else row.section
        lines.append((row, heading, "" if row.group_label == block else row.group_label, row_cells))
        section, block = row.section, row.group_label
    return lines


def column_labels(families: Iterable[str], layout: TableLayout) -> dict[str, str]:
    """The label of each column, by family: the layout's in its order, then the names of families it does not know."""
    labels = dict(layout.columns)
    return labels | {family: family for family in sorted(set(families) - labels.keys())}


def _caption(cells: list[TableCell], layout: TableLayout, marks: str) -> tuple[str, str]:
    """(title, note); the note has a literal ± and %, for the format to escape. `marks` explains how cells are marked."""
    title = layout.title.strip().rstrip(".") + "."
    full = fullest([cell.basis for cell in cells])
    if not full.n:
        return title, "Nothing is measured yet."
    note = claim(full, {cell.basis.classes for cell in cells if cell.n and not is_other(cell.basis, full)})
    precisions = " and ".join(sorted({precision for cell in cells for precision in cell.precisions}))
    trained = [groups for cell in cells for groups in cell.training_groups]
    note += f" Meta-trained on {counted(trained, 'group')}; time" if trained else " Time"
    note += f" in seconds until a classifier is ready for one group, on {cells[0].device}"
    note += f" in {precisions}." if precisions else "."
    note += f" {marks}" if marks else ""
    if full.unit and any(cell.n and not cell.basis.unit for cell in cells):
        note += WITHOUT
    if sum(cell.n > 0 for cell in cells) > 1 and any(cell.rank for cell in cells):
        note += BOLD
    return title, note


def _footnote(cell: TableCell, full: Basis) -> str:
    """What a reader must know of a cell that is not like the others, "" for one that is."""
    timed = f"time over the {counted((cell.n_timed,), 'group')} with {counted((cell.threads,), 'thread')}"
    return ", ".join(filter(None, (footnote(cell.basis, full), timed if cell.mixed_threads else "")))


def format_accuracy(mean: float, half_width: float, plus_minus: str) -> str:
    """Percent with two decimals, and the half-width of the interval unless it is NaN."""
    return f"{mean:.2f}" if math.isnan(half_width) else f"{mean:.2f} {plus_minus} {half_width:.2f}"


def _markdown_paper(number: Mapping[Any, Any] | None) -> str:
    if number is None:
        return "—"
    text = format_accuracy(number["value"], number["ci"], "±")
    # The paper prints every number with two decimals.
    return text if math.isnan(number["seconds"]) else f"{text} / {number['seconds']:.2f} s"


def _latex(
    cells: list[TableCell], layout: TableLayout, printed: Printed | None, several_devices: bool, ends: Sequence[str]
) -> str:
    full = fullest([cell.basis for cell in cells])
    footnotes = [note for note in dict.fromkeys(_footnote(cell, full) for cell in cells) if note]
    marks = {note: chr(ord("a") + place % 26) * (place // 26 + 1) for place, note in enumerate(footnotes)}
    explained = "; ".join(f"{mark}: {note}" for note, mark in marks.items())
    title, note = _caption(cells, layout, f"Marked {explained}." if marks else "")

    def accuracy(cell: TableCell) -> str:
        if not cell.n:
            return "--"
        text = format_accuracy(cell.accuracy_mean, cell.accuracy_ci, r"\pm")
        text = {"best": rf"$\mathbf{{{text}}}$", "second": rf"\underline{{${text}$}}", "": f"${text}$"}[cell.rank]
        # A mark has no width, so that the numbers of a column stay aligned.
        footnote = _footnote(cell, full)
        return text + (rf"\rlap{{$^{{{marks[footnote]}}}$}}" if footnote else "")

    def line(front: list[str], values: list[str]) -> str:
        return " & ".join(front + values) + r" \\"

    heads = list(column_labels((cell.column for cell in cells), layout).values())
    grouped = any(cell.row.group_label for cell in cells)
    lead = 2 if grouped else 1
    if any(cell.rank == "second" for cell in cells):
        note += UNDERLINED
    if printed:
        note += " Below each row, in italics, what the paper prints."
    label = f"tab:{_slug(layout.name)}" + (f"-{_slug(cells[0].device)}" if several_devices else "")
    blank = [""] * (lead - 1)
    lines = [
        line(["Method", *blank], [_spanned(2, "c", head) for head in heads]),
        " ".join(rf"\cmidrule(lr){{{first}-{first + 1}}}" for first in range(lead + 1, lead + 2 * len(heads), 2)),
        line(["", *blank], [r"ACC (\%)", "time (s)"] * len(heads)),
    ]
    previous = None
    for row, section, group_label, row_cells in _grid(cells):
        if section:
            heading = rf"\textit{{{escape_latex(section)}}}"
            lines += [r"\midrule", rf"\multicolumn{{{lead + 2 * len(heads)}}}{{@{{}}l}}{{{heading}}} \\"]
        elif row.group_label != previous:  # rows without a block share one between rules
            lines.append(r"\midrule")
        previous = row.group_label
        if grouped and not row.group_label:
            front = [_spanned(2, "@{}l", row.label)]
        else:
            front = [escape_latex(label) for label in (group_label, row.label)[-lead:]]
        values = [(accuracy(cell), format_seconds(cell.seconds_mean) if cell.n else "--") for cell in row_cells]
        lines.append(line(front, [text for pair in values for text in pair]))
        # Not in separate columns as in Markdown: three families would no longer fit on a page.
        numbers = [(printed or {}).get((row.in_paper, cell.column)) for cell in row_cells]
        if any(numbers):
            texts = [text for number in numbers for text in _latex_paper(number)]
            lines.append(line([*blank, r"\scriptsize\textit{paper}"], texts))
    caption = " ".join(map(escape_latex, (title, note, *ends)))
    return table_environment(caption, label, f"@{{}}{'l' * lead}{'rr' * len(heads)}@{{}}", lines)


def _latex_paper(number: Mapping[Any, Any] | None) -> tuple[str, str]:
    if number is None:
        return "", ""
    accuracy = format_accuracy(number["value"], number["ci"], r"$\pm$")
    seconds = "--" if math.isnan(number["seconds"]) else f"{number['seconds']:.2f}"
    return rf"\scriptsize\textit{{{accuracy}}}", rf"\scriptsize\textit{{{seconds}}}"


def _spanned(columns: int, alignment: str, text: str) -> str:
    return rf"\multicolumn{{{columns}}}{{{alignment}}}{{{escape_latex(text)}}}"


def _markdown(
    cells: list[TableCell], layout: TableLayout, printed: Printed | None, several_devices: bool, ends: Sequence[str]
) -> str:
    full = fullest([cell.basis for cell in cells])

    def values(cell: TableCell) -> list[str]:
        shown = ["—", "—"]
        if cell.n:
            text = format_accuracy(cell.accuracy_mean, cell.accuracy_ci, "±")
            other = mark(cell.basis, full)
            seconds = format_seconds(cell.seconds_mean) + (f" (t={cell.threads})" if cell.mixed_threads else "")
            shown = [(f"**{text}**" if cell.rank == "best" else text) + (f" ({other})" if other else ""), seconds]
        if printed is not None:
            shown.append(_markdown_paper(printed.get((cell.row.in_paper, cell.column))))
        return shown

    heads = [escape_markdown(label) for label in column_labels((cell.column for cell in cells), layout).values()]
    grouped = any(cell.row.group_label for cell in cells)
    kinds = ["ACC (%)", "time (s)", *(["paper"] if printed is not None else [])]
    head = ["Method", *([""] if grouped else []), *(f"{name} {kind}" for name in heads for kind in kinds)]
    lead = 2 if grouped else 1
    marks = [MARKED] if any(is_other(cell.basis, full) for cell in cells) else []
    marks += [MIXED_THREADS] if any(cell.mixed_threads for cell in cells) else []
    title, note = _caption(cells, layout, " ".join(marks))
    lines = [head, [":--"] * lead + ["--:"] * (len(head) - lead)]
    for row, section, group_label, row_cells in _grid(cells):
        if section:
            lines.append([f"*{escape_markdown(section)}*", *[""] * (len(head) - 1)])
        front = [group_label, row.label] if row.group_label else [row.label, ""][:lead]
        lines.append([*map(escape_markdown, front), *(text for cell in row_cells for text in values(cell))])
    text = f"**{escape_markdown(title)}** {escape_markdown(note)}\n\n{markdown_table(lines)}"
    return text + "".join(f"\n{escape_markdown(end)}\n" for end in ends)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
