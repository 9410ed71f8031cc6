import pandas as pd
import pytest

from pudnet_bench.results.analysis.timing import of_one_thread_count


@pytest.mark.parametrize(
    ("threads", "chosen"),
    [([2, 2, 2], 2), ([2, 8, 2], 2), ([2, 8], 8), ([8, 2], 8), ([1, 2, 4, 4, 2], 4), ([0, 0, 2], 0), ([], 0)],
)
def test_the_most_frequent_count_and_of_equals_the_largest(threads: list[int], chosen: int) -> None:
    rows = pd.DataFrame({"threads": pd.array(threads, dtype="int64"), "seconds": range(len(threads))})
    timed, count = of_one_thread_count(rows)
    assert count == chosen
    assert timed["seconds"].tolist() == [place for place, each in enumerate(threads) if each == chosen]
