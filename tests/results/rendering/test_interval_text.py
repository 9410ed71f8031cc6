"""What an interval is about, in words."""

import pytest

from pudnet_bench.results.analysis.intervals import Unit
from pudnet_bench.results.rendering.interval_text import about


@pytest.mark.parametrize(
    ("unit", "splits", "classes", "seeds", "text"),
    [
        ("splits", 10, 10, 10, "new classes and trainings: t over 10 class splits"),
        ("classes", 1, 4, 1, "new classes: class-effects model, 4 classes"),
        ("classes", 1, 4, 3, "new classes and trainings: class-effects model, 4 classes"),
        ("classes", 5, 10, 5, "new classes and trainings: class-effects model, 10 classes of 5 class splits"),
        ("groups", 1, 0, 1, "these classes and this training only: t over groups"),
        ("groups", 1, 0, 2, "these classes and these trainings only: t over groups"),
        ("", 3, 6, 3, ""),
    ],
)
def test_each_unit_is_named_with_what_it_claims(unit: Unit, splits: int, classes: int, seeds: int, text: str) -> None:
    assert about(unit, splits, classes, seeds) == text
