"""Declarations of suites (method variants, families, targets), variants and profiles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, TypeVar

from pudnet_bench.errors import BenchError

T = TypeVar("T")


class SuiteError(BenchError):
    """A suite, family, target or profile that is unknown or inconsistent."""


@dataclass(frozen=True)
class Variant:
    """A method with its options: one or more rows of a table.

    Attributes:
        name: Name of its rows on disk and in `--methods`; unique in a suite.
        label: Heading of its rows, for people.
        snapshots: (snapshot name, row label) of each row, in the order of the table; by default a single row.
        options: Keyword arguments of the method's class.
        training_groups: Evaluate what was learned after this many training groups; 0: the length that validation chooses.
        curve_label: Line of a figure that the variant is a point of.
        curve_x: Place of that point on the horizontal axis.
        parent: Name of the variant it was expanded from, such as to one of several `training_groups`.
        section: Heading of the rows that the paper does not have, "" for a row of the paper. Sections follow the paper's rows.
        control_of: Name of the variant whose claim this one, a control, tests; "" for any other.
        effect: What the difference between that variant and this one is the effect of, for the sentence below the table.
    """

    name: str
    method: str
    label: str
    snapshots: tuple[tuple[str, str], ...] = (("", ""),)
    options: tuple[tuple[str, Any], ...] = ()
    _: KW_ONLY
    training_groups: int = 0
    curve_label: str = ""
    curve_x: float = 0.0
    parent: str = ""
    section: str = ""
    control_of: str = ""
    effect: str = ""


FIGURES = ("", "groups", "eta", "losses", "correlation", "effects")


@dataclass(frozen=True)
class Suite:
    """A table or figure: variants as rows and families as columns, for each target.

    Attributes:
        name: Name on the command line and in `runs/`: letters, digits, - and _.
        families: Families of real images, measured in the profiles `standard` and `paper`.
        embedded: Families of embedded data, measured in the profile `quick`.
        milestones: Numbers of training groups. If given, methods meta-train without validation and are measured at each.
        figure: Figure beside the table, one of `FIGURES`: accuracy against the number of training "groups" or against
            "eta", the "losses" of meta-training, the "correlation" of datasets and trained parameters, the "effects" of what
            controls are denied, or "" for none.
        groups: (profile, unseen groups) where the number is not the profile's own.
        reference: Variant that the others are compared with in break-evens and paired differences; "" for none.

    Raises SuiteError if the name or figure is not allowed, or two variants share a name.
    """

    name: str
    title: str
    targets: tuple[str, ...]
    families: tuple[str, ...]
    variants: tuple[Variant, ...]
    _: KW_ONLY
    embedded: tuple[str, ...] = ("digits",)
    milestones: tuple[int, ...] = ()
    figure: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    reference: str = ""

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name) is None:
            raise SuiteError(f"a suite's name consists of letters, digits, - and _, unlike '{self.name}'")
        if self.figure not in FIGURES:
            raise SuiteError(f"suite '{self.name}': figure is one of {', '.join(FIGURES[1:])}, not '{self.figure}'")
        names = [variant.name for variant in self.variants]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise SuiteError(f"suite '{self.name}' has two variants named '{duplicates[0]}'; rename one of them")


@dataclass(frozen=True)
class Profile:
    """The scale of a run: its counts and families, never the code path.

    Attributes:
        embedded: Whether it measures the suite's families of embedded data.
        groups, iterative_groups: Unseen groups to measure, and the number for methods that train on each.
        max_meta_groups: Limit of a meta-training, in groups; None: the paper's number for the family.
        check_every: Groups between two validation checks.
        patience: Checks without a better validation accuracy after which meta-training stops.
        validation_groups: Groups of held-out classes in a check.
        splits: Class splits, each with a training of its own.
        resnet_divisor: Divisor of these counts for the ResNets, which are a hundred times as large as ConvNet-3; at least
            two iterative groups remain, as an interval needs.
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
    splits: int
    resnet_divisor: int = 1

    def for_target(self, target: str) -> Profile:
        """Return the profile with its counts for `target`."""
        if not target.startswith("resnet") or self.resnet_divisor == 1:
            return self
        counts = {
            name: max(1, count // self.resnet_divisor)
            for name in ("groups", "max_meta_groups", "check_every", "validation_groups")
            if (count := getattr(self, name)) is not None
        }
        return replace(self, iterative_groups=max(2, self.iterative_groups // self.resnet_divisor), **counts)


def scaled(milestones: tuple[int, ...], max_groups: int) -> tuple[int, ...]:
    """Return the milestones of a training of `max_groups` groups: those before its end, and the end.

    If that leaves fewer than three, all of them shrink in proportion to the length.
    """
    if not milestones:
        return ()
    reached = [groups for groups in milestones if groups < max_groups]
    if len(reached) < 2:
        reached = [max(1, round(groups * max_groups / milestones[-1])) for groups in milestones]
    return tuple(sorted({*reached, max_groups}))


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return `known[name]`. Raises SuiteError, which suggests the nearest name of that `kind`, if there is none."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise SuiteError(f"unknown {kind} '{name}'; {hint}")
    return known[name]
