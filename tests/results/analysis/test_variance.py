from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pudnet_bench.results.analysis.intervals import variance_components
from pudnet_bench.results.analysis.variance import SOURCES, VARIANCE, variance_table

MakeRow = Callable[..., dict[str, Any]]


def rows(
    make_row: MakeRow, splits: int, seeds: int, of_split: float, of_group: float, **changes: Any
) -> list[dict[str, Any]]:
    """Groups of two of four classes, the same in each split, with such standard deviations."""
    draw, pairs = np.random.default_rng(0), list(combinations(range(4), 2))
    even = np.linspace(-1, 1, splits) if splits > 1 else np.zeros(1)
    shifts = of_split * even / max(even.std(), 1e-9)
    return [
        make_row(
            split=split, seed=seed, group=group, accuracy=0.8 + shifts[split] + of_group * draw.normal(),
            classes=" ".join(str(each) for each in pairs[group % 6]), **changes,
        )
        for split in range(splits)
        for seed in range(seeds)
        for group in range(24)
    ]  # fmt: skip


def test_shares_add_up_and_are_those_of_the_components(make_row: MakeRow) -> None:
    frame = pd.DataFrame(rows(make_row, 5, 2, 0.03, 0.02))
    table = variance_table(frame)
    assert tuple(table.columns) == VARIANCE
    assert table["source"].tolist() == list(SOURCES)
    assert table["units"].tolist() == [5, 6, 10, 240]
    assert table["share"].sum() == pytest.approx(1)
    expected = variance_components(frame, 100 * frame["accuracy"])
    assert table["share"].tolist() == pytest.approx(
        [getattr(expected, name).share / expected.standard_error**2 for name in SOURCES.values()]
    )
    assert (table["standard_error_doubled"] <= table["standard_error"]).all()


@pytest.mark.parametrize(("of_split", "of_group", "source"), [(0.05, 0.01, "class split"), (0.0, 0.05, "group")])
def test_what_to_buy_next_is_what_varies_most(make_row: MakeRow, of_split: float, of_group: float, source: str) -> None:
    table = variance_table(pd.DataFrame(rows(make_row, 6, 2, of_split, of_group))).set_index("source")
    assert table["share"].idxmax() == source
    deviation = 100 * {"class split": of_split, "group": of_group}[source]
    assert table.loc[source, "deviation"] == pytest.approx(deviation, rel=0.2)


def test_one_training_has_nothing_to_divide(make_row: MakeRow) -> None:
    one = rows(make_row, 1, 1, 0.0, 0.02, method="protonet")
    assert variance_table(pd.DataFrame(one)).empty
    assert set(variance_table(pd.DataFrame([*one, *rows(make_row, 1, 2, 0.0, 0.02)]))["method"]) == {"pudnet"}
    equal = variance_table(pd.DataFrame(rows(make_row, 2, 2, 0.0, 0.0)))
    assert equal["share"].isna().all()  # of no variance
    assert (equal["standard_error"] == 0).all()
