import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pudnet_bench.results.analysis.class_effects import Groups, standard_error
from pudnet_bench.results.analysis.intervals import (
    LEAST_DF,
    PAIR,
    Estimate,
    Interval,
    Unit,
    class_tuples,
    estimate,
    estimate_difference,
    paired_rows,
    simultaneous,
    variance_components,
)
from tests.results.t_interval import mean_ci

PAIRS = [f"{a} {b}" for a, b in itertools.combinations(range(4), 2)]


def frame(splits: int, groups: int, classes: list[str] | None = None, seeds: int = 1) -> pd.DataFrame:
    """Rows without accuracy: every split has so many seeds, every seed so many groups, whose classes go round."""
    named = classes or [""]
    return pd.DataFrame(
        [
            {"split": split, "seed": split + seed, "group": group, "classes": named[group % len(named)]}
            for split, seed, group in itertools.product(range(splits), range(seeds), range(groups))
        ],
        columns=[*PAIR, "classes"],
    )


def values(rows: pd.DataFrame, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(90, 3, len(rows))


@pytest.mark.parametrize(
    ("splits", "groups", "classes", "unit", "there"),
    [
        (6, 10, PAIRS, "splits", {"splits", "classes"}),
        (6, 10, None, "splits", {"splits"}),
        (5, 10, PAIRS, "classes", {"classes"}),
        (5, 100, None, "", set()),
        (5, 100, PAIRS[:5], "", set()),
        (1, 100, PAIRS[:5], "groups", {"groups"}),
        (1, 6, None, "groups", {"groups"}),
        (1, 5, None, "", set()),
        (1, 5, PAIRS, "", set()),
        (0, 0, None, "", set()),
    ],
)
def test_which_interval_is_printed(splits: int, groups: int, classes: list[str], unit: Unit, there: set[Unit]) -> None:
    rows = frame(splits, groups, classes)
    found = estimate(rows, values(rows))
    assert (found.unit, set(found.intervals), found.n) == (unit, there, splits * groups)
    assert math.isnan(found.half_width()) == math.isnan(found.p_value) == (unit == "")
    assert math.isnan(found.mean) == (splits == 0)


def test_too_few_degrees_of_freedom_are_no_interval_and_not_one_over_groups() -> None:
    rows = frame(1, 60, PAIRS)
    given = set()
    for seed in range(40):
        effects = dict(zip("0123", np.random.default_rng(seed).normal(0, 3, 4), strict=True))
        numbers = values(rows, seed) + [sum(effects[each] for each in text.split()) / 2 for text in rows["classes"]]
        found = estimate(rows, numbers)
        groups = Groups(split=rows["split"].to_numpy(), seed=rows["seed"].to_numpy(), tuples=class_tuples(rows))
        df = standard_error(numbers, groups)[1]
        assert found.unit == ("classes" if df >= LEAST_DF else "")
        assert "groups" in found.intervals
        given.add(found.unit)
    assert given == {"classes", ""}


def test_splits_by_hand() -> None:
    rows = frame(6, 2)
    rows = rows[(rows["split"] > 0) | (rows["group"] == 0)]  # split 0 has one group, and weighs as much as the others
    found = estimate(rows, [6, 1, 3, 2, 2, 4, 4, 5, 3, 3, 3])  # split means 6, 2, 2, 4, 4, 3
    means = [6, 2, 2, 4, 4, 3]
    assert (found.mean, found.splits, found.n) == (3.5, 6, 11)
    assert found.half_width() == pytest.approx(stats.t.ppf(0.975, 5) * stats.sem(means))
    assert found.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


@given(st.lists(st.integers(0, 600).map(lambda k: k / 600), min_size=6, max_size=60))
def test_groups_are_a_t_interval(accuracies: list[float]) -> None:
    rows = frame(1, len(accuracies))
    found = estimate(rows, accuracies)
    expected = mean_ci(accuracies)
    assert found.half_width() == pytest.approx(0 if len(set(accuracies)) == 1 else expected.half_width, abs=1e-12)
    assert found.mean == pytest.approx(expected.mean)


def test_the_order_of_rows_and_of_labels_plays_no_part() -> None:
    rows = frame(3, 24, PAIRS)
    numbers, order = values(rows), np.random.default_rng(1).permutation(len(rows))
    turned = rows.assign(classes=[" ".join(reversed(text.split())) for text in rows["classes"]])
    first, second = estimate(rows, numbers), estimate(turned.iloc[order], numbers[order])
    assert (first.tuples, first.classes) == (second.tuples, second.classes) == (6, 4)
    assert first.mean == pytest.approx(second.mean)
    assert first.half_width() == pytest.approx(second.half_width(), rel=1e-6)


@pytest.mark.parametrize(("splits", "classes"), [(1, PAIRS), (6, PAIRS), (1, None)])
def test_equal_values(splits: int, classes: list[str]) -> None:
    rows = frame(splits, 12, classes)
    some, none = estimate(rows, np.full(len(rows), 0.1)), estimate(rows, np.zeros(len(rows)))
    assert (some.half_width(), some.p_value) == (0, 0)
    assert (none.half_width(), none.p_value) == (0, 1)


def test_pairs_are_the_groups_of_both() -> None:
    a = frame(2, 8, PAIRS).assign(accuracy=0.9)
    b = frame(3, 6).assign(accuracy=np.linspace(0.5, 0.8, 18)).sample(frac=1, random_state=0)
    both = paired_rows(a, b)
    assert list(both.columns) == [*PAIR, "classes", "accuracy_a", "accuracy_b"]
    assert both[PAIR].equals(frame(2, 6)[PAIR])
    assert both["classes"].tolist() == 2 * PAIRS
    assert paired_rows(b, a)["classes"].tolist() == 2 * PAIRS
    assert estimate_difference(a, b).mean == pytest.approx(100 * (0.9 - both["accuracy_b"].mean()))
    assert estimate_difference(a, b).mean == pytest.approx(-estimate_difference(b, a).mean)
    assert estimate_difference(a, b[:0]).n == 0


def test_equal_differences_of_fractions_are_equal() -> None:
    rows = frame(1, 6)
    a = rows.assign(accuracy=[(k + 1) / 60 for k in (1, 7, 20, 31, 44, 58)])
    b = rows.assign(accuracy=[k / 60 for k in (1, 7, 20, 31, 44, 58)])
    assert estimate_difference(a, b).half_width() == 0


def printed(mean: float, error: float, df: float) -> Estimate:
    interval = Interval(unit="splits", units=8, standard_error=error, df=df)
    return Estimate(
        mean=mean, n=8, splits=8, seeds=8, tuples=0, classes=0, intervals={"splits": interval}, unit="splits"
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 2), st.sampled_from([1, 4, 7, 99])), max_size=12))
def test_an_interval_excludes_zero_exactly_where_holm_rejects(means: list[tuple[float, float, float]]) -> None:
    estimates = [printed(*mean) for mean in means]
    p_values = [each.p_value for each in estimates]
    found = simultaneous(p_values)
    assert [each.adjusted_p for each in found] == pytest.approx(
        multipletests(p_values, method="holm")[1] if p_values else []
    )
    for each, one in zip(found, estimates, strict=True):
        assert each.confidence >= 0.95
        if abs(each.adjusted_p - 0.05) > 1e-9:
            assert (each.adjusted_p < 0.05) == (abs(one.mean) > one.half_width(each.confidence))


def test_holm_by_hand() -> None:
    found = simultaneous([0.04, math.nan, 0.001, 0.03])
    assert [each.adjusted_p for each in found] == pytest.approx([0.06, math.nan, 0.003, 0.06], nan_ok=True)
    expected = [1 - 0.05 / 2, math.nan, 1 - 0.05 / 3, 1 - 0.05 / 2]
    assert [each.confidence for each in found] == pytest.approx(expected, nan_ok=True)
    assert simultaneous([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        simultaneous([1.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3), st.sampled_from([PAIRS, None]))
def test_components_add_up(seed: int, splits: int, seeds: int, classes: list[str] | None) -> None:
    rows = frame(splits, 12, classes, seeds)
    found = variance_components(rows, values(rows, seed))
    parts = {name: getattr(found, name) for name in ("split", "tuple", "training", "group")}
    told = {name for name, part in parts.items() if not math.isnan(part.share)}
    several = {"split"} if splits > 1 else set()
    assert told == {"group"} | several | ({"tuple"} if classes else set()) | ({"training"} if seeds > 1 else set())
    total = found.standard_error**2
    assert sum(parts[name].share for name in told) == pytest.approx(total)
    assert all(parts[name].doubled <= found.standard_error * (1 + 1e-9) for name in told)
    if splits > 1:
        assert parts["split"].doubled == pytest.approx(math.sqrt(total / 2))
    assert parts["group"].doubled == pytest.approx(math.sqrt(total - parts["group"].share / 2))


def test_components_are_those_that_were_put_in() -> None:
    rng, rows = np.random.default_rng(0), frame(30, 24, PAIRS, 10)
    of_split, of_training = rng.normal(0, 3, 30), rng.normal(0, 2, 300)
    of_group = rng.normal(0, 1, len(rows))
    training = np.arange(len(rows)) // 24
    found = variance_components(rows, of_split[training // 10] + of_training[training] + of_group)
    deviations = [found.split.deviation, found.training.deviation, found.group.deviation]
    assert deviations == pytest.approx([each.std(ddof=1) for each in (of_split, of_training, of_group)], rel=0.1)
    assert found.tuple.deviation < 0.2
    assert (found.split.units, found.tuple.units, found.training.units, found.group.units) == (30, 6, 300, 7200)


def test_components_of_almost_nothing() -> None:
    for rows in (frame(0, 0), frame(1, 1)):
        found = variance_components(rows, np.ones(len(rows)))
        assert math.isnan(found.standard_error)
        assert math.isnan(found.group.deviation)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_a_detectable_mean_is_found_as_often_as_its_power(power: float) -> None:
    """By simulation: t tests at 5% of means of that size over twelve splits."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"split": range(12), "seed": range(12), "group": 0, "classes": ""})
    size = power_of(rows, draw.normal(0, 1, (200, 12)), power)
    found = [estimate(rows, values).p_value < 0.05 for values in draw.normal(size, 1, (2_000, 12))]
    assert np.mean(found) == pytest.approx(power, abs=0.04)


def power_of(rows: pd.DataFrame, samples: np.ndarray, power: float) -> float:
    """What is detectable, on the average of `samples` [k, n] without an effect."""
    return float(np.mean([estimate(rows, values).detectable(power) for values in samples]))
