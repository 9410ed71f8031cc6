"""Progress display: bars on a terminal, otherwise a plain line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pudnet_bench.harness.console.terminal import console, printable

PLAIN_INTERVAL = 30.0  # seconds


class Task:
    """The progress of one piece of work, with a note about its latest result."""

    def __init__(self, progress: Progress | None, description: str, total: int, unit: str) -> None:
        self.progress, self.description, self.total, self.unit = progress, description, total, unit
        self.began = self.printed = time.monotonic()
        self.first: int | None = None
        self.id = progress.add_task(description, total=total, note="", rate="") if progress else None

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` units are finished, of a new `total` if given. The rate counts from the first call on."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        if self.first is None:
            self.first, self.began = done, now
        rate = (done - self.first) / (now - self.began) if now > self.began and done > self.first else 0.0
        shown = f"{rate:.3g} {self.unit}/s" if rate else ""
        if self.progress is not None and self.id is not None:
            self.progress.update(self.id, completed=done, total=self.total, note=note, rate=shown)
        elif now - self.printed >= PLAIN_INTERVAL:
            self.printed = now
            left = f", {duration((self.total - done) / rate)} left" if rate else ""
            line = f"{self.description}: {done}/{self.total} {self.unit}, {shown}{left}, {note}"
            print(line.rstrip(", "), file=sys.stderr, flush=True)


class Display:
    """The progress of a run; use as `with Display() as display`. `tracebacks`: whether to show those of failures."""

    def __init__(self, tracebacks: bool = False) -> None:
        self.tracebacks = tracebacks
        self.console = console(stderr=True)
        self.progress: Progress | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            note = TextColumn("{task.fields[note]}", style="dim")
            columns = ("{task.description}", BarColumn(20), MofNCompleteColumn(), "{task.fields[rate]}")
            self.progress = Progress(*columns, TimeRemainingColumn(), note, console=self.console)
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Task]:
        """A task whose bar disappears when it ends."""
        task = Task(self.progress, description, total, unit)
        try:
            yield task
        finally:
            if self.progress is not None and task.id is not None:
                self.progress.remove_task(task.id)

    def log(self, line: str) -> None:
        """Print one permanent line."""
        line = printable(line)
        if self.progress is not None:
            self.progress.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people: "40 s", "12 min", "3.5 h", "6 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 48 * 3600:
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def span(least: float, most: float) -> str:
    """A range of durations: "12 to 40 min", or one duration where both read the same."""
    first, last = duration(least), duration(most)
    if first == last:
        return first
    number, unit = first.rsplit(" ", 1)
    return f"{number if unit == last.rsplit(' ', 1)[1] else first} to {last}"
