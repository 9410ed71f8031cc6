from collections.abc import Callable
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.comparison import compare
from pudnet_bench.results.rendering.comparison_tables import text


def test_the_comparison_as_text(measured: Callable[..., pd.DataFrame], typeset: Callable[..., list[Any]]) -> None:
    table = compare(measured(**{"a_b": [0.9] * 8, "c": [0.5]}), measured(**{"a_b": [0.8] * 8, "c": [0.5]}))
    runs = {"A": "runs/a_1: cpu", "B": "runs/b|2: cuda"}
    lines = text(table, runs, "markdown").splitlines()
    assert lines[0] == "A: runs/a\\_1: cpu  "
    assert lines[1] == "B: runs/b\\|2: cuda  "
    assert lines[5].startswith("| a\\_b | fashion | convnet3 | 8 | 90.00 | 80.00 | -10.00 (-10.00 to -10.00) | ")
    assert " | worse | " in lines[5]
    assert len({line.replace("\\|", "").count("|") for line in lines[3:]}) == 1
    assert text(table, runs, "csv").splitlines()[0].startswith("method,snapshot,family,target,n,accuracy_a")
    (page,) = typeset(text(table, runs, "latex"))
    assert page.block[0] - 1 <= page.ink[0] < page.ink[1] <= page.block[1] + 1
    assert "A: runs/a 1: cpu. B: runs/b|2: cuda." in page.text
    assert "-10.00 (-10.00 to -10.00)" in page.text


def test_a_ratio_of_different_thread_counts_is_marked(measured: Callable[..., pd.DataFrame]) -> None:
    one, other = measured(own=[0.9] * 8), measured({"threads": 8}, own=[0.8] * 8)
    for format in ("markdown", "latex"):
        assert "Times with an asterisk" not in text(compare(one, one), {"A": "a"}, format)
        assert "Times with an asterisk are not of one thread count" in text(compare(one, other), {"A": "a"}, format)
    assert text(compare(one, other), {}, "markdown").splitlines()[-1].endswith(" | 1\\* |")
