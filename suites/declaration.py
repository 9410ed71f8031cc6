"""What a suite is: rows (method variants), columns (families), targets. A declaration, never a loop."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any


class SuiteError(Exception):
    """A suite or profile that is not known; the message names it and the way out."""


@dataclass(frozen=True)
class Variant:
    """A method with its options, under the name its rows have.

    ``snapshots`` lists (snapshot name, row label) in the order of the table; the default is a single row.
    ``options`` are keyword arguments of the method's class. ``training_groups`` > 0 asks for what it has learned after
    so many groups, and not for the length that validation chooses; ``curve`` is the label of the learning curve that it
    is a point of.
    """

    name: str
    method: str
    label: str
    snapshots: tuple[tuple[str, str], ...] = (("", ""),)
    options: tuple[tuple[str, Any], ...] = ()
    training_groups: int = 0
    curve: str = ""


@dataclass(frozen=True)
class Suite:
    """One table: its variants by family, for each target. ``embedded`` are its families of embedded data."""

    name: str
    title: str
    targets: tuple[str, ...]
    families: tuple[str, ...]
    variants: tuple[Variant, ...]
    embedded: tuple[str, ...] = ("digits",)


@dataclass(frozen=True)
class Profile:
    """The scale of a run. It changes counts and families, never the code path.

    ``embedded`` says that it runs on the suite's families of embedded data.
    ``groups`` unseen groups are tested, ``iterative_groups`` for methods that train on each. Meta-training ends at
    ``max_meta_groups`` (None: the paper's count for the family), or after ``patience`` checks without a better accuracy
    on ``validation_groups`` groups of held-out classes, one check every ``check_every`` groups.
    """

    name: str
    description: str
    embedded: bool
    groups: int
    iterative_groups: int
    max_meta_groups: int | None
    check_every: int
    patience: int
    validation_groups: int
    seeds: tuple[int, ...] = (0,)


def pick(kind: str, name: str, known: dict[str, Any]) -> Any:
    """``known[name]``. Raises SuiteError with the nearest name when there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise SuiteError(f"unknown {kind} '{name}'; {hint}")
    return known[name]
