"""One page that shows runs: tables, plots, costs, and behind every number where it comes from.

The page is a single HTML file. It loads nothing: its style, its script and its data stand in it, and its content security
policy forbids the rest. What is computed here is what `tables`, `analysis.costs` and `analysis.curves` compute;
`results/page/` holds the template, its style and its script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pudnet_bench.results.analysis import costs, curves
from pudnet_bench.results.analysis.comparison import PAIR
from pudnet_bench.results.analysis.statistics import mean_ci
from pudnet_bench.results.rendering.charts import Level, Look, Point, Series, chart, pareto_front
from pudnet_bench.results.rendering.escaping import one_line
from pudnet_bench.results.rendering.figures import LOSSES, losses_of, running_mean, top_of_losses
from pudnet_bench.results.rendering.tables import (
    BOLD,
    UNDERLINED,
    TableCell,
    TableLayout,
    TableRow,
    column_labels,
    format_accuracy,
    format_seconds,
    summarise,
)

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "pudnet"
ACCURACY = "accuracy on unseen classes (%)"
CORRELATION_NOTE = (
    "Learned: datasets with the parameters trained on them. Random: with those of others; the areas have 95% of the "
    "shuffles. Held out: on samples that the analysis was not fitted to; without, chance alone correlates."
)
MOST_STEPS, MOST_TOLD = 400, 100  # steps of a training that are drawn, and that can be pointed at
_LOSS_STYLES = dict(zip(LOSSES, (0, 1, 2, 6), strict=True))  # colours and dashes near to those of the figure
_CORRELATIONS: tuple[tuple[str, str, Look], ...] = (("", "", ""), (", held out", "_held_out", "hollow"))
_PAGE = Path(__file__).parent / "page"
_Place = tuple[str, str, str, str, str]  # device, target, method, snapshot, family


@dataclass(frozen=True)
class LearningCurve:
    """What of a run is drawn against a number: `places` as in `results.analysis.curves.points`.

    `printed` has the paper's points: the columns curve, column (a family), target, x, value and ci (percent).
    """

    x_label: str
    log_x: bool
    places: Mapping[str, tuple[str, float]]
    printed: pd.DataFrame


@dataclass(frozen=True)
class ReportedRun:
    """What a page needs of a run.

    `name` is its folder as a reader knows it, `manifest` is that of its store, `frame` is `Run.frame()` of its plan's
    cells, `layouts` has a table for each target, `printed` is `results.paper.load` of its suite (empty where the paper
    has no numbers), `target_labels` names the targets. `losses` are those of meta-training, as `figures.draw_losses`
    takes them, and `correlations` what `correlation.correlation_table` gives, by label; of the suites that draw them.
    """

    name: str
    manifest: Mapping[str, Any]
    frame: pd.DataFrame
    layouts: Sequence[TableLayout]
    printed: pd.DataFrame
    target_labels: Mapping[str, str] = field(default_factory=dict)
    curve: LearningCurve | None = None
    losses: pd.DataFrame | None = None
    correlations: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """A column: `over` says what it belongs to (a family)."""

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
    """A drawing with what stands above and below it."""

    title: str
    drawing: Markup
    note: str
    with_paper: bool = False


@dataclass(frozen=True)
class Panel:
    """A target on a device: its table, its plots, and the number of its scatter among the page's data (None for none)."""

    title: str
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
    break_evens: PageTable | None
    costs: PageTable | None
    facts: tuple[tuple[str, str], ...]
    invocations: PageTable
    cells: PageTable


def page(runs: Sequence[ReportedRun]) -> str:
    """The page as HTML, a whole document. Raises ValueError for no runs."""
    if not runs:
        raise ValueError("no runs to show")
    data: dict[str, Any] = {"runs": [], "numbers": {}, "scatters": []}
    sections = [_section(number, run, data) for number, run in enumerate(runs)]
    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    title = f"{sections[0].title}: {sections[0].name}" if len(sections) == 1 else f"{len(sections)} runs"
    return environment.get_template("report.html").render(
        title=title,
        sections=sections,
        data=_plain(data),
        with_paper=any(_with_paper(section) for section in sections),
    )


def _with_paper(section: Section) -> bool:
    in_tables = any(head.paper for panel in section.panels for head in panel.table.heads)
    return in_tables or any(plot.with_paper for plot in section.figure)


def _shown(value: Any) -> Any:
    """Every value that the template prints passes here: no name may break a line or turn the text around."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _plain(value: Any) -> Any:
    """`value` as JSON has it: without the characters that `_shown` takes away, and null for what is not a number."""
    if isinstance(value, dict):
        return {one_line(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return one_line(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _section(number: int, run: ReportedRun, data: dict[str, Any]) -> Section:
    manifest, plan = run.manifest, run.manifest["plan"]
    facts = _facts(run)
    data["runs"].append({"name": run.name, "facts": facts})
    keys = _provenance(number, run, data["numbers"])
    families = dict(plan["families"])
    panels = tuple(panel for layout in run.layouts for panel in _panels(number, run, layout, keys, data))
    frame = run.frame
    break_evens = costs.break_evens(frame, REFERENCE) if len(frame) else None
    return Section(
        id=f"run-{number + 1}",
        title=str(plan["title"]).strip().rstrip("."),
        name=run.name,
        summary=", ".join(
            str(manifest.get(part) or "") for part in ("suite", "profile", "device") if manifest.get(part)
        ),
        panels=panels,
        figure_title=_figure_title(run),
        figure=(*_learning_plots(run, families), *_loss_plots(run), *_correlation_plots(run)),
        figure_tables=(*_loss_tables(run), *_correlation_tables(run)),
        break_evens=_break_even_table(run, break_evens, keys) if break_evens is not None and len(break_evens) else None,
        costs=_cost_table(run, keys) if len(frame) else None,
        facts=tuple(facts),
        invocations=PageTable(
            "Commands that made this run",
            "",
            (Head("Started", numeric=False), Head("Commit", numeric=False), Head("Command", numeric=False)),
            tuple(
                tuple(_words(call.get(part) or "none") for part in ("started", "git_commit", "command"))
                for call in manifest.get("invocations", [])
            ),
        ),
        cells=_cell_table(run, families),
    )


# --- Provenance ---------------------------------------------------------------------------------------------------


def _facts(run: ReportedRun) -> list[tuple[str, str]]:
    """What all numbers of a run have in common."""
    manifest = run.manifest
    calls = list(manifest.get("invocations", []))
    made = {
        part: list(dict.fromkeys(str(call.get(part) or "none") for call in calls)) or [manifest.get(part) or "none"]
        for part in ("git_commit", "command")
    }
    # The rows do not say which of several commands measured them.
    several = {part: ", one of" if len(values) > 1 else "" for part, values in made.items()}
    facts = [
        ("run", run.name),
        ("suite", manifest.get("suite")),
        ("profile", manifest.get("profile")),
        (f"commit{several['git_commit']}", "; ".join(made["git_commit"])),
        (f"command{several['command']}", "; ".join(made["command"])),
        ("device of the run", manifest.get("device")),
        ("precision", manifest.get("precision")),
        ("threads", manifest.get("threads")),
        ("driver", manifest.get("driver")),
        ("platform", manifest.get("platform")),
        ("versions", ", ".join(f"{name} {version}" for name, version in dict(manifest.get("versions") or {}).items())),
        ("started", manifest.get("started")),
        ("ended", manifest.get("ended")),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _provenance(number: int, run: ReportedRun, numbers: dict[str, Any]) -> dict[_Place, str]:
    """A key for every measured place, and in `numbers` what is known of it."""
    families = dict(run.manifest["plan"]["families"])
    labels = {(row.method, row.snapshot): _row_label(row) for layout in run.layouts for row in layout.rows}
    keys: dict[_Place, str] = {}
    for where, rows in run.frame.groupby(["device", "target", "method", "snapshot", "family"], sort=False):
        device, target, method, snapshot, family = place = tuple(map(str, where))
        key = f"n{number}-{len(keys)}"
        keys[device, target, method, snapshot, family] = key
        accuracy, seconds = mean_ci(100 * rows["accuracy"].to_numpy()), rows["seconds"]
        name = labels.get((method, snapshot)) or ", ".join(filter(None, place[2:4]))
        artifacts = [str(artifact) for artifact in rows["artifact"].unique() if artifact]
        facts = [
            ("accuracy", f"{format_accuracy(accuracy.mean, accuracy.half_width, '±')} % (95% t interval)"),
            ("time", f"{format_seconds(seconds.mean())} s mean, {format_seconds(seconds.median())} s median"),
            ("groups", str(len(rows))),
            ("seeds", ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))),
            ("device", device),
            ("target", run.target_labels.get(target, target)),
            ("file", ", ".join(_file(cell, bool(part["finished"].all())) for cell, part in rows.groupby("cell"))),
            *([("weights", ", ".join(artifacts))] if artifacts else []),
        ]
        numbers[key] = {"run": number, "title": f"{name}, {families.get(family, family)}", "facts": facts}
    return keys


def _file(cell: Any, finished: bool) -> str:
    return f"cells/{cell}.parquet" if finished else f"cells/{cell}.*.parquet (not finished)"


def _cell_table(run: ReportedRun, families: Mapping[str, str]) -> PageTable:
    """The cells of the plan, with the file of each."""
    labels = {variant["name"]: variant["label"] for variant in run.manifest["plan"]["variants"]}
    measured = {str(key): rows for key, rows in run.frame.groupby("cell")}
    rows = []
    for cell in run.manifest["plan"]["cells"]:
        mine = measured.get(cell["key"])
        done = 0 if mine is None else mine["group"].nunique()
        file = "none yet" if mine is None else _file(cell["key"], bool(mine["finished"].all()))
        rows.append(
            (
                _words(labels.get(cell["method"], cell["method"])),
                _words(families.get(cell["family"], cell["family"])),
                _words(run.target_labels.get(cell["target"], cell["target"])),
                Entry(str(cell["seed"]), cell["seed"]),
                Entry(f"{done} of {cell['groups']}", done),
                _words(file),
                _words(cell.get("artifact") or "none"),
            )
        )
    words = [Head(label, numeric=False) for label in ("Method", "Family", "Target")]
    heads = (*words, Head("Seed"), Head("Groups"), Head("File", numeric=False), Head("Weights", numeric=False))
    return PageTable("Cells", "", heads, tuple(rows))


# --- Tables -------------------------------------------------------------------------------------------------------


def _panels(
    number: int, run: ReportedRun, layout: TableLayout, keys: Mapping[_Place, str], data: dict[str, Any]
) -> list[Panel]:
    cells = summarise(run.frame, layout)
    devices = list(dict.fromkeys(cell.device for cell in cells))
    panels = []
    for device in devices:
        shown = [cell for cell in cells if cell.device == device]
        frame = run.frame[(run.frame["target"] == layout.target) & (run.frame["device"] == device)]
        styles = {method: place for place, method in enumerate(dict.fromkeys(cell.row.method for cell in shown))}
        title = run.target_labels.get(layout.target, layout.target)
        scatter = _scatter(shown, layout, frame)
        if scatter is not None:
            data["scatters"].append(scatter)
        panels.append(
            Panel(
                title=f"{title}, on {device}" if device else title,
                table=_result_table(number, run, layout, shown, keys, data["numbers"]),
                plots=(
                    *_spent_plots(shown, layout, frame, styles, _TIME),
                    *_spent_plots(shown, layout, frame, styles, _FLOPS),
                    *_epoch_plots(shown, layout, frame, styles),
                ),
                scatter=None if scatter is None else len(data["scatters"]) - 1,
            )
        )
    return panels


def _result_table(
    number: int,
    run: ReportedRun,
    layout: TableLayout,
    cells: Sequence[TableCell],
    keys: Mapping[_Place, str],
    numbers: dict[str, Any],
) -> PageTable:
    printed = {
        (row["row"], row["column"]): row
        for row in run.printed[run.printed["target"] == layout.target].to_dict("records")
    }
    labels = _column_labels(cells, layout)
    with_paper = {column for column in labels if any((cell.row.in_paper, column) in printed for cell in cells)}
    heads = [Head("Method", numeric=False)]
    for column, over in labels.items():
        heads += [Head(label, over) for label in ("ACC (%)", "time (s)", "n")]
        if column in with_paper:
            heads += [Head(label, over, paper=True) for label in ("paper ACC", "paper time")]
    rows: dict[TableRow, list[Entry]] = {}
    for cell in cells:
        key = keys.get((cell.device, layout.target, cell.row.method, cell.row.snapshot, cell.column), "")
        line = rows.setdefault(cell.row, [_words(_row_label(cell.row))])
        if cell.n:
            accuracy = format_accuracy(cell.accuracy_mean, cell.accuracy_ci, "±")
            groups = f"{cell.n}" if cell.finished else f"{cell.n} (not finished)"
            line += [
                Entry(accuracy, cell.accuracy_mean, key, opens=True, rank=cell.rank),
                Entry(format_seconds(cell.seconds_mean), cell.seconds_mean, key),
                Entry(groups, cell.n, key),
            ]
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
    key = f"p{number}-{len(numbers)}"
    accuracy = format_accuracy(printed["value"], printed["ci"], "±")
    facts = [
        ("source", f"the paper's {printed['table']}, as printed"),
        ("row, as printed", printed["printed"]),
        *([("note", printed["note"])] if printed["note"] else []),
    ]
    numbers[key] = {"run": None, "title": "The paper's number", "facts": facts}
    seconds = printed["seconds"]
    return [
        Entry(accuracy, printed["value"], key, opens=True, paper=True),
        # The paper prints every number with two decimals.
        Entry("—", None, paper=True) if math.isnan(seconds) else Entry(f"{seconds:.2f}", seconds, key, paper=True),
    ]


def _note(cells: Sequence[TableCell]) -> str:
    if not any(cell.n for cell in cells):
        return "Nothing is measured yet."
    note = (
        "Mean ± 95% interval over n groups; time in seconds until a classifier is ready for one group, on "
        f"{cells[0].device}."
    )
    if sum(cell.n > 0 for cell in cells) > 1:
        note += BOLD
    if any(cell.rank == "second" for cell in cells):
        note += UNDERLINED
    return f"{note} Choose a number to see where it comes from."


def _column_labels(cells: Sequence[TableCell], layout: TableLayout) -> dict[str, str]:
    """The label of each family, in the order of the columns."""
    return dict(zip(dict.fromkeys(cell.column for cell in cells), column_labels(cells, layout), strict=True))


def _row_label(row: TableRow) -> str:
    return ", ".join(filter(None, (row.group_label, row.label)))


def _words(text: object) -> Entry:
    return Entry(str(text), str(text))


@dataclass(frozen=True)
class _Setting:
    """Names of what rows of `results.analysis.costs` are about: the method, and of family, target and device those that differ.

    `common` are the names that all rows share, for the note below the table.
    """

    heads: tuple[Head, ...]
    rows: tuple[tuple[Entry, ...], ...]
    common: str

    @classmethod
    def of(cls, run: ReportedRun, table: pd.DataFrame, keys: Mapping[_Place, str]) -> _Setting:
        families = dict(run.manifest["plan"]["families"])
        labels = {(r.method, r.snapshot): _row_label(r) for layout in run.layouts for r in layout.rows}
        names: dict[str, list[str]] = {"Family": [], "Target": [], "Device": []}
        methods = []
        for row in table.to_dict("records"):
            method, snapshot = row["method"], row["snapshot"]
            name = labels.get((method, snapshot)) or ", ".join(filter(None, (method, snapshot)))
            key = keys.get((row["device"], row["target"], method, snapshot, row["family"]), "")
            methods.append(Entry(name, name, key, opens=bool(key)))
            names["Family"].append(families.get(row["family"], row["family"]))
            names["Target"].append(run.target_labels.get(row["target"], row["target"]))
            names["Device"].append(row["device"])
        differing = [name for name, values in names.items() if len(set(values)) > 1]
        return cls(
            tuple(Head(name, numeric=False) for name in ("Method", *differing)),
            tuple(
                (method, *(_words(names[name][place]) for name in differing)) for place, method in enumerate(methods)
            ),
            ", ".join(values[0] for name, values in names.items() if name not in differing),
        )

    def note(self, text: str) -> str:
        return f"{self.common}. {text}" if self.common else text


def _cost_table(run: ReportedRun, keys: Mapping[_Place, str]) -> PageTable:
    table = costs.method_costs(run.frame)
    setting = _Setting.of(run, table, keys)
    known = {name: cost for name, cost in costs.COSTS.items() if table[name].notna().any()}
    rows = []
    for where, row in zip(setting.rows, table.to_dict("records"), strict=True):
        key = where[0].key
        line = [
            Entry("none" if name == "meta_train_seconds" else "—", None, key)
            if math.isnan(row[name])
            else Entry(cost.text(row[name]), float(row[name]), key)
            for name, cost in known.items()
        ]
        rows.append((*where, *line, Entry(str(row["n"]), row["n"], key)))
    heads = (*(Head(cost.unit or cost.name, cost.name if cost.unit else "") for cost in known.values()), Head("n"))
    note = (
        "Means over the n groups, of a fit until a classifier is ready; meta-training: mean over seeds; evaluation: all test "
        "images; peak memory: the largest of any group; parameters: learned before any unseen group."
    )
    if "fit_flops" in known or "test_flops" in known:
        note += " FLOPs: products of matrices and convolutions, by torch's counter."
    if "energy_joules" in known:
        note += " Energy: all that the device used meanwhile, other work and idling included."
    unknown = [
        cost.heading for name, cost in costs.COSTS.items() if name not in known and name in _MEASURED_WHERE_POSSIBLE
    ]
    if unknown:
        note += f" Not known of this run: {', '.join(unknown)}."
    return PageTable("Costs", setting.note(note), (*setting.heads, *heads), tuple(rows))


_MEASURED_WHERE_POSSIBLE = ("parameters", "fit_flops", "test_flops", "energy_joules")


def _break_even_table(run: ReportedRun, table: pd.DataFrame, keys: Mapping[_Place, str]) -> PageTable:
    setting = _Setting.of(run, table, keys)
    rows = []
    for where, row in zip(setting.rows, table.to_dict("records"), strict=True):
        epoch, count = row["break_even_epoch"], row["break_even_count"]
        never = math.isnan(epoch), not isinstance(count, int)
        key = where[0].key
        rows.append(
            (
                *where,
                Entry("never" if never[0] else f"{epoch:.3g}", None if never[0] else epoch, key),
                Entry("never" if never[1] else f"{count:,}", None if never[1] else float(count), key),
                Entry(f"{100 * row['accuracy']:.2f}", row["accuracy"], key),
                Entry(f"{100 * row['reference_accuracy']:.2f}", row["reference_accuracy"], key),
                _seconds(row["fit_seconds"], "—", key),
                _seconds(row["reference_fit_seconds"], "—", key),
                Entry(str(row["n"]), row["n"], key),
            )
        )
    heads = (
        Head("break-even epoch"), Head("break-even datasets"), Head("ACC (%)"), Head("PudNet ACC (%)"), Head("fit (s)"),
        Head("PudNet fit (s)"), Head("n"),
    )  # fmt: skip
    note = (
        "Over the n groups that both measured. Epoch: where training from scratch becomes at least as accurate as PudNet; "
        "if it is the first measured one, that may be late. Datasets: after so many, PudNet's meta-training and "
        "predictions have taken no longer than fitting each of them."
    )
    return PageTable("Break-even with PudNet", setting.note(note), (*setting.heads, *heads), tuple(rows))


def _seconds(value: float, otherwise: str, key: str) -> Entry:
    return Entry(otherwise, None, key) if math.isnan(value) else Entry(format_seconds(value), value, key)


# --- Plots --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spent:
    """What accuracy is drawn against: a column of rows, in units of `unit`, its name, the axis, and a value's text."""

    column: str
    unit: float
    name: str
    axis: str
    text: Callable[[float], str]


_TIME = _Spent(
    "seconds", 1.0, "time", "time until a classifier is ready (s)", lambda seconds: f"{format_seconds(seconds)} s"
)
_FLOPS = _Spent("fit_flops", 1e9, "FLOPs", "GFLOPs until a classifier is ready", lambda giga: f"{giga:.3g} GFLOPs")


def _spent_plots(
    cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, styles: Mapping[str, int], spent: _Spent
) -> list[Plot]:
    """Accuracy against time or FLOPs, a plot for each family."""
    labels = _column_labels(cells, layout)
    means = {
        tuple(map(str, where)): mean_ci(rows[spent.column].dropna().to_numpy() / spent.unit)
        for where, rows in frame.groupby(["method", "snapshot", "family"], sort=False)
    }
    names = _method_labels(cells)
    plots = []
    for family, label in labels.items():
        measured = [
            (cell, means[cell.row.method, cell.row.snapshot, family])
            for cell in cells
            if cell.column == family and cell.n
        ]
        # What is not known, or none at all, has no place on a logarithmic axis.
        shown = [(cell, x) for cell, x in measured if x.mean > 0]
        if len(shown) < 2:  # nothing to compare it with
            continue
        pairs = [(x.mean, cell.accuracy_mean) for cell, x in shown]
        front = pareto_front(pairs)
        points: dict[str, list[Point]] = {}
        for place, (cell, x) in enumerate(shown):
            points.setdefault(cell.row.method, []).append(
                Point(
                    x.mean, cell.accuracy_mean, cell.accuracy_ci, x.half_width,
                    f"{_row_label(cell.row)}: {format_accuracy(cell.accuracy_mean, cell.accuracy_ci, '±')} % in "
                    f"{spent.text(x.mean)} (n = {cell.n})",
                    ringed=place in front,
                )
            )  # fmt: skip
        series = [Series(names[method], tuple(p), styles[method]) for method, p in points.items()]
        title = f"Accuracy against {spent.name}, {label}"
        drawing = chart(title, series, spent.axis, ACCURACY, log_x=True, front=[pairs[place] for place in front])
        note = "Means with 95% intervals; snapshots of one training are joined. Ringed: on the Pareto front."
        plots.append(Plot(title, drawing, note))
    return plots


def _method_labels(cells: Sequence[TableCell]) -> dict[str, str]:
    """The label of each method: that of its block, where it has one."""
    return {cell.row.method: cell.row.group_label or cell.row.label for cell in reversed(cells)}


def _epoch_plots(
    cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, styles: Mapping[str, int]
) -> list[Plot]:
    """Accuracy against epochs of what trains from scratch, with PudNet's level on the same groups."""
    labels = _column_labels(cells, layout)
    names = _method_labels(cells)
    plots = []
    for family, label in labels.items():
        here = frame[frame["family"] == family]
        trained = here[np.isfinite(here["epochs"].to_numpy()) & (here["method"] != REFERENCE).to_numpy()]
        if len(here[["method", "snapshot"]].drop_duplicates()) < 2 or trained.empty:
            continue
        series = []
        for method, rows in trained.groupby("method", sort=False):
            points = []
            for epochs in sorted(rows["epochs"].unique()):
                some = rows[rows["epochs"] == epochs]
                mean = mean_ci(100 * some["accuracy"].to_numpy())
                told = f"{names[str(method)]}, epoch {epochs:g}: {format_accuracy(mean.mean, mean.half_width, '±')} %"
                points.append(Point(float(epochs), mean.mean, mean.half_width, title=f"{told} (n = {mean.n})"))
            series.append(Series(names[str(method)], tuple(points), styles[str(method)]))
        ours = costs.last_snapshots(here[here["method"] == REFERENCE]).merge(trained[PAIR].drop_duplicates(), on=PAIR)
        levels = []
        if len(ours):
            level = mean_ci(100 * ours["accuracy"].to_numpy())
            told = f"{names[REFERENCE]}: {format_accuracy(level.mean, level.half_width, '±')} % (n = {level.n})"
            levels.append(Level(told, level.mean, level.half_width, styles[REFERENCE]))
        title = f"Accuracy against epochs, {label}"
        note = "Means with 95% intervals."
        if levels:
            note += " PudNet's level is over the groups that were also trained on."
        plots.append(Plot(title, chart(title, series, "epochs", ACCURACY, whole_x=True, levels=levels), note))
    return plots


def _learning_plots(run: ReportedRun, families: Mapping[str, str]) -> list[Plot]:
    """Accuracy against the number that a run varies: a plot for each target, family and device."""
    curve = run.curve
    if curve is None or not len(run.frame):
        return []
    points = curves.points(run.frame, curve.places)
    order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in curve.places.values()))}
    plots = []
    for where, rows in points.groupby(["target", "family", "device"], sort=False):
        target, family, device = map(str, where)
        printed = curve.printed[(curve.printed["target"] == target) & (curve.printed["column"] == family)]
        series = []
        for name, line in rows.groupby("curve", sort=False):
            series.append(Series(str(name), _line_points(line, "accuracy_mean", "accuracy_ci"), order[str(name)]))
        for name, line in printed.dropna(subset=["x", "value"]).groupby("curve", sort=False):
            style = order.setdefault(str(name), len(order))
            told = _line_points(line, "value", "ci")
            series.append(Series(f"{name}, the paper", told, style, "paper"))
        x = [point.x for one in series for point in one.points]
        title = f"{families.get(family, family)}, {run.target_labels.get(target, target)}"
        drawing = chart(title, series, curve.x_label, ACCURACY, log_x=curve.log_x and min(x) > 0)
        note = f"Means with 95% intervals over groups, on {device}."
        plots.append(Plot(title, drawing, note, with_paper=any(one.look == "paper" for one in series)))
    return plots


def _line_points(line: pd.DataFrame, mean: str, half: str) -> tuple[Point, ...]:
    return tuple(
        Point(
            float(row["x"]), float(row[mean]), float(row[half]),
            title=f"{row['curve']} at {row['x']:,g}: {format_accuracy(row[mean], row[half], '±')} %"
            + (f" (n = {row['n']})" if "n" in row else ""),
        )
        for row in line.sort_values("x").to_dict("records")
    )  # fmt: skip


def _figure_title(run: ReportedRun) -> str:
    """What a suite of a figure draws."""
    if run.curve:
        return f"Accuracy against {run.curve.x_label}"
    return "Losses in meta-training" if run.losses is not None else "Correlation of datasets and trained parameters"


def _trainings(losses: pd.DataFrame | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """(label, rows in the order of the groups) of each meta-training; of several seeds the lowest."""
    if losses is None:
        return
    for _, rows in losses.groupby(["target", "family"], sort=False):
        one = rows[rows["seed"] == rows["seed"].min()].sort_values("groups", kind="stable")
        first = one.iloc[0]
        yield f"{first['family_label']}, {first['target_label']}, seed {first['seed']}", one


def _loss_plots(run: ReportedRun) -> list[Plot]:
    """The losses of meta-training against the groups seen, a plot for each training."""
    plots = []
    for title, rows in _trainings(run.losses):
        x, top = rows["groups"].to_numpy(dtype=float), top_of_losses(rows)
        steps, thinned = np.arange(0, len(rows), -(-len(rows) // MOST_STEPS)), []
        told = np.arange(0, len(rows), -(-len(rows) // MOST_TOLD))
        for loss in losses_of(rows):
            label, style = LOSSES[loss][0], _LOSS_STYLES[loss]
            raw, running = rows[loss].to_numpy(dtype=float), running_mean(rows[loss])
            single = tuple(Point(x[place], raw[place]) for place in steps if math.isfinite(raw[place]))
            mean = tuple(
                Point(x[place], running[place], title=f"{label} at {x[place]:,.0f} groups: {running[place]:.3g}")
                for place in told
                if math.isfinite(running[place])
            )
            thinned += [Series(label, single, style, "faint"), Series(label, mean, style, "line")]
        drawing = chart(title, sorted(thinned, key=lambda one: one.look), "groups seen in meta-training", "loss",
                        whole_x=True, y_range=(0.0, top))  # fmt: skip
        note = (
            "Strong: mean over 2% of the reported steps around each. Faint: single steps, whose rare spikes may be cut."
        )
        plots.append(Plot(title, drawing, note))
    return plots


def _loss_tables(run: ReportedRun) -> list[PageTable]:
    """The mean of each loss in the quarters of a meta-training: the plots, for those who cannot see them."""
    rows, quarters = [], ("first quarter", "second", "third", "last quarter")
    for title, training in _trainings(run.losses):
        parts = np.array_split(np.arange(len(training)), len(quarters))
        for loss in losses_of(training):
            means = [
                float(training[loss].to_numpy(dtype=float)[part].mean()) if len(part) else math.nan for part in parts
            ]
            rows.append((_words(title), _words(LOSSES[loss][0]), *(_rounded(mean, 3) for mean in means)))
    if not rows:
        return []
    heads = (Head("Training", numeric=False), Head("Loss", numeric=False), *(Head(part) for part in quarters))
    return [PageTable("Mean losses by quarter of meta-training", "", heads, tuple(rows))]


def _correlation_plots(run: ReportedRun) -> list[Plot]:
    """Canonical correlations of true and of shuffled pairs, a plot for each cell."""
    plots = []
    for title, table in run.correlations.items():
        series, lowest = [], 0.0
        for kind, suffix, look in _CORRELATIONS:
            learned, random = table[f"learned{suffix}"], table[f"random{suffix}_mean"]
            ends = list(zip(table[f"random{suffix}_low"], table[f"random{suffix}_high"], strict=True))
            name = f"random{kind}"
            series += [
                Series(f"learned{kind}", tuple(
                    Point(pair, value, title=f"learned{kind}, pair {pair}: {value:.3f}")
                    for pair, value in zip(table["pair"], learned, strict=True)
                ), 0, look),
                Series(name, tuple(
                    Point(pair, value, title=f"{name}, pair {pair}: {value:.3f} ({low:.3f} to {high:.3f})")
                    for pair, value, (low, high) in zip(table["pair"], random, ends, strict=True)
                ), 1, look, tuple(ends)),
            ]  # fmt: skip
            lowest = min(lowest, float(learned.min()), min(low for low, _ in ends))
        drawing = chart(title, series, "canonical pair", "correlation coefficient", whole_x=True, y_range=(lowest, 1.0))
        plots.append(Plot(f"{title} (n = {int(table['n'].iloc[0])})", drawing, CORRELATION_NOTE))
    return plots


def _correlation_tables(run: ReportedRun) -> list[PageTable]:
    """The numbers of the plots."""
    heads = [Head("Pair")]
    for kind, _, _ in _CORRELATIONS:
        heads += [Head(label, kind.removeprefix(", ")) for label in ("learned", "random", "95% of the random")]
    tables = []
    for title, table in run.correlations.items():
        rows = []
        for row in table.to_dict("records"):
            line = [Entry(f"{row['pair']:.0f}", float(row["pair"]))]
            for _, suffix, _ in _CORRELATIONS:
                low, high = row[f"random{suffix}_low"], row[f"random{suffix}_high"]
                line += [_fixed(row[f"learned{suffix}"]), _fixed(row[f"random{suffix}_mean"])]
                line.append(Entry(f"{low:.3f} to {high:.3f}", low))
            rows.append(tuple(line))
        tables.append(PageTable(f"Canonical correlations, {title}", "", tuple(heads), tuple(rows)))
    return tables


def _fixed(value: float) -> Entry:
    return Entry(f"{value:z.3f}", value)


def _rounded(value: float, digits: int) -> Entry:
    return Entry("—", None) if math.isnan(value) else Entry(f"{value:.{digits}g}", value)


def _scatter(cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Accuracy (percent) of every row on every group: the page draws one against another. None for fewer than two rows."""
    labels = _column_labels(cells, layout)
    rows = {(cell.row.method, cell.row.snapshot): cell.row for cell in cells if cell.n}
    if len(rows) < 2:
        return None
    families = []
    for family, label in labels.items():
        here = frame[frame["family"] == family]
        if here.empty:
            continue
        wide = here.pivot_table(index=PAIR, columns=["method", "snapshot"], values="accuracy", aggfunc="first")
        families.append(
            {
                "label": label,
                "groups": [[int(seed), int(group)] for seed, group in wide.index],
                "accuracies": [
                    [round(100 * float(value), 3) for value in wide[place]] if place in wide else [] for place in rows
                ],
            }
        )
    methods = [method for method, _ in rows]
    y = methods.index(REFERENCE) if REFERENCE in methods else len(methods) - 1
    return {
        "rows": [_row_label(row) for row in rows.values()],
        "families": families,
        "x": next(place for place in range(len(methods)) if place != y),
        "y": y,
    }
