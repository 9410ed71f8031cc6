"""What a session of benchmarks measured, as a table on a terminal, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pudnet_bench.results.rendering.escaping import escape_markdown
from pudnet_bench.results.store.files import write_atomically
from pudnet_bench.results.store.run_record import Invocation
from tests.benchmarks.limits import Rate
from tests.benchmarks.ratio import Ratio

HEADS = ("subject", "measured", "against", "ratio", "goal", "", "seconds", "against", "rounds")
# Of all installed distributions, those that a time may depend on.
VERSIONS = (
    "python",
    "pudnet-bench",
    "torch",
    "torchvision",
    "timm",
    "learn2learn",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
)


@dataclass
class Subject:
    """What one file of benchmarks measured; it grows test by test.

    Attributes:
        subject: Its name.
        ratios: What was measured.
        notes: Why something was not.
        seconds: What all of it took, the other sides included.
        peak_memory_bytes: The highest memory meanwhile.
        failures: Tests that failed, and why; a missed limit is one.
    """

    subject: str
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def remarks(self) -> list[str]:
        """What a reader must know beside the ratios."""
        return [*self.notes, *(f"failed: {failure}" for failure in self.failures)]


@dataclass
class Findings:
    """All of a session: its circumstances, the machine's limits, and subject after subject."""

    circumstances: Invocation
    limits: list[Rate]
    subjects: list[Subject] = field(default_factory=list)

    def subject(self, name: str) -> Subject:
        """The subject of that name, added where it is new."""
        for known in self.subjects:
            if known.subject == name:
                return known
        self.subjects.append(Subject(name))
        return self.subjects[-1]


def verdict(ratio: Ratio) -> str:
    """Whether the goal is met, in a word; "" without a goal."""
    return {None: "", True: "met", False: "missed"}[ratio.met]


def goal(ratio: Ratio) -> str:
    """The goal, "" without one."""
    return "" if ratio.goal is None else f"{'at least' if ratio.more_is_better else 'at most'} {ratio.goal:g}"


def time(seconds: float) -> str:
    """Three figures, in milliseconds below a second."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def show(findings: Findings, console: Console) -> None:
    """Print circumstances, limits, one table of all ratios, and remarks."""
    console.print("\n".join(_before(findings)), highlight=False, markup=False)
    console.print(as_table(findings))
    remarks = [f"{subject.subject}: {text}" for subject in findings.subjects for text in subject.remarks]
    console.print("\n".join(remarks), highlight=False, markup=False)


def _before(findings: Findings) -> Iterator[str]:
    where = findings.circumstances
    yield (
        f"{where.device}, {where.precision}, {where.threads} threads, load {_load(where)}, "
        f"torch {where.versions.get('torch', '')}, commit {where.commit[:12] or 'none'}"
    )
    if where.load_start and where.load_start[0] > where.threads / 2:
        yield "other work was running at the start: times are those of a busy machine"
    yield from (f"{rate.name}: {rate.value:.4g} {rate.unit}" for rate in findings.limits)


def rows(findings: Findings) -> Iterator[tuple[str, ...]]:
    """The cells under `HEADS`, a row for each ratio."""
    for subject in findings.subjects:
        for r in subject.ratios:
            yield (
                subject.subject, r.name, r.against, f"{r.value:.3g} x {'speed' if r.more_is_better else 'time'}",
                goal(r), verdict(r), time(r.seconds), time(r.against_seconds), str(r.rounds),
            )  # fmt: skip


def as_table(findings: Findings) -> Table:
    """The ratios as rich draws them."""
    table = Table("measured", "against", "ratio", "goal", "seconds", box=None, header_style="bold")
    colours = {"met": "green", "missed": "red", "": "default"}
    for subject, name, against, value, wanted, word, seconds, other, _ in rows(findings):
        met = f"{wanted}, [{colours[word]}]{word}[/]" if word else ""
        table.add_row(escape(f"{subject}: {name}"), escape(against), value, met, f"{seconds} / {other}")
    return table


def as_json(findings: Findings) -> dict[str, Any]:
    """As JSON values; times in seconds, memory in bytes."""
    return {
        **asdict(findings.circumstances),
        "limits": [asdict(rate) for rate in findings.limits],
        "subjects": [
            {**asdict(subject), "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in subject.ratios]}
            for subject in findings.subjects
        ],
    }


def as_markdown(findings: Findings) -> str:
    """A page: the command, where it ran, the machine's limits, the ratios, and what each subject took."""
    where = findings.circumstances
    facts = {
        "device": f"{where.device}, {where.precision}, {where.threads} threads",
        "driver": where.driver,
        "commit": where.commit,
        "versions": ", ".join(f"{name} {where.versions[name]}" for name in VERSIONS if name in where.versions),
        "load at the start, over 1, 5 and 15 minutes": _load(where),
        "started": where.started,
    }
    rates = ((rate.name, f"{rate.value:.4g} {rate.unit}") for rate in findings.limits)
    subjects = (
        (s.subject, time(s.seconds), f"{s.peak_memory_bytes / 1e6:.0f} MB", "; ".join(s.remarks))
        for s in findings.subjects
    )
    page = [
        "# Speed, measured side by side",
        "",
        f"`{where.command}`",
        "",
        *(f"- {name}: {value}" for name, value in facts.items() if value),
        "",
        *_markdown(("limit", "rate"), rates),
        "",
        "Ratios are medians over rounds in which both sides take turns: times, where less is better, or speeds.",
        "",
        *_markdown(HEADS, rows(findings)),
        "",
        *_markdown(("subject", "took", "peak memory", "remarks"), subjects),
    ]
    return "\n".join(page) + "\n"


def write(findings: Findings, folder: Path) -> None:
    """Write bench.json and bench.md, in the place of those that an earlier subject left."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "bench.json", (json.dumps(as_json(findings), indent=2) + "\n").encode())
    write_atomically(folder / "bench.md", as_markdown(findings).encode())


def _load(where: dict[str, Any]) -> str:
    return ", ".join(f"{load:.2f}" for load in where.load_start)


def _markdown(heads: Sequence[str], body: Iterator[tuple[str, ...]]) -> list[str]:
    def line(cells: Sequence[str], escaped: Callable[[str], str] = escape_markdown) -> str:
        return f"| {' | '.join(map(escaped, cells))} |"

    return [line(heads), line(["---"] * len(heads), str), *map(line, body)]
