"""Escape user-defined names for LaTeX and Markdown, so that they are plain text there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Format = Literal["latex", "markdown", "csv"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # < > and | come out as other signs in LaTeX's default font encoding
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row [ and * would be read as arguments of the \\ before it
    "*": "{*}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """`text` with everything that LaTeX would interpret escaped; line breaks become spaces."""
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text))
    return re.sub("([-`'])(?=\\1)", r"\1{}", escaped)  # two of these would be set as one other sign: --out as a dash


def escape_markdown(text: str) -> str:
    """`text` fit for a cell of a Markdown table; line breaks become spaces."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&#])", r"\\\1", one_line(text))


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of rows of cells, the heading and the alignments first."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def one_line(text: str) -> str:
    """`text` without line breaks, and with a question mark for each control character."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
