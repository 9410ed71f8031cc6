"""Printing for people: styled on a terminal that supports it, plain whole lines through a pipe. Imports rich late."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

REPLACE = "pudnet-bench.replace"  # the name of an error handler
PLAIN = {
    "—": "-", "–": "-", "−": "-", "±": "+-", "×": "x", "…": "...", "·": "*", "≤": "<=", "≥": ">=", "→": "->", "µ": "u",
    "†": "+", "‡": "++", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*", "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
PIPE_WIDTH = 10_000  # columns: a program that reads a line wants all of it


def plain_where_needed(*streams: TextIO) -> None:
    """Let `streams` replace what their encoding lacks, such as that of a terminal for ASCII or Latin-1."""
    codecs.register_error(REPLACE, _replaced)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACE)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


def printable(text: str) -> str:
    """`text` with control characters and changes of writing direction escaped; newlines stay.

    Names come from files and command lines, and may hold what a terminal would obey.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def console(*, stderr: bool = False) -> Console:
    """A console without any style where NO_COLOR is set (https://no-color.org) or output is not a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def dimmed(text: str) -> Text:
    """`text` for a table, printed dim."""
    from rich.text import Text

    return Text(text, "dim")


def print_table(rows: Iterable[Sequence[str | Text]], *, title: str = "", header: Sequence[str] = ()) -> None:
    """Print a table without lines, below a bold title or with a bold header."""
    from rich.table import Table
    from rich.text import Text

    listed, made = list(rows), console()
    if header and (lines := _aligned([header, *listed], made.width)):
        made.print(Text(lines[0], "bold"))
        for line in lines[1:]:
            print(line)
        return
    table = Table(*header, box=None, header_style="bold") if header else Table.grid(padding=(0, 2))
    for row in listed:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    parts = (Text(title, "bold"), table) if title else (table,)
    if made.is_terminal:
        made.print(*parts, sep="\n")
        return
    with made.capture() as captured:
        made.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _aligned(rows: Sequence[Sequence[str | Text]], width: int) -> list[str]:
    """The lines that rich makes of plain cells, in a tenth of its time; none where it has to wrap, style or escape."""
    from rich.cells import cell_len

    cells = [[cell for cell in row if isinstance(cell, str) and cell.isprintable()] for row in rows]
    if any(len(kept) < len(row) for kept, row in zip(cells, rows, strict=True)):
        return []
    lengths = [[len(cell) if cell.isascii() else cell_len(cell) for cell in row] for row in cells]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    if sum(widths) + 2 * len(widths) > width:
        return []
    padded = (
        "".join(f" {cell}{' ' * (most - length + 1)}" for cell, length, most in zip(*line, widths, strict=True))
        for line in zip(cells, lengths, strict=True)
    )
    return [line.rstrip() for line in padded]
