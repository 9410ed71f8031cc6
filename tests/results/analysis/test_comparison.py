from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pudnet_bench.results.analysis.comparison import COMPARISON, Place, Rank, compare, estimates, ranks
from pudnet_bench.results.analysis.intervals import estimate_difference, simultaneous

Measured = Callable[..., pd.DataFrame]


def ranked(frame: pd.DataFrame) -> dict[Place, Rank]:
    return ranks(frame, estimates(frame))


def over_splits(frame: pd.DataFrame, splits: int) -> pd.DataFrame:
    """The frame's groups dealt to so many class splits, each with its own training and groups 0, 1, 2, ..."""
    each = frame["group"] % splits
    return frame.assign(split=each, seed=each, group=frame["group"] // splits)


# --- ranks within a table


def test_what_does_not_differ_from_the_best_is_best_too(measured: Measured) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 30))
    frame = measured(best=0.9 + noise[0], same=0.8999 + noise[1], worse=0.8 + noise[2], worst=[0.5] * 30)
    expected = {"best": "best", "same": "best", "worse": "second", "worst": ""}
    assert ranked(frame) == {(name, "", "fashion"): rank for name, rank in expected.items()}


def test_the_unit_of_ranks_is_that_of_the_intervals(measured: Measured) -> None:
    """A difference that changes from split to split: 90 groups would show it, six splits do not."""
    shift = np.tile([0.04, 0.03, 0.02, -0.01, -0.02, -0.03], 15)
    noise = np.random.default_rng(0).normal(0, 0.001, (2, 90))
    frame = measured(a=0.9 + noise[0], b=0.895 - shift + noise[1])
    assert ranked(frame)["b", "", "fashion"] == "second"
    assert ranked(over_splits(frame, 6))["b", "", "fashion"] == "best"


def test_without_an_interval_there_is_no_rank(measured: Measured) -> None:
    assert set(ranked(measured(a=[0.9] * 5, b=[0.1] * 5)).values()) == {""}
    led = measured(few=[1.0] * 5, a=[0.9, 0.8] * 3, b=[0.7, 0.6] * 3)
    assert set(ranked(led).values()) == {""}  # who leads cannot be said
    behind = ranked(measured(a=[0.9, 0.8] * 3, b=[0.6] * 6, few=[0.7] * 5))
    assert [behind[name, "", "fashion"] for name in ("a", "few", "b")] == ["best", "", ""]


def test_few_common_groups_make_no_tie(measured: Measured) -> None:
    a, b = measured(a=[0.9, 0.8] * 4), measured(b=[0.8, 0.89] * 4)
    assert ranked(pd.concat([a, b]))["b", "", "fashion"] == "best"
    assert ranked(pd.concat([a, b.assign(group=b["group"] + 3)]))["b", "", "fashion"] == "second"


def test_equal_means_as_printed_are_both_best(measured: Measured) -> None:
    found = ranked(measured(a=[0.9, 0.8] * 4, b=[0.8, 0.90000001] * 4, c=[0.1, 0.2] * 4))
    assert [found[name, "", "fashion"] for name in "abc"] == ["best", "best", "second"]


def test_holm_counts_all_comparisons_of_the_table(measured: Measured) -> None:
    base = np.full(20, 0.9)
    near = base - 0.001 * np.array([-k if k in (9, 18, 20) else k for k in range(1, 21)])
    pair = measured(a=base, b=near)
    p = estimate_difference(*(pair[pair["method"] == name] for name in "ab")).p_value
    assert 0.0125 < p < 0.05  # alone it would be told apart
    assert ranked(pair)["b", "", "fashion"] == "second"
    assert set(ranked(measured(a=base, b=near, c=near, d=near, e=near)).values()) == {"best"}  # 4 p is not significant
    assert ranked(measured(a=base, b=near, far=base - 0.3))["b", "", "fashion"] == "second"  # the largest p stays


# --- two runs


def test_a_comparison_by_hand(measured: Measured) -> None:
    draw = np.random.default_rng(1)
    one, other = draw.normal(0.8, 0.05, 25), draw.normal(0.8, 0.05, 25)
    a = measured({"seconds": 2.0}, better=one, worse=one, alike=one, few=one[:5], gone=one)
    b = measured({"seconds": 1.0}, worse=one - 0.05, better=one + 0.05, alike=other, few=one[:5], new=one)
    table = compare(a, b).set_index("method")
    assert tuple(table.reset_index()[list(COMPARISON)].columns) == COMPARISON
    verdicts = {"worse": "worse", "better": "better", "alike": "no difference shown", "few": "too few units"}
    assert table["verdict"].to_dict() == verdicts
    assert list(table.index) == list(verdicts)
    assert table["n"].tolist() == [25, 25, 25, 5]
    assert table["interval"].tolist() == ["groups"] * 3 + [""]
    assert table["ratio"].tolist() == [0.5] * 4
    assert table.loc["better", ["difference", "low", "high"]].tolist() == pytest.approx([5.0] * 3)
    found = table.loc["alike"]
    assert found["p_value"] == pytest.approx(stats.ttest_rel(other, one).pvalue)
    # The only hypothesis that is kept is tested at 5%.
    expected = stats.ttest_rel(100 * other, 100 * one).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))
    assert found["p_holm"] == found["p_value"]
    assert table.loc["few", ["low", "high", "p_value", "p_holm"]].isna().all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 2.5), min_size=1, max_size=6), st.sampled_from([1, 3, 6]), st.integers(0, 1000))
def test_an_interval_excludes_zero_exactly_where_the_verdict_says_so(
    effects: list[float], splits: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    tuples = [f"{a} {b}" for a, b in combinations(range(5), 2)]
    rows = pd.DataFrame({
        "cell": "c", "snapshot": "", "family": "f", "target": "t", "seed": 0, "seconds": 1.0, "threads": 1,
        "split": np.arange(36) % splits, "group": np.arange(36), "classes": [tuples[i % 10] for i in range(36)],
        "accuracy": draw.normal(0.8, 0.05, 36),
    })  # fmt: skip
    a = pd.concat([rows.assign(method=f"m{i}") for i in range(len(effects))])
    noise = draw.normal(0, 0.01, len(a))
    b = a.assign(accuracy=a["accuracy"] + np.repeat(effects, 36) * 0.004 + noise)
    table = compare(a, b)
    assert set(table["interval"]) <= {"splits" if splits == 6 else "classes", ""}
    excludes = (table["low"] > 0) | (table["high"] < 0)
    assert excludes.tolist() == table["verdict"].isin(["better", "worse"]).tolist()
    assert excludes.tolist() == (table["p_holm"] < 0.05).tolist()
    adjusted = [test.adjusted_p for test in simultaneous(table["p_value"].tolist())]
    assert table["p_holm"].tolist() == pytest.approx(adjusted, nan_ok=True)


def test_only_groups_that_both_measured_are_compared(measured: Measured) -> None:
    a, b = measured(own=[0.9, 0.8, 0.7]), measured(own=[0.8, 0.9])
    assert compare(a, b)["n"].tolist() == [2]
    assert compare(a, b)["accuracy_a"].tolist() == pytest.approx([85.0])
    for other in ("seed", "split"):
        elsewhere = compare(a, b.assign(**{other: 1}))
        assert elsewhere["verdict"].tolist() == ["no common groups"]
        assert elsewhere["p_holm"].isna().all()
        assert elsewhere["same_cell"].tolist() == [False]
    assert compare(a, b.assign(method="other")).empty


def test_each_split_weighs_alike_in_a_comparison(measured: Measured) -> None:
    a, b = measured(own=[0.5, 0.6, 0.7]), measured(own=[0.6, 0.7, 1.0])
    a, b = (rows.assign(split=[0, 0, 1]) for rows in (a, b))
    (row,) = compare(a, b).to_dict("records")
    assert [row[name] for name in ("accuracy_a", "accuracy_b", "difference")] == pytest.approx([62.5, 82.5, 20.0])
    assert row["splits"] == 2


def test_groups_of_other_classes_are_not_the_same_groups(measured: Measured) -> None:
    a, b = (measured(own=[0.9, 0.8, 0.7, 0.6]).assign(classes=["0 1", "1 2", "0 2", ""]) for _ in range(2))
    b["classes"] = ["0 1", "2 1", "", "1 2"]  # unknown ones may be the same
    (row,) = compare(a, b).to_dict("records")
    assert (row["n"], row["other_classes"]) == (3, 1)
    assert row["accuracy_a"] == pytest.approx(100 * (0.9 + 0.7 + 0.6) / 3)
    (row,) = compare(a, b.assign(classes="7 8")).to_dict("records")
    assert (row["n"], row["other_classes"], row["verdict"]) == (1, 3, "too few units")


def test_cells_of_other_keys_are_compared_and_said_to_be_others(measured: Measured) -> None:
    a, b = measured({"cell": "x"}, own=[0.9] * 4), measured({"cell": "x"}, own=[0.8] * 4)
    assert compare(a, b)["same_cell"].tolist() == [True]
    b.loc[3, "cell"] = "y"
    assert compare(a, b)["same_cell"].tolist() == [False]


def test_times_of_two_thread_counts_never_enter_one_median(measured: Callable[..., pd.DataFrame]) -> None:
    a, b = measured({"seconds": 2.0}, own=[0.9] * 4), measured({"seconds": 1.0}, own=[0.9] * 4)
    (row,) = compare(a, b).to_dict("records")
    assert (row["threads_a"], row["threads_b"], row["same_threads"]) == (2, 2, True)
    a.loc[1:, ["threads", "seconds"]] = [8, 4.0]
    (row,) = compare(a, b).to_dict("records")
    assert (row["seconds_a"], row["ratio"]) == (4.0, 0.25)
    assert (row["threads_a"], row["threads_b"], row["same_threads"]) == (8, 2, False)
