from __future__ import annotations

import re
import time

import pytest

from pudnet_bench.harness.console import progress
from pudnet_bench.harness.console.progress import Display, duration


def test_without_a_terminal_work_that_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display, display.task("adam · digits", 1000, "groups") as task:
        for done in range(1001):
            task.update(done, "accuracy 90%")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_is_at_most_one_plain_line_per_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert progress.PLAIN_INTERVAL == 30
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.2)
    began = time.monotonic()
    with Display() as display, display.task("adam · digits", 500, "groups") as task:
        task.update(100)  # a run that goes on: the rate counts from here
        done = 100
        while time.monotonic() - began < 1.0:
            time.sleep(0.01)
            done += 1
            task.update(done, "accuracy 90.00%")
    spent = time.monotonic() - began
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 2 <= len(lines) <= spent / 0.2
    assert "\x1b" not in err
    assert "\r" not in err
    for line in lines:
        found = re.fullmatch(
            r"adam · digits: (\d+)/500 groups, ([\d.]+) groups/s, (\d+) s left, accuracy 90\.00%", line
        )
        assert found, line
        # One update per 10 ms at the most, and the 100 groups of the run before are no work of this one.
        count, rate, left = int(found[1]), float(found[2]), int(found[3])
        assert 0 < rate <= 100
        assert left == pytest.approx((500 - count) / rate, abs=1, rel=0.01)


def test_a_line_before_any_rate_is_known_has_no_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
    with Display() as display, display.task("adam", 5, "groups") as task:
        task.update(2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "adam: 2/5 groups"


def test_a_lasting_line_is_printed_at_once_and_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.log("failed: [bold] 5/7")
    assert capsys.readouterr() == ("", "failed: [bold] 5/7\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.6, "1 s"), (89, "89 s"), (91, "2 min"), (720, "12 min"), (5399, "90 min"), (12_600, "3.5 h")],
)
def test_durations_are_said_as_a_person_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
