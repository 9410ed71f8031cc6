"""Provenance on a report page: the facts of a run, of each number, and of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pudnet_bench.results.analysis.intervals import Estimate, Unit, class_tuples
from pudnet_bench.results.analysis.statistics import of_one_thread_count
from pudnet_bench.results.rendering.interval_text import NONE, about
from pudnet_bench.results.rendering.report.model import Entry, Head, PageTable, Place, ReportedRun, words
from pudnet_bench.results.rendering.tables import format_accuracy, format_seconds

if TYPE_CHECKING:
    import pandas as pd


def run_facts(run: ReportedRun) -> list[tuple[str, str]]:
    """Facts common to all numbers of a run; rows do not record which of several invocations measured them."""
    record, calls = run.record, run.record.invocations

    def fact(name: str, values: list[str]) -> tuple[str, str]:
        different = list(dict.fromkeys(values))
        return f"{name}{', one of' if len(different) > 1 else ''}", "; ".join(different)

    facts = [
        ("run", run.name),
        ("suite", record.suite),
        ("profile", record.profile),
        fact("commit", [call.commit or "none" for call in calls]),
        fact("command", [call.command or "none" for call in calls]),
        ("device of the run", record.device),
        ("precision", record.precision),
        fact("threads", [str(call.threads) for call in calls]),
        fact("driver", [call.driver for call in calls]),
        fact("platform", [call.platform for call in calls]),
        fact("versions", [", ".join(f"{name} {version}" for name, version in call.versions.items()) for call in calls]),
        fact("prototypes classified by", [call.prototype_classifier for call in calls]),
        ("started", calls[0].started),
        ("ended", calls[-1].ended),
    ]
    return [(name, value) for name, value in facts if value]


def number_facts(number: int, run: ReportedRun, numbers: dict[str, Any]) -> dict[Place, str]:
    """A key for every measured place of run `number`; adds the facts behind each to `numbers`."""
    keys: dict[Place, str] = {}
    for where, rows in run.frame.groupby(["device", "target", "method", "snapshot", "family"], sort=False):
        device, target, method, snapshot, family = map(str, where)
        key = f"n{number}-{len(keys)}"
        keys[device, target, method, snapshot, family] = key
        timed, threads = of_one_thread_count(rows)
        seconds, mixed = timed["seconds"], len(timed) < len(rows)
        over = f", over the {len(timed)} groups with {threads} threads" if mixed else ""
        artifacts = [str(artifact) for artifact in rows["artifact"].unique() if artifact]
        facts = [
            *_accuracy_facts(run.estimates[device, target, method, snapshot, family]),
            ("time", f"{format_seconds(seconds.mean())} s mean, {format_seconds(seconds.median())} s median{over}"),
            ("threads", ", ".join(str(count) for count in sorted(rows["threads"].unique()))),
            ("groups", str(len(rows))),
            ("class splits", ", ".join(str(split) for split in sorted(rows["split"].unique()))),
            *_class_facts(run, family, rows),
            ("seeds", ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))),
            ("device", device),
            ("target", run.target_label(target)),
            ("file", ", ".join(_file(cell, bool(part["finished"].all())) for cell, part in rows.groupby("cell"))),
        ]
        facts += [("weights", ", ".join(artifacts))] if artifacts else []
        title = f"{run.row_name(method, snapshot)}, {run.family_label(family)}"
        numbers[key] = {"run": number, "title": title, "facts": facts}
    return keys


def _accuracy_facts(found: Estimate) -> list[tuple[str, str]]:
    """The mean with the interval that is printed, and the half widths of the others."""

    def claim(unit: Unit) -> str:
        return about(unit, found.splits, found.classes, found.seeds)

    accuracy = f"{format_accuracy(found.mean, found.half_width(), '±')} %"
    if not found.unit:
        return [("accuracy", accuracy), ("interval", NONE)]
    facts = [("accuracy", f"{accuracy} (95% interval for {claim(found.unit)})")]
    others = [
        f"± {found.half_width(unit=unit):.2f} for {claim(unit)}" for unit in found.intervals if unit != found.unit
    ]
    return [*facts, ("other 95% intervals", "; ".join(others))] if others else facts


def _class_facts(run: ReportedRun, family: str, rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The unseen classes that the groups of each class split have, by name where the run's record has names."""
    facts, names = [], run.record.plan.class_names.get(family, ())
    for split, part in rows.groupby("split"):
        classes = sorted({each for one in class_tuples(part) for each in one})
        shown = [names[each] if each < len(names) else str(each) for each in classes]
        facts += [(f"unseen classes of split {split}", ", ".join(shown))] if shown else []
    return facts


def _file(cell: Any, finished: bool) -> str:
    return f"cells/{cell}.parquet" if finished else f"cells/{cell}.*.parquet (not finished)"


def invocation_table(run: ReportedRun) -> PageTable:
    heads = tuple(Head(label, numeric=False) for label in ("Started", "Commit", "Command"))
    calls = [(call.started, call.commit, call.command) for call in run.record.invocations]
    rows = tuple(tuple(words(value or "none") for value in call) for call in calls)
    return PageTable("Commands that made this run", "", heads, rows)


def cell_table(run: ReportedRun) -> PageTable:
    """The cells of the plan, with the file of each."""
    labels = run.record.plan.variant_labels
    measured = {str(key): rows for key, rows in run.frame.groupby("cell")}
    rows = []
    for cell in run.record.plan.cells:
        own = measured.get(cell.key)
        done = 0 if own is None else own["group"].nunique()
        file = "none yet" if own is None else _file(cell.key, bool(own["finished"].all()))
        names = labels.get(cell.method, cell.method), run.family_label(cell.family), run.target_label(cell.target)
        counts = (*(Entry(str(n), n) for n in (cell.split, cell.seed)), Entry(f"{done} of {cell.groups}", done))
        rows.append((*map(words, names), *counts, words(file), words(cell.artifact or "none")))
    texts = [Head(label, numeric=False) for label in ("Method", "Family", "Target")]
    numbers = map(Head, ("Class split", "Seed", "Groups"))
    heads = (*texts, *numbers, Head("File", numeric=False), Head("Weights", numeric=False))
    return PageTable("Cells", "", heads, tuple(rows))
