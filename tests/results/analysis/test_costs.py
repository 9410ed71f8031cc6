import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pudnet_bench.results.analysis.costs import (
    BREAK_EVENS,
    DIFFERENCES,
    METHOD_COSTS,
    break_evens,
    method_costs,
    paired_differences,
)

MakeRow = Callable[..., dict[str, Any]]


def test_method_costs_by_hand(frame: pd.DataFrame) -> None:
    table = method_costs(frame)
    assert tuple(table.columns) == METHOD_COSTS
    rows = {(row["method"], row["snapshot"]): row for row in table.to_dict("records")}
    pudnet, adam = rows["pudnet", ""], rows["adam", "3 epochs"]
    assert (pudnet["n"], pudnet["meta_train_seconds"], pudnet["fit_seconds"]) == (8, 125.0, 0.5)
    assert (adam["n"], adam["fit_seconds"], adam["peak_memory_bytes"]) == (2, 4.5, 20)
    assert math.isnan(adam["meta_train_seconds"])
    assert (pudnet["fit_flops"], pudnet["test_flops"], pudnet["parameters"]) == (2e9, 3e6, 350_000)
    assert (pudnet["evaluation_seconds"], pudnet["data_seconds"]) == (0.5, 0.01)
    assert math.isnan(pudnet["energy_joules"])


def test_what_is_known_of_some_groups_is_their_mean(frame: pd.DataFrame) -> None:
    """Rows from before a column was added, in a run that goes on."""
    ours = frame.index[frame["method"] == "pudnet"]
    frame.loc[ours[:3], ["energy_joules", "fit_flops"]] = [[10.0, 1e9], [30.0, 3e9], [math.nan, math.nan]]
    frame.loc[ours[3:], "fit_flops"] = math.nan
    row = method_costs(frame).query("method == 'pudnet'").iloc[0]
    assert (row["n"], row["energy_joules"], row["fit_flops"]) == (8, 20, 2e9)


def test_break_evens_by_hand(frame: pd.DataFrame) -> None:
    table = break_evens(frame, "pudnet")
    assert tuple(table.columns) == BREAK_EVENS
    assert table["snapshot"].tolist() == ["1 epochs", "3 epochs"]
    assert table["n"].tolist() == [2, 2]
    assert table["accuracy"].tolist() == pytest.approx([0.605, 0.905])
    # 0.8 lies 0.195 / 0.3 of the way from epoch 1 to epoch 3
    assert table["break_even_epoch"].tolist() == pytest.approx([1 + 2 * 0.195 / 0.3] * 2)
    # 125 s of meta-training; Adam takes 1.5 s or 4.5 s where PudNet takes 0.5 s
    assert table["break_even_count"].tolist() == [125, 32]  # ceil(125 / 1), ceil(125 / 4)


def test_break_evens_use_the_groups_both_measured(frame: pd.DataFrame) -> None:
    elsewhere = (frame["method"] == "pudnet") & ~((frame["seed"] == 0) & (frame["group"] < 2))
    frame.loc[elsewhere, ["accuracy", "seconds"]] = [0.1, 1000.0]
    table = break_evens(frame, "pudnet")
    assert table["reference_accuracy"].tolist() == pytest.approx([0.8, 0.8])
    assert table["reference_fit_seconds"].tolist() == pytest.approx([0.5, 0.5])


def test_never_and_nothing_to_pay(frame: pd.DataFrame) -> None:
    ours = frame["method"] == "pudnet"
    never = break_evens(
        frame.assign(accuracy=frame["accuracy"].mask(ours, 1.0), seconds=frame["seconds"].mask(ours, 9)), "pudnet"
    )
    assert never["break_even_epoch"].isna().all()
    assert never["break_even_count"].isna().all()
    free = break_evens(frame.assign(meta_train_seconds=math.nan), "pudnet")
    assert free["break_even_count"].tolist() == [0, 0]


def test_devices_are_never_combined(frame: pd.DataFrame) -> None:
    frame.loc[frame["method"] == "adam", "device"] = "cuda"
    assert break_evens(frame, "pudnet").empty
    assert paired_differences(frame, "pudnet").empty
    assert method_costs(frame)["device"].tolist() == ["cpu", "cuda", "cuda"]


def test_an_unknown_reference_gives_empty_tables_with_columns(frame: pd.DataFrame) -> None:
    assert tuple(break_evens(frame, "nobody").columns) == BREAK_EVENS
    assert tuple(paired_differences(frame, "nobody").columns) == DIFFERENCES
    assert break_evens(frame, "nobody").empty
    assert paired_differences(frame.head(0), "pudnet").empty
    assert method_costs(frame.head(0)).empty


def test_paired_differences_are_paired_by_seed_and_group(make_row: MakeRow) -> None:
    generator = np.random.default_rng(0)
    groups = [(seed, group) for seed in (0, 1) for group in range(10)]
    ours = dict(zip(groups, generator.uniform(0.5, 0.9, 20), strict=True))
    theirs = {key: ours[key] + 0.02 + 0.001 * index for index, key in enumerate(groups) if key != (1, 3)}
    rows = [make_row(seed=s, group=g, accuracy=a) for (s, g), a in ours.items()]
    rows += [make_row(method="gc", snapshot="30 epochs", seed=s, group=g, accuracy=a) for (s, g), a in theirs.items()]
    generator.shuffle(rows)
    table = paired_differences(pd.DataFrame(rows), "pudnet")
    assert tuple(table.columns) == DIFFERENCES
    (row,) = table.to_dict("records")
    expected = stats.ttest_rel([100 * a for a in theirs.values()], [100 * ours[key] for key in theirs])
    assert (row["method"], row["snapshot"], row["reference"], row["n"]) == ("gc", "30 epochs", "pudnet", 19)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (row["p_value"], row["p_holm"]) == pytest.approx((expected.pvalue, expected.pvalue), abs=1e-12)
    assert (row["interval"], row["splits"]) == ("groups", 1)
    assert 2 < row["low"] < row["difference"] < row["high"] < 4  # percentage points


def test_a_reference_with_several_snapshots_counts_with_its_last(frame: pd.DataFrame) -> None:
    table = paired_differences(frame, reference="adam")
    (row,) = table.to_dict("records")
    assert (row["method"], row["n"], row["interval"]) == ("pudnet", 2, "")
    assert table[["low", "high", "p_value", "p_holm"]].isna().all(axis=None)  # two groups are too few
    assert row["difference"] == pytest.approx(100 * (0.8 - 0.905))


def test_the_intervals_of_a_table_are_simultaneous(measured: Callable[..., pd.DataFrame]) -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(0.8, 0.05, 30)
    others = {f"m{i}": base + 0.004 * i + draw.normal(0, 0.02, 30) for i in range(6)}
    table = paired_differences(measured(pudnet=base, **others, few=base[:5]), "pudnet")
    known = table[table["interval"] != ""]
    excludes = (known["low"] > 0) | (known["high"] < 0)
    assert excludes.tolist() == (known["p_holm"] < 0.05).tolist()
    assert 0 < excludes.sum() < (known["p_value"] < 0.05).sum()  # Holm keeps some that would be significant alone
    assert table["method"].tolist()[-1] == "few"


def test_the_break_even_epoch_has_an_interval(make_row: MakeRow) -> None:
    """By hand: at each epoch the difference is the curve's with 3 points of noise, of which the t interval is known."""
    noise = np.array([0.03, -0.03] * 4)
    rows = [make_row(group=group, accuracy=0.8 + noise[group]) for group in range(8)]
    curve = {1.0: 0.7, 3.0: 0.78, 5.0: 0.82, 9.0: 0.9}
    rows += [
        make_row(method="adam", group=group, snapshot=f"{epochs:.0f} epochs", epochs=epochs, accuracy=accuracy)
        for epochs, accuracy in curve.items()
        for group in range(8)
    ]
    half = stats.t.ppf(0.975, 7) * noise.std(ddof=1) / np.sqrt(8)
    assert 0.02 < half < 0.04
    table = break_evens(pd.DataFrame(rows), "pudnet")
    assert set(table["interval"]) == {"groups"}
    for name, level in (("", 0.8), ("_low", 0.8 - half), ("_high", 0.8 + half)):
        expected = np.interp(level, list(curve.values()), list(curve))
        assert table[f"break_even_epoch{name}"].tolist() == pytest.approx([expected] * 4)
    never = break_evens(pd.DataFrame(rows[:-8]), "pudnet")  # without the last epoch the lower end stays below
    assert never["break_even_epoch_high"].isna().all()
    assert never["break_even_epoch"].notna().all()
    few = break_evens(pd.DataFrame([row for row in rows if row["group"] < 5]), "pudnet")
    assert few[["break_even_epoch_low", "break_even_epoch_high"]].isna().all(axis=None)
    assert set(few["interval"]) == {""}


def test_trainings_weigh_alike_in_their_cost(frame: pd.DataFrame) -> None:
    ours = frame[frame["method"] == "pudnet"]
    more = ours[ours["group"] == 0].assign(split=1, seed=1, meta_train_seconds=900.0)
    row = method_costs(pd.concat([ours, more])).iloc[0]
    assert row["meta_train_seconds"] == pytest.approx((100 + 150 + 900) / 3)


def test_class_splits_weigh_alike_in_a_break_even(frame: pd.DataFrame) -> None:
    adam = frame[frame["method"] == "adam"]
    other = adam[adam["group"] == 1].assign(split=1)
    adam = pd.concat([adam[adam["group"] == 0], *(other.assign(group=group) for group in range(3))])
    ours = adam[adam["epochs"] == 1].assign(method="pudnet", snapshot="", epochs=math.nan, accuracy=0.7)
    table = break_evens(pd.concat([adam, ours]), "pudnet")
    assert table["n"].tolist() == [4, 4]
    assert table["accuracy"].tolist() == pytest.approx([0.605, 0.905])  # 0.60 and 0.61, 0.90 and 0.91
    assert table["break_even_epoch"].tolist() == pytest.approx([1 + 2 * 0.095 / 0.3] * 2)


def test_times_of_two_thread_counts_never_enter_one_mean(frame: pd.DataFrame) -> None:
    ours, adam = frame["method"] == "pudnet", frame["method"] == "adam"
    other = (ours & (frame["seed"] == 1)) | (adam & (frame["group"] == 1))
    frame.loc[other, ["threads", "seconds", "evaluation_seconds"]] = [8, 1000.0, 1000.0]
    rows = {(row["method"], row["snapshot"]): row for row in method_costs(frame).to_dict("records")}
    pudnet, adam_3 = rows["pudnet", ""], rows["adam", "3 epochs"]
    # Four groups of each: the larger thread count.
    assert (pudnet["fit_seconds"], pudnet["evaluation_seconds"]) == (1000, 1000)
    assert (pudnet["threads"], pudnet["n_timed"], pudnet["n"]) == (8, 4, 8)
    assert (adam_3["fit_seconds"], adam_3["threads"], adam_3["n_timed"], adam_3["n"]) == (1000, 8, 1, 2)
    # Both fitted group 0 with two threads, and group 1 with different ones.
    table = break_evens(frame, "pudnet")
    assert table["n"].tolist() == [2, 2]
    assert (table["fit_seconds"].tolist(), table["reference_fit_seconds"].tolist()) == ([1.0, 3.0], [0.5, 0.5])
    assert (table["threads"].tolist(), table["n_timed"].tolist()) == ([2, 2], [1, 1])
    apart = break_evens(frame.assign(threads=frame["threads"].mask(ours, 4)), "pudnet")
    assert apart["fit_seconds"].isna().all()
    assert apart["break_even_count"].isna().all()
    assert apart["break_even_epoch"].tolist() == table["break_even_epoch"].tolist()  # accuracies know no threads
