import csv
import io
import math

import pandas as pd
import pytest

from pudnet_bench.results.analysis.costs import break_evens, method_costs
from pudnet_bench.results.rendering.cost_tables import MIXED_THREADS, csv_text, markdown_text


def test_costs_in_units_for_people_and_in_full(frame: pd.DataFrame) -> None:
    costs = {
        "seconds": 0.00318, "evaluation_seconds": 0.0207, "data_seconds": 1e-5, "meta_train_seconds": 1234.5,
        "peak_memory_bytes": 1_234_567_890, "parameters": 351_471.0, "fit_flops": 4.447002e7, "test_flops": 1_548_544.0,
        "energy_joules": 0.25,
    }  # fmt: skip
    table = method_costs(frame.query("method == 'pudnet'").assign(**costs))
    head, _, line = markdown_text(table).splitlines()
    names = [name.strip() for name in head.strip("|").split("|")]
    shown = dict(zip(names, (value.strip() for value in line.strip("|").split("|")), strict=True))
    assert list(shown.values())[6:] == [
        "1230 s", "3.18 ms", "20.7 ms", "0.0100 ms", "1,235", "0.351", "0.0445", "1.55", "0.25",
    ]  # fmt: skip
    assert names[6:] == [
        "meta-training", "fit", "evaluation", "data", "peak memory (MB)", "parameters (million)", "fit (GFLOPs)",
        "test image (MFLOPs)", "energy (J)",
    ]  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(csv_text(table)))
    kept = {"fit_seconds": costs.pop("seconds"), **costs}
    assert {name: float(row[name]) for name in kept} == pytest.approx(kept, rel=1e-12)
    unknown = method_costs(frame.assign(fit_flops=math.nan, test_flops=math.nan))
    assert markdown_text(unknown).count(" — |") == 3 * 3 + 2  # of Adam, meta-training too


def test_both_texts_hold_every_value(frame: pd.DataFrame) -> None:
    frame.loc[frame["method"] == "adam", "method"] = "a|b\nc"
    table = break_evens(frame, "pudnet")
    table.loc[0, "break_even_count"] = pd.NA
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert rows[1]["method"] == "a|b\nc"
    assert float(rows[1]["accuracy"]) == table["accuracy"][1]
    assert [row["break_even_count"] for row in rows] == ["", "32"]
    lines = markdown_text(table).splitlines()
    assert len(lines) == 4
    assert (
        lines[2]
        == "| fashion | convnet3 | cpu | a\\|b c | 1 epochs | pudnet | 2 | 0.605 | 0.8 | 1.5 | 0.5 | 2.3 | — | — |  | — |"
    )


def test_a_time_over_fewer_groups_is_marked(frame: pd.DataFrame) -> None:
    assert MIXED_THREADS not in markdown_text(method_costs(frame))
    frame.loc[(frame["method"] == "pudnet") & (frame["seed"] == 1) & (frame["group"] == 0), "threads"] = 8
    costs = method_costs(frame)
    lines = markdown_text(costs).splitlines()
    assert lines[0] == MIXED_THREADS
    assert [line.count("(t=2)") for line in lines[4:]] == [1, 0, 0]
    assert "threads" not in lines[2]
    rows = list(csv.DictReader(io.StringIO(csv_text(costs))))
    assert [row["threads"] for row in rows] == ["2"] * 3
    assert "n_timed" not in rows[0]
    frame.loc[(frame["method"] == "adam") & (frame["group"] == 0), "threads"] = 8
    lines = markdown_text(break_evens(frame, "pudnet")).splitlines()
    assert lines[0] == MIXED_THREADS
    assert all(" (t=2) | " in line for line in lines[4:])
