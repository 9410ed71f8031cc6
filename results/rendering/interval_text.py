"""Say in words what an interval is about."""

from __future__ import annotations

from collections.abc import Iterable

from pudnet_bench.results.analysis.intervals import Estimate, Unit

Claim = tuple[Unit, int, int, int]
"""The arguments of `about`."""
NONE = "No interval: too few class splits, classes, or groups of one class split."


def subject(unit: Unit, trainings: int) -> str:
    """What an interval of this unit is a claim about, from so many trainings."""
    several = trainings > 1
    return {
        "splits": "new classes and trainings",
        "classes": "new classes and trainings" if several else "new classes",
        "groups": f"these classes and {'these trainings' if several else 'this training'} only",
        "": "",
    }[unit]


def about(unit: Unit, splits: int, classes: int, seeds: int = 1) -> str:
    """What an interval of this unit claims and how it was computed, to follow "95% interval for"; "" for no interval.

    Args:
        unit: `Estimate.unit`; so are the others its attributes.
        splits: Class splits.
        classes: Distinct unseen classes, over all splits; 0 does not state them.
        seeds: Training seeds.
    """
    claimed = subject(unit, max(splits, seeds))
    over = [f"{classes} classes"] * (classes > 0) + [f"{splits} class splits"] * (splits > 1)
    match unit:
        case "splits":
            return f"{claimed}: t over {splits} class splits"
        case "classes":
            model = ", ".join(["class-effects model", *([" of ".join(over)] if over else [])])
            return f"{claimed}: {model}"
        case "groups":
            return f"{claimed}: t over groups"
        case _:
            return ""


def claim(estimate: Estimate) -> Claim:
    return estimate.unit, estimate.splits, estimate.classes, estimate.seeds


def note(drawn_as: str, claims: Iterable[Claim]) -> str:
    """What a picture's means are over, and what their intervals are about, which are drawn as "Bands" or "Bars"."""
    found = list(dict.fromkeys(claims))
    splits = max(each[1] for each in found)
    means = f"Means over {splits} class splits" if splits > 1 else "Means over groups"
    return f"{means}. {sentence(f'{drawn_as} are 95% intervals', found)}"


def sentence(subject: str, claims: Iterable[Claim]) -> str:
    """`subject`, such as "Bars are 95% intervals", with what the intervals of several estimates are about."""
    found = list(dict.fromkeys(claims))
    classes = {(unit, splits): {each[2] for each in found if each[:2] == (unit, splits)} for unit, splits, *_ in found}
    texts = [about(unit, splits, n if len(classes[unit, splits]) == 1 else 0, k) for unit, splits, n, k in found]
    known = list(dict.fromkeys(filter(None, texts)))
    if not known:
        return NONE
    some = "; others are of too few for one" if "" in texts else ""
    return f"{subject} for {'; or for '.join(known)}{some}."
