"""Say in words what an interval is about."""

from __future__ import annotations

from pudnet_bench.results.analysis.intervals import Unit


def about(unit: Unit, splits: int, classes: int, seeds: int = 1) -> str:
    """What an interval of this unit claims and how it was computed, to follow "95% interval for"; "" for no interval.

    Args:
        unit: `Estimate.unit`; so are the others its attributes.
        splits: Class splits.
        classes: Distinct unseen classes, over all splits.
        seeds: Trainings of each split.
    """
    trained = splits > 1 or seeds > 1  # more than once
    match unit:
        case "splits":
            return f"new classes and trainings: t over {splits} class splits"
        case "classes":
            over = f"{classes} classes" + (f" of {splits} class splits" if splits > 1 else "")
            return f"new classes{' and trainings' if trained else ''}: class-effects model, {over}"
        case "groups":
            return f"these classes and {'these trainings' if trained else 'this training'} only: t over groups"
        case _:
            return ""
