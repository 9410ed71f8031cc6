"""What an interval is about, in words."""

import pytest

from pudnet_bench.results.analysis.intervals import Unit
from pudnet_bench.results.rendering.interval_text import NONE, about, note, sentence


@pytest.mark.parametrize(
    ("unit", "splits", "classes", "seeds", "text"),
    [
        ("splits", 10, 10, 10, "new classes and trainings: t over 10 class splits"),
        ("classes", 1, 4, 1, "new classes: class-effects model, 4 classes"),
        ("classes", 1, 0, 1, "new classes: class-effects model"),
        ("classes", 2, 0, 2, "new classes and trainings: class-effects model, 2 class splits"),
        ("classes", 1, 4, 3, "new classes and trainings: class-effects model, 4 classes"),
        ("classes", 5, 10, 5, "new classes and trainings: class-effects model, 10 classes of 5 class splits"),
        ("groups", 1, 0, 1, "these classes and this training only: t over groups"),
        ("groups", 1, 0, 2, "these classes and these trainings only: t over groups"),
        ("", 3, 6, 3, ""),
    ],
)
def test_each_unit_is_named_with_what_it_claims(unit: Unit, splits: int, classes: int, seeds: int, text: str) -> None:
    assert about(unit, splits, classes, seeds) == text


def test_several_intervals_are_named_once_each() -> None:
    assert sentence("Bars are 95% intervals", [("groups", 1, 0, 1)] * 3) == (
        "Bars are 95% intervals for these classes and this training only: t over groups."
    )
    assert sentence("Bars", [("classes", 1, 4, 1), ("classes", 1, 20, 1)]) == (
        "Bars for new classes: class-effects model."
    )
    mixed = sentence("Bars", [("splits", 6, 9, 6), ("", 2, 0, 2), ("groups", 1, 4, 1)])
    assert mixed == (
        "Bars for new classes and trainings: t over 6 class splits; or for these classes and this training only: "
        "t over groups; others are of too few for one."
    )
    assert sentence("Bars", [("", 3, 0, 3)]) == NONE


def test_a_picture_says_what_its_means_are_over() -> None:
    assert note("Bands", [("", 3, 0, 3)]) == f"Means over 3 class splits. {NONE}"
    assert note("Bands", [("groups", 1, 0, 1)]).startswith(
        "Means over groups. Bands are 95% intervals for these classes"
    )
