"""What is printed for people: styled on a terminal that wants it, and whole lines through a pipe."""

from __future__ import annotations

import os

from rich.console import Console, RenderableType

PIPE_WIDTH = 10_000  # columns: a program that reads a line wants all of it


def console(*, stderr: bool = False) -> Console:
    """A console without any style where NO_COLOR is set (https://no-color.org) or nobody looks."""
    made = Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def print_styled(*parts: RenderableType) -> None:
    """Print ``parts`` below one another."""
    made = console()
    if made.is_terminal:
        made.print(*parts, sep="\n")
        return
    with made.capture() as captured:
        made.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
