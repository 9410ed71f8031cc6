"""Exponents of growth, and their figure."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.benchmarks.growth_figures import POINTS, SPEED_UPS, draw, exponent, exponents, speed_up

SIZES = np.array([100, 316, 1_000, 3_162, 10_000, 100_000])


def points(**powers: float) -> pd.DataFrame:
    rows = [
        (name, "groups", n, 2e-4 * n**power, 1e-4 * n**power, 5 * 10**8, 1_000 * n)
        for name, power in powers.items()
        for n in SIZES.tolist()
    ]
    return pd.DataFrame(rows, columns=list(POINTS))


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0, 2.0])
def test_a_power_law_is_found_exactly(power: float) -> None:
    found = exponent(SIZES, 3.5 * SIZES.astype(float) ** power)
    assert found.value == pytest.approx(power, abs=1e-12)
    assert found.low == pytest.approx(power, abs=1e-9)
    assert found.high == pytest.approx(power, abs=1e-9)
    assert found.n == 6


def test_the_interval_is_that_of_a_regression() -> None:
    values = SIZES * np.exp(np.random.default_rng(0).normal(0, 0.3, len(SIZES)))
    found = exponent(SIZES, values)
    theirs = stats.linregress(np.log(SIZES), np.log(values))
    assert found.value == pytest.approx(theirs.slope)
    half = theirs.stderr * stats.t.ppf(0.975, len(SIZES) - 2)
    assert (found.low, found.high) == pytest.approx((theirs.slope - half, theirs.slope + half))


def test_two_points_have_no_interval_and_one_size_no_exponent() -> None:
    found = exponent(np.array([10, 100]), np.array([1.0, 10.0]))
    assert found.value == pytest.approx(1)
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="two sizes"):
        exponent(np.array([10, 10]), np.array([1.0, 10.0]))


def test_each_subject_has_an_exponent_of_time_and_of_memory() -> None:
    found = exponents(points(linear=1.0, quadratic=2.0)).set_index(["subject", "quantity"])["exponent"]
    assert found["linear", "seconds"] == pytest.approx(1)
    assert found["quadratic", "seconds"] == pytest.approx(2)
    assert found["quadratic", "peak_bytes"] == pytest.approx(0)


def test_the_speed_up_is_a_ratio_of_medians() -> None:
    table = pd.DataFrame([(1, 10.0), (2, 5.0), (1, 12.0), (2, 6.0), (1, 90.0), (2, 4.0)], columns=list(SPEED_UPS))
    assert speed_up(table) == {1: 1.0, 2: pytest.approx(12 / 5)}


@pytest.mark.parametrize("with_runs", [True, False])
def test_it_is_drawn(with_runs: bool) -> None:
    runs = pd.DataFrame([(1, 10.0), (2, 5.5)] if with_runs else [], columns=list(SPEED_UPS))
    images = points(flat=0.0).assign(unit="images")
    table = pd.concat([points(linear=1.0), images])
    assert draw(table, runs, "png").startswith(b"\x89PNG")
    assert draw(table, runs, "pdf") == draw(table, runs, "pdf")
