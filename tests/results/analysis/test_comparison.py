from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from pudnet_bench.results.analysis.comparison import compare, ranks
from pudnet_bench.results.analysis.statistics import holm, paired, smallest_p_value, wilcoxon_p_value

# --- Holm


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust
        ([0.5, 0.9, 0.7], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms())
def test_holm_lies_between_nothing_and_bonferroni_and_knows_no_order(p_values: list[float], draw: Any) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12
    order = list(range(len(p_values)))
    draw.shuffle(order)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_takes_probabilities(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, bad])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8).filter(any))
def test_few_pairs_are_tested_as_scipy_does(differences: list[int]) -> None:
    values = np.array(differences) / 20
    assert wilcoxon_p_value(values, np.zeros(len(values))) == pytest.approx(wilcoxon(values).pvalue)


def test_the_smallest_p_value_is_that_of_differences_of_one_sign() -> None:
    for n in range(1, 9):
        assert smallest_p_value(n) == pytest.approx(wilcoxon(np.arange(1, n + 1)).pvalue)
    assert smallest_p_value(0) == 1.0
    assert wilcoxon_p_value([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert math.isnan(wilcoxon_p_value([], []))


# --- ranks within a table


def test_what_is_not_told_apart_from_the_best_is_best_too(measured: Callable[..., pd.DataFrame]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 30))
    frame = measured(best=0.9 + noise[0], same=0.8999 + noise[1], worse=0.8 + noise[2], worst=[0.5] * 30)
    assert ranks(frame) == {
        ("best", "", "fashion"): "best",
        ("same", "", "fashion"): "best",
        ("worse", "", "fashion"): "second",
        ("worst", "", "fashion"): "",
    }


def test_too_few_groups_make_no_tie(measured: Callable[..., pd.DataFrame]) -> None:
    # Five pairs of one sign have p = 0.0625: no difference could ever be shown.
    assert set(ranks(measured(a=[0.9] * 5, b=[0.1] * 5)).values()) == {"best", "second"}
    assert ranks(measured(a=[0.9, 0.1] * 3, b=[0.1, 0.89] * 3))["b", "", "fashion"] == "best"


def test_equal_means_as_printed_are_both_best(measured: Callable[..., pd.DataFrame]) -> None:
    found = ranks(measured(a=[0.9, 0.8], b=[0.8, 0.90000001], c=[0.1, 0.2]))
    assert [found[name, "", "fashion"] for name in "abc"] == ["best", "best", "second"]


def test_holm_counts_all_comparisons_of_the_table(measured: Callable[..., pd.DataFrame]) -> None:
    base = np.full(20, 0.9)
    near = base - 0.001 * np.array([-k if k in (9, 18, 20) else k for k in range(1, 21)])
    p = wilcoxon_p_value(base, near)
    assert 0.01 < p < 0.05  # alone it would be told apart
    assert ranks(measured(a=base, b=near))["b", "", "fashion"] == "second"
    together = ranks(measured(a=base, b=near, c=near, d=near, e=near))
    assert set(together.values()) == {"best"}  # 4 p is not significant
    assert (
        ranks(measured(a=base, b=near, far=base - 0.3))["b", "", "fashion"] == "second"
    )  # the largest p stays as it is


# --- two runs


def test_a_comparison_by_hand(measured: Callable[..., pd.DataFrame]) -> None:
    draw = np.random.default_rng(1)
    one, other = draw.normal(0.8, 0.05, 25), draw.normal(0.8, 0.05, 25)
    a = measured({"seconds": 2.0}, better=one, worse=one, alike=one, gone=one)
    b = measured({"seconds": 1.0}, worse=one - 0.05, better=one + 0.05, alike=other, new=one)
    table = compare(a, b).set_index("method")
    assert list(table.index) == ["worse", "better", "alike"]
    assert table["verdict"].to_dict() == {"worse": "worse", "better": "better", "alike": "no difference shown"}
    assert table["n"].tolist() == [25] * 3
    assert table["ratio"].tolist() == [0.5] * 3
    assert table.loc["better", "difference"] == pytest.approx(5.0)
    expected = paired(100 * other, 100 * one)
    found = table.loc["alike"]
    assert (found["difference"], found["low"], found["high"]) == (expected.mean, expected.low, expected.high)
    assert found["p_value"] == pytest.approx(wilcoxon(other, one).pvalue)
    assert table["p_holm"].tolist() == holm(table["p_value"].tolist())


def test_only_groups_that_both_measured_are_compared(measured: Callable[..., pd.DataFrame]) -> None:
    a, b = measured(own=[0.9, 0.8, 0.7]), measured(own=[0.8, 0.9])
    assert compare(a, b)["n"].tolist() == [2]
    assert compare(a, b)["accuracy_a"].tolist() == pytest.approx([85.0])
    elsewhere = compare(a, b.assign(seed=1))
    assert elsewhere["verdict"].tolist() == ["no common groups"]
    assert elsewhere["p_holm"].isna().all()
    assert compare(a, b.assign(method="other")).empty


def test_times_of_two_thread_counts_never_enter_one_median(measured: Callable[..., pd.DataFrame]) -> None:
    a, b = measured({"seconds": 2.0}, own=[0.9] * 4), measured({"seconds": 1.0}, own=[0.9] * 4)
    (row,) = compare(a, b).to_dict("records")
    assert (row["threads_a"], row["threads_b"], row["same_threads"]) == (2, 2, True)
    a.loc[1:, ["threads", "seconds"]] = [8, 4.0]
    (row,) = compare(a, b).to_dict("records")
    assert (row["seconds_a"], row["ratio"]) == (4.0, 0.25)
    assert (row["threads_a"], row["threads_b"], row["same_threads"]) == (8, 2, False)
