from collections.abc import Callable
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.comparison import compare
from pudnet_bench.results.rendering.comparison_tables import text

Measured = Callable[..., pd.DataFrame]


def test_the_comparison_as_text(measured: Measured, typeset: Callable[..., list[Any]]) -> None:
    a, b = measured(**{"a_b": [0.9] * 8, "c": [0.5]}), measured(**{"a_b": [0.8] * 8, "c": [0.25]})
    table = compare(a, b.assign(cell="other"))
    runs = {"A": "runs/a_1: cpu", "B": "runs/b|2: cuda"}
    differing = ["options A none, B --training-groups 200"]
    lines = text(table, runs, differing, "markdown").splitlines()
    assert lines[:3] == [
        "A: runs/a\\_1: cpu  ",
        "B: runs/b\\|2: cuda  ",
        "differs: options A none, B --training-groups 200  ",
    ]
    assert lines[3].startswith("Intervals are of t tests")
    assert lines[-2].startswith(
        "| a\\_b | fashion | convnet3 | other | 8 | 90.00 | 80.00 | -10.00 (-10.00 to -10.00) | "
    )
    assert " | worse | " in lines[-2]
    assert " | other | 1 | 50.00 | 25.00 | -25.00 |  |  | too few units | " in lines[-1]
    assert len({line.replace("\\|", "").count("|") for line in lines[5:]}) == 1
    csv_text = text(table, runs, differing, "csv")
    assert csv_text.splitlines()[0].startswith(
        "method,snapshot,family,target,same_cell,n,splits,other_classes,accuracy_a"
    )
    assert "differs" not in csv_text
    (page,) = typeset(text(table, runs, differing, "latex"))
    assert page.block[0] - 1 <= page.ink[0] < page.ink[1] <= page.block[1] + 1
    assert "A: runs/a 1: cpu. B: runs/b|2: cuda. differs: options A none, B --training-groups 200." in " ".join(
        page.text.split()
    )
    assert "-10.00 (-10.00 to -10.00)" in page.text


def test_what_was_not_paired_is_said(measured: Measured) -> None:
    one = measured(own=[0.9] * 8).assign(classes="1 2")
    assert "not paired" not in text(compare(one, one), {}, [], "markdown")
    other = one.assign(classes=["1 2"] * 6 + ["1 3"] * 2)
    found = text(compare(one, other), {}, [], "markdown")
    assert found.startswith("not paired: 2 groups of the same number, as their classes in A and B are not the same  \n")


def test_a_ratio_of_different_thread_counts_is_marked(measured: Measured) -> None:
    one, other = measured(own=[0.9] * 8), measured({"threads": 8}, own=[0.8] * 8)
    for format in ("markdown", "latex"):
        assert "Times with an asterisk" not in text(compare(one, one), {"A": "a"}, [], format)
        assert "Times with an asterisk are not of one thread count" in text(compare(one, other), {"A": "a"}, [], format)
    assert text(compare(one, other), {}, [], "markdown").splitlines()[-1].endswith(" | 1\\* |")
