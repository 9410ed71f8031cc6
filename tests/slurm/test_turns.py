"""One limit for the jobs of several arrays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.slurm.turns import Turns


def test_without_a_limit_nothing_waits() -> None:
    turns = Turns(None, ["1_0", "1_1"])
    turns.add("2_0", 400)
    assert turns.waits_for(400) == []


def test_arrays_run_side_by_side_up_to_the_limit() -> None:
    turns = Turns(20, [f"7_{task}" for task in range(15)])
    assert turns.waits_for(5) == []
    turns.add("8", 5)
    assert turns.waits_for(5) == ["7"]
    turns.add("9_0", 5)
    assert turns.waits_for(10) == ["7"]  # beside the arrays 8 and 9
    turns.add("10_0", 10)
    assert turns.waits_for(50) == ["8", "9", "10"]  # the last waits for 7 itself


@given(st.integers(1, 8), st.lists(st.integers(1, 12), min_size=1, max_size=9), st.randoms())
def test_no_order_of_events_exceeds_the_limit(limit: int, sizes: list[int], random: object) -> None:
    turns, waits = Turns(limit), dict[str, set[str]]()
    for number, size in enumerate(sizes):
        waits[str(number)] = set(turns.waits_for(size))
        turns.add(str(number), size)
    waiting, running, ended = list(waits), list[str](), set[str]()
    while waiting or running:
        ready = [array for array in waiting if waits[array] <= ended]
        assert ready or running  # nothing waits for ever
        running += ready
        waiting = [array for array in waiting if array not in ready]
        assert sum(min(sizes[int(array)], limit) for array in running) <= limit
        array = random.choice(running)  # type: ignore[attr-defined]
        running.remove(array)
        ended.add(array)
