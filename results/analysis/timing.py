"""The rule for times of different thread counts: they never enter one mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def of_one_thread_count(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows that a mean time of `rows` is over, and their thread count (0 if unknown).

    Those of the most frequent thread count; of several equally frequent ones, of the largest.
    """
    counts = rows["threads"].value_counts()
    threads = int(counts.index[counts == counts.max()].max()) if len(counts) else 0
    return rows[rows["threads"] == threads], threads
