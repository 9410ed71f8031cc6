"""What a report page shows: sections with panels, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from markupsafe import Markup

from pudnet_bench.results.analysis.intervals import Estimate, estimate
from pudnet_bench.results.rendering.tables import TARGET_LABELS, TableLayout, TableRow
from pudnet_bench.results.store.run_record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

Place = tuple[str, str, str, str, str]
"""(device, target, method, snapshot, family)."""


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy against a number that a run varies: `places` as in `results.analysis.curves.points`.

    `printed` has the paper's points: the columns curve, column (a family), target, x, value and ci (percent).
    """

    x_label: str
    log_x: bool
    places: Mapping[str, tuple[str, float]]
    printed: pd.DataFrame


@dataclass(frozen=True)
class ReportedRun:
    """What a page needs of a run.

    Attributes:
        name: Its folder as a reader knows it.
        frame: `Run.frame()` of its plan's cells.
        layouts: A table for each target.
        printed: `results.paper.load` of its suite, empty if the paper has no numbers.
        losses: Those of meta-training, as `figures.losses_figure` takes them, if the suite draws them.
        correlations: `correlation.correlation_table` by label, if the suite draws them.
    """

    name: str
    record: RunRecord
    frame: pd.DataFrame
    layouts: Sequence[TableLayout]
    printed: pd.DataFrame
    curve: LearningCurve | None = None
    losses: pd.DataFrame | None = None
    correlations: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def estimates(self) -> Mapping[Place, Estimate]:
        """The accuracy in percent of every measured place."""
        rows = self.frame.groupby(["device", "target", "method", "snapshot", "family"], sort=False)
        return {_place(where): estimate(part, 100 * part["accuracy"]) for where, part in rows}

    def row_name(self, method: str, snapshot: str) -> str:
        """A row's label in the tables, or its names where no layout knows it."""
        labels = {(row.method, row.snapshot): row_label(row) for layout in self.layouts for row in layout.rows}
        return labels.get((method, snapshot)) or ", ".join(filter(None, (method, snapshot)))

    def family_label(self, family: str) -> str:
        return self.record.plan.family_labels.get(family, family)

    def target_label(self, target: str) -> str:
        return TARGET_LABELS.get(target, target)


@dataclass(frozen=True)
class Head:
    """A column; `over` is the heading above it (a family)."""

    label: str
    over: str = ""
    paper: bool = False
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """A field of a table: its text, what it is sorted by (None: last), and the key of its provenance ("" for none).

    The one with `opens` has the button that shows it; the others of the same key can be pointed at.
    """

    text: str
    value: float | str | None
    key: str = ""
    opens: bool = False
    rank: str = ""
    paper: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table that its reader can sort; the first entry of a row names it."""

    name: str
    note: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A drawing, titled above and explained below."""

    title: str
    drawing: Markup
    note: str
    with_paper: bool = False


@dataclass(frozen=True)
class Panel:
    """A target on a device: what its controls show, its table, its plots, and the index of its scatter in the page's data
    (None for none).
    """

    title: str
    effects: tuple[str, ...]
    table: PageTable
    plots: tuple[Plot, ...]
    scatter: int | None


@dataclass(frozen=True)
class Section:
    """A run on the page."""

    id: str
    title: str
    name: str
    summary: str
    panels: tuple[Panel, ...]
    figure_title: str
    figure: tuple[Plot, ...]
    figure_tables: tuple[PageTable, ...]
    costs: tuple[PageTable, ...]
    facts: tuple[tuple[str, str], ...]
    invocations: PageTable
    cells: PageTable


def _place(where: tuple[object, ...]) -> Place:
    device, target, method, snapshot, family = map(str, where)
    return device, target, method, snapshot, family


def row_label(row: TableRow) -> str:
    """The label of a row outside its block and section."""
    label = ", ".join(filter(None, (row.group_label, row.label)))
    return f"{label} ({row.section.lower()})" if row.section else label


def words(text: str) -> Entry:
    """A field of text without provenance."""
    return Entry(text, text)
