"""What the means and intervals of a table are about: a sentence for the caption, and marks for the cells that differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pudnet_bench.results.analysis.intervals import Unit
from pudnet_bench.results.rendering.interval_text import subject


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a mean and its printed interval rest on.

    `unit` is that of the interval, "" for none; `trainings` counts (split, seed), `classes` the classes of the groups.
    """

    unit: Unit = ""
    n: int = 0
    splits: int = 0
    seeds: int = 0
    trainings: int = 0
    classes: int = 0
    finished: bool = True


def fullest(bases: Collection[Basis]) -> Basis:
    """The basis that a table's caption describes."""
    return max(bases, key=lambda basis: (basis.n, basis.splits, basis.unit != ""), default=Basis())


def claim(full: Basis, classes: Collection[int] = ()) -> str:
    """The sentence about means on this basis, with a literal ± and %; `classes` are the numbers of unseen classes."""
    training = "training" if full.trainings == 1 else f"{full.trainings} trainings"
    if full.unit == "groups":
        return f"Mean ± 95% CI for {subject('groups', full.trainings)}: t over {_extent(full)}."
    if full.unit == "classes" and full.splits == 1:
        unseen = counted(classes or (full.classes,), "unseen class")
        method = f"class-effects model, {_extent(full)} of {unseen}"
        return f"Mean ± 95% CI for {subject('classes', 1)}, from one class split and {training}: {method}."
    if full.unit:
        own = "each with its own training" if full.trainings == full.splits else f"{training} in all"
        method = "t" if full.unit == "splits" else "class-effects model"
        return f"Mean ± 95% CI for {subject(full.unit, full.trainings)}: {method} over {_extent(full)}, {own}."
    unseen = f" of {counted(classes or (full.classes,), 'unseen class')}" if full.classes else ""
    few = "classes or groups" if unseen else "groups"
    return f"Mean over {_extent(full)}{unseen}: too few {few} for an interval."


def is_other(basis: Basis, full: Basis) -> bool:
    """Whether a measured cell is not what the caption says, and is marked; a missing interval is seen without a mark."""

    def compared(one: Basis) -> tuple[object, ...]:
        return one.unit if basis.unit and full.unit else "", one.n, one.splits, one.trainings

    return basis.n > 0 and (compared(basis) != compared(full) or not basis.finished)


_OTHER_UNIT = {
    "splits": "t over the class splits",
    "classes": "for new classes",
    "groups": "for these classes and trainings only",
}


def footnote(basis: Basis, full: Basis) -> str:
    """In words, how the basis differs from the caption's; "" where it does not."""
    if not is_other(basis, full):
        return ""
    parts = [f"over {_extent(basis)}"]
    parts += [_OTHER_UNIT[basis.unit]] if basis.unit and basis.unit != full.unit else []
    parts += [] if basis.finished else ["not finished"]
    return ", ".join(parts)


def mark(basis: Basis, full: Basis) -> str:
    """The same, short: "n=40, 2 splits"; what has no interval shows none."""
    if not is_other(basis, full):
        return ""
    parts = [f"n={basis.n}"]
    parts += [counted((basis.splits,), "split")] if basis.splits != full.splits else []
    parts += [_OTHER_UNIT[basis.unit]] if basis.unit and basis.unit != full.unit else []
    return ", ".join(parts)


def _extent(basis: Basis) -> str:
    if basis.splits < 2:
        return counted((basis.n,), "group")
    each, rest = divmod(basis.n, basis.splits)
    splits = f"{basis.splits} class splits"
    return f"{splits}, {basis.n} groups in all" if rest else f"{splits} of {counted((each,), 'group')}"


def counted(numbers: Collection[float], noun: str) -> str:
    """ "1 group", "1,000 groups", "50 to 400 groups": from the smallest to the largest number."""
    low, high = min(numbers), max(numbers)
    plural = noun if low == high == 1 else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{low:,.0f} {plural}" if low == high else f"{low:,.0f} to {high:,.0f} {plural}"
