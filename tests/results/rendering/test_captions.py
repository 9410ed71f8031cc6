"""What a caption says of its intervals, by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.results.rendering.captions import Basis, claim, counted, footnote, fullest, is_other, mark

SPLITS = Basis(unit="splits", n=1000, splits=10, seeds=10, trainings=10, classes=10)
FIVE = Basis(unit="classes", n=500, splits=5, seeds=5, trainings=5, classes=10)
ONE = Basis(unit="classes", n=50, splits=1, seeds=1, trainings=1, classes=4)
GROUPS = Basis(unit="groups", n=100, splits=1, seeds=1, trainings=1)
FEW = Basis(n=3, splits=1, seeds=1, trainings=1, classes=3)


@pytest.mark.parametrize(
    ("basis", "text"),
    [
        (
            SPLITS,
            "Mean ± 95% CI for new classes and trainings: t over 10 class splits of 100 groups, each with its own training.",
        ),
        (
            FIVE,
            "Mean ± 95% CI for new classes and trainings: class-effects model over 5 class splits of 100 groups, "
            "each with its own training.",
        ),
        (
            replace(FIVE, n=480 + 1, trainings=10),
            "Mean ± 95% CI for new classes and trainings: class-effects model over 5 class splits, 481 groups in all, "
            "10 trainings in all.",
        ),
        (
            ONE,
            "Mean ± 95% CI for new classes, from one class split and training: class-effects model, 50 groups of 4 unseen "
            "classes.",
        ),
        (
            replace(ONE, trainings=2),
            "Mean ± 95% CI for new classes, from one class split and 2 trainings: class-effects model, 50 groups of 4 "
            "unseen classes.",
        ),
        (GROUPS, "Mean ± 95% CI for these classes and this training only: t over 100 groups."),
        (
            replace(GROUPS, trainings=2),
            "Mean ± 95% CI for these classes and these trainings only: t over 100 groups.",
        ),
        (FEW, "Mean over 3 groups of 3 unseen classes: too few classes or groups for an interval."),
        (replace(FEW, n=1), "Mean over 1 group of 3 unseen classes: too few classes or groups for an interval."),
    ],
)
def test_a_claim_is_one_sentence(basis: Basis, text: str) -> None:
    assert claim(basis) == text


def test_families_may_have_different_numbers_of_classes() -> None:
    assert claim(ONE, {4, 20}).endswith("50 groups of 4 to 20 unseen classes.")


@pytest.mark.parametrize(
    ("basis", "full", "words", "short"),
    [
        (FIVE, FIVE, "", ""),
        (replace(FIVE, classes=100), FIVE, "", ""),  # of another family
        (Basis(), FIVE, "", ""),  # nothing is measured
        (replace(FIVE, finished=False), FIVE, "over 5 class splits of 100 groups, not finished", "n=500"),
        (replace(FIVE, n=100), FIVE, "over 5 class splits of 20 groups", "n=100"),
        (replace(FIVE, n=40, splits=2), FIVE, "over 2 class splits of 20 groups", "n=40, 2 splits"),
        (FEW, ONE, "over 3 groups", "n=3"),
        (replace(GROUPS, n=50), ONE, "over 50 groups, for these classes and trainings only",
         "n=50, for these classes and trainings only"),
        (FIVE, SPLITS, "over 5 class splits of 100 groups, for new classes", "n=500, 5 splits, for new classes"),
    ],
)  # fmt: skip
def test_what_a_cell_has_of_its_own(basis: Basis, full: Basis, words: str, short: str) -> None:
    assert (footnote(basis, full), mark(basis, full)) == (words, short)
    assert is_other(basis, full) == bool(words)


@given(st.lists(st.builds(Basis, n=st.integers(0, 9), splits=st.integers(1, 3)), max_size=5))
def test_the_caption_is_about_a_cell_that_no_other_exceeds(bases: list[Basis]) -> None:
    full = fullest(bases)
    assert full in bases or (not bases and full == Basis())
    assert all((basis.n, basis.splits) <= (full.n, full.splits) for basis in bases)
    assert not is_other(full, full)


def test_counts() -> None:
    assert [counted(numbers, "group") for numbers in ((1,), (1000.0,), (400, 50))] == [
        "1 group", "1,000 groups", "50 to 400 groups",
    ]  # fmt: skip
    assert counted((1, 2), "unseen class") == "1 to 2 unseen classes"
