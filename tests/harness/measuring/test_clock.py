from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pudnet_bench.harness.measuring.clock import Clock, Elapsed, PeakMemory, timed

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def test_only_the_time_inside_the_generator_counts() -> None:
    def work() -> Iterator[str]:
        time.sleep(0.03)
        yield "first"
        time.sleep(0.06)
        yield "second"

    seconds = {}
    for item, elapsed in timed(work(), Clock(CPU)):
        seconds[item] = elapsed.seconds
        time.sleep(0.2)  # what a caller does with an item: not counted

    # A busy machine makes a sleep longer, hardly by as much as the caller's 0.2 s.
    assert 0.03 <= seconds["first"] < 0.2
    assert 0.09 <= seconds["second"] < 0.26
    assert seconds["second"] >= seconds["first"] + 0.06


def test_the_clock_may_be_used_by_the_caller_between_two_items() -> None:
    def work() -> Iterator[int]:
        for item in range(2):
            time.sleep(0.02)
            yield item

    clock = Clock(CPU)
    totals = []
    for _, elapsed in timed(work(), clock):
        clock.start()
        time.sleep(0.2)
        assert clock.stop().seconds >= 0.2
        totals.append(elapsed.seconds)
    assert 0.04 <= totals[-1] < 0.2


def test_a_generator_without_items_and_one_that_fails() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    assert list(timed(iter(()), Clock(CPU))) == []
    items = timed(broken(), Clock(CPU))
    assert next(items)[0] == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_on_a_cpu_both_clocks_are_the_hosts() -> None:
    clock = Clock(CPU)
    clock.start()
    time.sleep(0.01)
    elapsed = clock.stop()
    assert elapsed.seconds == elapsed.wall_seconds >= 0.01


def test_elapsed_adds_field_by_field() -> None:
    assert Elapsed(1.0, 2.0) + Elapsed(0.5, 0.25) == Elapsed(1.5, 2.25)
    assert Elapsed() + Elapsed(0.5, 0.25) == Elapsed(0.5, 0.25)


ALLOCATION = """
import torch
from pudnet_bench.harness.measuring.clock import PeakMemory

memory = PeakMemory(torch.device("cpu"))
memory.reset()
before = memory.read()
block = torch.ones(50_000_000)  # 200 MB, touched
held = memory.read()
assert held - before >= 190e6, (before, held)
del block
assert memory.read() >= held - 10e6  # a peak, not the present
memory.reset()
assert memory.read() < held - 150e6
"""


def test_peak_memory_sees_an_allocation_and_forgets_it_after_reset() -> None:
    """In a process of its own: one that has run other tests holds freed memory, from which the block may come."""
    subprocess.run([sys.executable, "-c", ALLOCATION], cwd=ROOT, check=True, timeout=300)


@pytest.fixture
def work(cuda: torch.device) -> Callable[[], None]:
    """Queues products of large matrices on the current stream and returns at once; tens of milliseconds for the device."""
    a = torch.randn(4096, 4096, device=cuda)

    def queue() -> None:
        for _ in range(20):
            a @ a

    queue()  # the first product loads the library
    return queue


@pytest.fixture
def region(cuda: torch.device, work: Callable[[], None]) -> Elapsed:
    """How long `work` takes, the least of three."""
    return min((timed_once(Clock(cuda), work) for _ in range(3)), key=lambda elapsed: elapsed.seconds)


def timed_once(clock: Clock, work: Callable[[], None]) -> Elapsed:
    clock.start()
    work()
    return clock.stop()


@pytest.mark.cuda
def test_cuda_events_agree_with_the_wall_on_a_long_queue(cuda, work) -> None:
    def queue() -> None:
        for _ in range(20):
            work()

    elapsed = timed_once(Clock(cuda), queue)
    assert elapsed.seconds > 1e-2  # queueing alone takes milliseconds: the work itself is counted
    assert elapsed.seconds == pytest.approx(elapsed.wall_seconds, rel=0.05)


@pytest.mark.cuda
def test_what_the_caller_queues_between_two_items_is_not_counted(cuda, work, region) -> None:
    def items() -> Iterator[int]:
        for item in range(2):
            work()
            yield item

    totals = []
    for _, elapsed in timed(items(), Clock(cuda)):
        work(), work()
        totals.append(elapsed.seconds)
    assert totals[1] == pytest.approx(2 * region.seconds, rel=0.4)


@pytest.mark.cuda
def test_work_queued_before_the_region_is_not_counted(cuda, work, region) -> None:
    clock = Clock(cuda)
    work()
    clock.start()
    elapsed = clock.stop()
    assert max(elapsed.seconds, elapsed.wall_seconds) < region.seconds / 4


@pytest.mark.cuda
def test_work_on_another_stream_counts_where_the_current_one_waits_for_it(cuda, work, region) -> None:
    clock, current, side = Clock(cuda), torch.cuda.current_stream(cuda), torch.cuda.Stream(cuda)
    clock.start()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        work()
    current.wait_stream(side)
    elapsed = clock.stop()
    assert elapsed.seconds == pytest.approx(region.seconds, rel=0.4)
    assert elapsed.seconds == pytest.approx(elapsed.wall_seconds, rel=0.2)


@pytest.mark.cuda
def test_the_current_stream_is_the_one_that_is_timed(cuda, work, region) -> None:
    clock = Clock(cuda)
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        elapsed = timed_once(clock, work)
    assert elapsed.seconds == pytest.approx(region.seconds, rel=0.4)
    assert elapsed.seconds == pytest.approx(elapsed.wall_seconds, rel=0.2)


@pytest.mark.cuda
def test_an_idle_region_takes_microseconds(cuda) -> None:
    clock = Clock(cuda)
    assert min(timed_once(clock, lambda: None).seconds for _ in range(20)) < 1e-4


@pytest.mark.cuda
def test_peak_memory_of_a_cuda_device(cuda) -> None:
    memory = PeakMemory(cuda)
    memory.reset()
    before = memory.read()
    block = torch.ones(50_000_000, device=cuda)
    assert memory.read() - before >= 190e6
    del block
    assert memory.read() - before >= 190e6  # a peak, not the present
    memory.reset()
    assert memory.read() - before < 50e6
