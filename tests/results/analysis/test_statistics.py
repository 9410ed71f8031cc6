import math
from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.results.analysis.statistics import (
    break_even_count,
    break_even_epoch,
    mean_over_splits,
    of_one_thread_count,
    pareto_front,
)

FRACTIONS = st.integers(0, 600).map(lambda correct: correct / 600)
SECONDS = st.floats(0, 1e6)


def test_each_split_weighs_alike() -> None:
    rows = pd.DataFrame({"split": [0, 0, 0, 4], "accuracy": [0.1, 0.2, 0.3, 0.8]})
    assert mean_over_splits(rows, "accuracy") == pytest.approx(0.5)
    assert math.isnan(mean_over_splits(rows.head(0), "accuracy"))


def curve(*points: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["epochs", "accuracy"])


@pytest.mark.parametrize(
    ("points", "level", "expected"),
    [
        ([(1, 0.5), (30, 0.9)], 0.9, 30.0),
        ([(1, 0.5), (30, 0.9)], 0.7, 15.5),  # halfway between the two
        ([(30, 0.9), (1, 0.5)], 0.7, 15.5),  # order does not matter
        ([(1, 0.5), (30, 0.9)], 0.4, 1.0),  # nothing is assumed before the first
        ([(1, 0.5), (30, 0.9)], 0.91, None),
        ([(1, 0.5), (30, 0.9), (50, 0.8)], 0.85, 1 + 29 * 0.35 / 0.4),  # the first time counts
        ([(1, 0.5), (30, 0.4), (50, 0.6)], 0.5, 1.0),
        ([], 0.5, None),
        ([(1, 0.5)], math.nan, None),
    ],
)
def test_break_even_epoch_by_hand(points: list[tuple[float, float]], level: float, expected: float | None) -> None:
    assert break_even_epoch(curve(*points), level) == (None if expected is None else pytest.approx(expected))


@given(st.lists(FRACTIONS, min_size=1, max_size=8), FRACTIONS)
def test_break_even_epoch_is_never_before_a_measured_epoch_below_the_level(
    accuracies: list[float], level: float
) -> None:
    found = break_even_epoch(curve(*enumerate(accuracies, start=1)), level)
    if found is None:
        assert max(accuracies) < level
    else:
        first = next(index for index, accuracy in enumerate(accuracies, start=1) if accuracy >= level)
        assert max(1, first - 1) <= found <= first


@pytest.mark.parametrize(
    ("meta", "predict", "scratch", "expected"),
    [
        (1000, 0.5, 100.5, 10),
        (1001, 0.5, 100.5, 11),
        (1, 0, 0.1, 10),  # 0.1 is a little more than a tenth, so ten are enough
        (0, 1, 2, 0),
        (0, 2, 1, 0),
        (5, 1, 1, None),
        (5, 2, 1, None),
        (math.nan, 1, 2, None),
        (1, 1, math.inf, None),
        (1e6, 0, 5e-324, math.ceil(Fraction(1e6) / Fraction(5e-324))),
    ],
)
def test_break_even_count_by_hand(meta: float, predict: float, scratch: float, expected: int | None) -> None:
    assert break_even_count(meta, predict, scratch) == expected


@given(SECONDS, SECONDS, SECONDS)
def test_break_even_count_is_the_smallest(meta: float, predict: float, scratch: float) -> None:
    def paid(count: int) -> bool:
        return Fraction(meta) + count * Fraction(predict) <= count * Fraction(scratch)

    count = break_even_count(meta, predict, scratch)
    if count is None:
        assert scratch <= predict
        assert not paid(10**9)
    else:
        assert paid(count)
        assert count == 0 or not paid(count - 1)


def test_pareto_front_by_hand() -> None:
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 70.0), (2.5, 90.0), (9.0, 95.0), (1.0, 80.0), (1.0, 60.0), (9.0, 95.0)]
    assert sorted(pareto_front(points)) == [1, 3, 4, 5, 7]
    assert [points[place] for place in pareto_front(points)] == sorted(points[place] for place in (1, 3, 4, 5, 7))
    assert pareto_front([]) == []


PAIRS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(PAIRS)
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    expected = [place for place, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert sorted(pareto_front(points)) == expected


@pytest.mark.parametrize(
    ("threads", "chosen"),
    [([2, 2, 2], 2), ([2, 8, 2], 2), ([2, 8], 8), ([8, 2], 8), ([1, 2, 4, 4, 2], 4), ([0, 0, 2], 0), ([], 0)],
)
def test_the_most_frequent_count_and_of_equals_the_largest(threads: list[int], chosen: int) -> None:
    rows = pd.DataFrame({"threads": pd.array(threads, dtype="int64"), "seconds": range(len(threads))})
    timed, count = of_one_thread_count(rows)
    assert count == chosen
    assert timed["seconds"].tolist() == [place for place, each in enumerate(threads) if each == chosen]
