"""The report: one page with the tables, plots and costs of runs, and the provenance of every number.

The page is a single HTML file that loads nothing: style, script and data are inlined, and its content security policy
forbids the rest. `results/rendering/page/` holds the template, its style and its script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pudnet_bench.results.rendering.escaping import one_line
from pudnet_bench.results.rendering.report.model import Panel, Place, ReportedRun, Section
from pudnet_bench.results.rendering.report.plots import FLOPS, TIME, effort_plots, epoch_plots, learning_plots, scatter
from pudnet_bench.results.rendering.report.provenance import cell_table, invocation_table, number_facts, run_facts
from pudnet_bench.results.rendering.report.studies import correlation_plots, correlation_tables, loss_plots, loss_tables
from pudnet_bench.results.rendering.report.tables import break_even_table, cost_table, result_table
from pudnet_bench.results.rendering.tables import TableLayout, notes, summarise

_PAGE = Path(__file__).parent.parent / "page"


def page(runs: Sequence[ReportedRun]) -> str:
    """The page as an HTML document. Raises ValueError for no runs."""
    if not runs:
        raise ValueError("no runs to show")
    data: dict[str, Any] = {"runs": [], "numbers": {}, "scatters": []}
    sections = [_section(number, run, data) for number, run in enumerate(runs)]
    environment = Environment(
        loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    title = f"{sections[0].title}: {sections[0].name}" if len(sections) == 1 else f"{len(sections)} runs"
    heads = [head for section in sections for panel in section.panels for head in panel.table.heads]
    with_paper = any(head.paper for head in heads) or any(plot.with_paper for one in sections for plot in one.figure)
    template = environment.get_template("report.html")
    return template.render(title=title, sections=sections, data=_plain(data), with_paper=with_paper)


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
    record, facts = run.record, run_facts(run)
    data["runs"].append({"name": run.name, "facts": facts})
    keys = number_facts(number, run, data["numbers"])
    panels = tuple(panel for layout in run.layouts for panel in _panels(number, run, layout, keys, data))
    return Section(
        id=f"run-{number + 1}", title=record.plan.title.strip().rstrip("."), name=run.name,
        summary=", ".join(filter(None, (record.suite, record.profile, record.device))),
        panels=panels, figure_title=_figure_title(run),
        figure=(*learning_plots(run), *loss_plots(run), *correlation_plots(run)),
        figure_tables=(*loss_tables(run), *correlation_tables(run)),
        costs=tuple(filter(None, (break_even_table(run, keys), cost_table(run, keys)))) if len(run.frame) else (),
        facts=tuple(facts), invocations=invocation_table(run), cells=cell_table(run),
    )  # fmt: skip


def _panels(
    number: int, run: ReportedRun, layout: TableLayout, keys: Mapping[Place, str], data: dict[str, Any]
) -> list[Panel]:
    cells, reference, panels = summarise(run.frame, layout), run.record.plan.reference, []
    effects = notes(run.frame, layout)
    for device in dict.fromkeys(cell.device for cell in cells):
        shown = [cell for cell in cells if cell.device == device]
        frame = run.frame[(run.frame["target"] == layout.target) & (run.frame["device"] == device)]
        styles = {method: place for place, method in enumerate(dict.fromkeys(cell.row.method for cell in shown))}
        title = run.target_label(layout.target)
        scattered = scatter(shown, layout, frame, reference)
        if scattered is not None:
            data["scatters"].append(scattered)
        plots = (
            *effort_plots(run, shown, layout, frame, styles, TIME),
            *effort_plots(run, shown, layout, frame, styles, FLOPS),
            *epoch_plots(shown, layout, frame, styles, reference),
        )
        table = result_table(number, run, layout, shown, keys, data["numbers"])
        place = None if scattered is None else len(data["scatters"]) - 1
        heading = f"{title}, on {device}" if device else title
        panels.append(Panel(heading, tuple(effects.get(device, ())), table, plots, place))
    return panels


def _figure_title(run: ReportedRun) -> str:
    if run.curve:
        return f"Accuracy against {run.curve.x_label}"
    return "Losses in meta-training" if run.losses is not None else "Correlation of datasets and trained parameters"
