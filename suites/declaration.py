"""What a suite is: rows (method variants), columns (families), targets. A declaration, never a loop."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pudnet_bench.errors import BenchError

T = TypeVar("T")


class SuiteError(BenchError):
    """A suite or profile that is not known; the message names it and the way out."""


@dataclass(frozen=True)
class Variant:
    """A method with its options, under the name its rows have.

    ``snapshots`` lists (snapshot name, row label) in the order of the table; the default is a single row.
    ``options`` are keyword arguments of the method's class. ``training_groups`` > 0 asks for what it has learned after
    so many groups, and not for the length that validation chooses; ``row`` is then the variant that it was made of. In
    a figure, the variant is the point at ``x`` of the line ``curve``.
    """

    name: str
    method: str
    label: str
    snapshots: tuple[tuple[str, str], ...] = (("", ""),)
    options: tuple[tuple[str, Any], ...] = ()
    training_groups: int = 0
    curve: str = ""
    x: float = 0.0
    row: str = ""


FIGURES = ("", "groups", "eta", "losses", "correlation")


@dataclass(frozen=True)
class Suite:
    """One table or figure of the paper: its variants by family, for each target.

    ``embedded`` are its families of embedded data. With ``milestones``, what meta-trains does so without validation, and
    is measured after each of so many groups. ``figure`` says what is drawn beside the table: nothing, accuracy against
    the number of training "groups" or against "eta", the "losses" of meta-training, or the "correlation" of datasets and
    trained parameters. ``groups`` are (profile, unseen groups) where they are not the profile's own. ``reference`` names
    the variant that the others are compared with: break-evens, paired differences; "" for none.

    Raises SuiteError when it is not consistent.
    """

    name: str
    title: str
    targets: tuple[str, ...]
    families: tuple[str, ...]
    variants: tuple[Variant, ...]
    embedded: tuple[str, ...] = ("digits",)
    milestones: tuple[int, ...] = ()
    figure: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    reference: str = ""

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name) is None:
            raise SuiteError(f"a suite's name is of letters, digits, - and _, not '{self.name}'")
        if self.figure not in FIGURES:
            raise SuiteError(f"suite '{self.name}': figure is one of {', '.join(FIGURES[1:])}, not '{self.figure}'")
        names = [variant.name for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SuiteError(f"suite '{self.name}' has two variants named '{twice[0]}'; give each a name of its own")


@dataclass(frozen=True)
class Profile:
    """The scale of a run. It changes counts and families, never the code path.

    ``embedded`` says that it runs on the suite's families of embedded data.
    ``groups`` unseen groups are tested, ``iterative_groups`` for methods that train on each. Meta-training ends at
    ``max_meta_groups`` (None: the paper's count for the family), or after ``patience`` checks without a better accuracy
    on ``validation_groups`` groups of held-out classes, one check every ``check_every`` groups. For the ResNets, a
    hundred times as large as ConvNet-3, these counts are divided by ``resnet_divisor``; two iterative groups remain, as an
    interval needs.
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
    resnet_divisor: int = 1

    def for_target(self, target: str) -> Profile:
        """The counts for ``target``."""
        if not target.startswith("resnet") or self.resnet_divisor == 1:
            return self
        smaller = {
            name: max(1, count // self.resnet_divisor)
            for name in ("groups", "max_meta_groups", "check_every", "validation_groups")
            if (count := getattr(self, name)) is not None
        }
        return replace(self, iterative_groups=max(2, self.iterative_groups // self.resnet_divisor), **smaller)


def scaled(milestones: tuple[int, ...], most: int) -> tuple[int, ...]:
    """``milestones`` of a training of ``most`` groups: those before its end, and the end.

    Where that leaves fewer than three, all of them shrunk in proportion.
    """
    if not milestones:
        return ()
    kept = [groups for groups in milestones if groups < most]
    if len(kept) < 2:
        kept = [max(1, round(groups * most / milestones[-1])) for groups in milestones]
    return tuple(sorted({*kept, most}))


def pick(kind: str, name: str, known: dict[str, T]) -> T:
    """``known[name]``. Raises SuiteError with the nearest name when there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise SuiteError(f"unknown {kind} '{name}'; {hint}")
    return known[name]
