"""Text for a terminal: names come from files and command lines, and may hold what a terminal would obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with control characters, and those that turn the direction of writing, as their escapes; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
