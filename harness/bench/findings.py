"""Subjects measured one after the other, and what came of them as a sentence, a table, JSON or Markdown."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pudnet_bench.harness.bench.limits import Rate
from pudnet_bench.harness.bench.ratio import Ratio
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.console.terminal import printable
from pudnet_bench.harness.measuring.clock import Clock, PeakMemory
from pudnet_bench.results.rendering.escaping import escape_markdown

HEADS = ("subject", "measured", "against", "ratio", "goal", "", "seconds", "against", "rounds")


@dataclass(frozen=True)
class Measured:
    """What came of one subject: its ratios, and what a reader must know of them.

    ``seconds`` the whole took and ``peak_memory_bytes`` meanwhile, the plain scripts included. ``failure`` says why there are
    no ratios, "" where there are.
    """

    subject: str
    ratios: list[Ratio]
    notes: list[str]
    seconds: float
    peak_memory_bytes: int
    failure: str = ""


@dataclass(frozen=True)
class Findings:
    """All of a run: ``circumstances`` as ``measuring.provenance`` gives them, the machine's limits, subject after subject."""

    circumstances: dict[str, Any]
    limits: list[Rate]
    subjects: list[Measured] = field(default_factory=list)


def measured(subject: str, setting: Setting, debug: bool = False) -> Measured:
    """Measure one of ``harness.bench.SUBJECTS``. A failure is part of the answer; ``debug`` adds its traceback."""
    own = replace(setting, notes=[])
    memory, clock = PeakMemory(setting.compute.device), Clock(setting.compute.device)
    memory.reset()
    clock.start()
    ratios, failure = [], ""
    try:
        ratios = importlib.import_module(f"pudnet_bench.harness.bench.{subject.replace('-', '_')}").measure(own)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        if debug:
            traceback.print_exc()
    return Measured(subject, ratios, own.notes, clock.stop().wall_seconds, memory.read(), failure)


def in_words(ratio: Ratio) -> str:
    """Whether the goal is met, in a word; "" without a goal."""
    return {None: "", True: "met", False: "missed"}[ratio.met]


def goal(ratio: Ratio) -> str:
    """The goal, "" without one."""
    return "" if ratio.goal is None else f"{'at least' if ratio.more_is_better else 'at most'} {ratio.goal:g}"


def time(seconds: float) -> str:
    """Three figures, in milliseconds below a second."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def sentence(ratio: Ratio) -> str:
    """A ratio for a reader without a table."""
    unit = "speed" if ratio.more_is_better else "time"
    wanted = f"; goal {goal(ratio)}: {in_words(ratio)}" if ratio.goal is not None else ""
    return (
        f"{ratio.name}: {ratio.value:.3g} times the {unit} of {ratio.against} ({time(ratio.seconds)} against "
        f"{time(ratio.against_seconds)}, {ratio.rounds} rounds){wanted}"
    )


def show(findings: Findings, console: Console) -> None:
    """On a terminal a table; where the output goes elsewhere, plain lines."""
    before, after = list(_before(findings)), list(_after(findings))
    if console.is_terminal:
        console.print("\n".join(before), highlight=False, markup=False)
        console.print(as_table(findings))
        console.print("\n".join(after), highlight=False, markup=False)
        return
    said = [f"{subject.subject}: {sentence(ratio)}" for subject in findings.subjects for ratio in subject.ratios]
    print(printable("\n".join([*before, *said, *after])))


def _before(findings: Findings) -> Iterator[str]:
    where = findings.circumstances
    yield (
        f"{where['device']}, {where['precision']}, {where['threads']} threads, load {_load(where)}, "
        f"torch {where['versions'].get('torch', '')}, commit {where['git_commit'][:12] or 'none'}"
    )
    if where["load"] and where["load"][0] > where["threads"] / 2:
        yield "other work was running as this began: times are those of a busy machine"
    yield from (f"{rate.name}: {rate.value:.4g} {rate.unit}" for rate in findings.limits)


def _after(findings: Findings) -> Iterator[str]:
    for subject in findings.subjects:
        yield from (f"{subject.subject}: {text}" for text in remarks(subject))


def remarks(subject: Measured) -> list[str]:
    """What is to be said of a subject beside its ratios."""
    return [*subject.notes, *([f"failed: {subject.failure}"] if subject.failure else [])]


def rows(findings: Findings) -> Iterator[tuple[str, ...]]:
    """The cells under ``HEADS``, a row for each ratio."""
    for subject in findings.subjects:
        for r in subject.ratios:
            yield (
                subject.subject, r.name, r.against, f"{r.value:.3g} x {'speed' if r.more_is_better else 'time'}",
                goal(r), in_words(r), time(r.seconds), time(r.against_seconds), str(r.rounds),
            )  # fmt: skip


def as_table(findings: Findings) -> Table:
    """The ratios as rich draws them on a terminal."""
    table = Table("measured", "against", "ratio", "goal", "seconds", box=None, header_style="bold")
    colours = {"met": "green", "missed": "red", "": "default"}
    for subject, name, against, value, wanted, word, seconds, other, _ in rows(findings):
        met = f"{wanted}, [{colours[word]}]{word}[/]" if word else ""
        table.add_row(escape(f"{subject}: {name}"), escape(against), value, met, f"{seconds} / {other}")
    return table


def as_json(findings: Findings) -> dict[str, Any]:
    """As JSON values; times in seconds, memory in bytes."""
    return {
        **findings.circumstances,
        "limits": [asdict(rate) for rate in findings.limits],
        "subjects": [
            {
                **asdict(subject),
                "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in subject.ratios],
            }
            for subject in findings.subjects
        ],
    }


def as_markdown(findings: Findings) -> str:
    """A page: what was asked, where, the limits, the ratios."""
    where = findings.circumstances
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    page = [
        "# Speed, measured side by side",
        "",
        f"`{where['command']}`",
        "",
        *(
            f"- {name}: {value}"
            for name, value in (
                ("device", f"{where['device']}, {where['precision']}, {where['threads']} threads"),
                ("driver", where["driver"]),
                ("commit", where["git_commit"]),
                ("versions", versions),
                ("load at the start, over 1, 5 and 15 minutes", _load(where)),
                ("started", where["started"]),
            )
            if value
        ),
        "",
        *_markdown(("limit", "rate"), ((rate.name, f"{rate.value:.4g} {rate.unit}") for rate in findings.limits)),
        "",
        "Ratios are medians over rounds in which both take turns: times, where less is better, or speeds.",
        "",
        *_markdown(HEADS, rows(findings)),
        "",
        *_markdown(
            ("subject", "took", "peak memory", "remarks"),
            (
                (s.subject, time(s.seconds), f"{s.peak_memory_bytes / 1e6:.0f} MB", "; ".join(remarks(s)))
                for s in findings.subjects
            ),
        ),
    ]
    return "\n".join(page) + "\n"


def _load(where: dict[str, Any]) -> str:
    return ", ".join(f"{load:.2f}" for load in where["load"])


def _markdown(heads: Sequence[str], body: Iterator[tuple[str, ...]]) -> list[str]:
    def line(cells: Sequence[str], escaped: Callable[[str], str] = escape_markdown) -> str:
        return f"| {' | '.join(map(escaped, cells))} |"

    return [line(heads), line(["---"] * len(heads), str), *map(line, body)]
