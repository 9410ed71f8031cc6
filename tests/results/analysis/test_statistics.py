import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pudnet_bench.results.analysis.statistics import (
    break_even_count,
    break_even_epoch,
    mean_ci,
    of_one_thread_count,
    paired,
    pareto_front,
)

FRACTIONS = st.integers(0, 600).map(lambda correct: correct / 600)
SECONDS = st.floats(0, 1e6)


def test_mean_ci_by_hand() -> None:
    # 1, 2, 3: standard error 1 / sqrt(3), t quantile with 2 degrees of freedom 4.302653
    result = mean_ci([1, 2, 3])
    assert (result.mean, result.n) == (2.0, 3)
    assert result.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@given(st.lists(FRACTIONS, min_size=2, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_mean_ci_is_scipys_t_interval(values: list[float], confidence: float) -> None:
    result = mean_ci(values, confidence)
    expected = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * stats.sem(values)
    assert result.half_width == pytest.approx(expected, rel=1e-9)
    assert result.mean == pytest.approx(sum(values) / len(values))


def test_mean_ci_of_one_value_and_of_none() -> None:
    one, none = mean_ci([0.5]), mean_ci([])
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.half_width)
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(none.half_width)


def test_paired_against_scipy() -> None:
    generator = np.random.default_rng(3)
    b = generator.uniform(0.5, 0.9, 80)
    a = b + generator.normal(0.02, 0.03, 80)
    result = paired(a, b)
    assert result.mean == pytest.approx((a - b).mean())
    assert result.p_value == pytest.approx(stats.wilcoxon(np.round(a - b, 12)).pvalue)
    reference = stats.bootstrap((a - b,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert result.low == pytest.approx(reference.confidence_interval.low, abs=5e-4)
    assert result.high == pytest.approx(reference.confidence_interval.high, abs=5e-4)
    assert result.n == 80


def test_paired_by_hand() -> None:
    # All six differences are positive and different: exact two-sided p = 2 / 2**6.
    result = paired([2, 4, 6, 8, 10, 12], [1, 2, 3, 4, 5, 6])
    assert result.p_value == pytest.approx(2 / 64)
    assert result.mean == pytest.approx(3.5)
    assert 1 < result.low < 3.5 < result.high < 6


def test_rounding_errors_are_not_differences() -> None:
    result = paired([0.1 + 0.2, 0.7], [0.3, 0.1 * 7])
    assert (result.mean, result.low, result.high, result.p_value) == (0, 0, 0, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(FRACTIONS, FRACTIONS), min_size=1, max_size=30), st.integers(0, 5))
def test_paired_properties(pairs: list[tuple[float, float]], seed: int) -> None:
    a, b = (list(side) for side in zip(*pairs, strict=True))
    result = paired(a, b, seed=seed, resamples=500)
    assert result == paired(a, b, seed=seed, resamples=500)
    difference = np.subtract(a, b)
    assert difference.min() - 1e-9 <= result.low <= result.high <= difference.max() + 1e-9
    mirrored = paired(b, a, seed=seed, resamples=500)
    assert mirrored.mean == pytest.approx(-result.mean, abs=1e-12)
    assert mirrored.low == pytest.approx(-result.high, abs=1e-9)
    assert mirrored.p_value == pytest.approx(result.p_value)
    assert 0 < result.p_value <= 1
    same = paired(a, a, seed=seed, resamples=10)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_paired_draws_in_portions_without_repeating_them() -> None:
    # 60,000 pairs: 33 resamples at once. Were portions to repeat, there would be only 33 different means.
    difference = np.random.default_rng(0).normal(size=60_000)
    result = paired(difference, np.zeros_like(difference), resamples=100)
    assert result.low < difference.mean() < result.high
    assert result.high - result.low == pytest.approx(2 * 1.96 / math.sqrt(60_000), rel=0.3)


def test_paired_without_pairs_and_with_wrong_ones() -> None:
    empty = paired([], [])
    assert empty.n == 0
    assert math.isnan(empty.mean)
    assert math.isnan(empty.p_value)
    with pytest.raises(ValueError, match="same length"):
        paired([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        paired([1, math.nan], [1, 2])


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
