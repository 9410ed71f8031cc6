"""The time of one piece of work in units of another, measured in interleaved rounds by pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from pudnet_bench.harness.measuring.clock import Clock
from tests.benchmarks.setting import Setting


@dataclass(frozen=True)
class Ratio:
    """The median over `rounds` of the seconds of some work over the seconds of `against`, one pair a round.

    Attributes:
        name: What was measured.
        against: What it was measured against, or the limit in seconds that it is given.
        value: The ratio: of times, or of speeds where `more_is_better`.
        seconds: The median time of the work.
        against_seconds: The median time of the other side, or the limit.
        rounds: The number of pairs.
        goal: The largest value that is accepted, or the smallest where `more_is_better`; None where there is no goal.
        more_is_better: Whether `value` is a ratio of speeds.
    """

    name: str
    against: str
    value: float
    seconds: float
    against_seconds: float
    rounds: int
    goal: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    def __str__(self) -> str:
        unit = "speed" if self.more_is_better else "time"
        times = f"{self.seconds:.3g} s against {self.against_seconds:.3g} s"
        return f"{self.name}: {self.value:.3g} times the {unit} of {self.against} ({times}); goal: {self.goal}"


def limited(name: str, seconds: float, limit: float, rounds: int) -> Ratio:
    """Seconds against a limit that they must not exceed."""
    return Ratio(name, "its limit", seconds / limit, seconds, limit, rounds, goal=1.0)


@dataclass(frozen=True)
class Comparison:
    """Compares two pieces of work through the `benchmark` fixture of one test; `record` receives the ratio."""

    benchmark: Any
    setting: Setting
    record: Callable[[Ratio], None]

    def __call__(
        self,
        name: str,
        work: Callable[[], Any],
        against: str,
        other: Callable[[], Any],
        *,
        rounds: int = 7,
        goal: float | None = None,
        inverse: bool = False,
    ) -> Ratio | None:
        """Time `work` and `other` in turns, after each has run once to warm up.

        Args:
            name: What `work` is.
            work: What pytest-benchmark times; on CUDA until the device is idle.
            against: What `other` is.
            other: What runs before each round of `work`, timed by the host's clock too.
            rounds: Pairs, unless the command line asks for another number.
            goal: See `Ratio`.
            inverse: Make it a ratio of speeds, where more is better.

        Returns:
            The ratio; None where pytest-benchmark is off and each side only ran once.
        """
        device = self.setting.compute.device
        clock, theirs = Clock(device), list[float]()

        def time_other() -> None:
            clock.start()
            other()
            theirs.append(clock.stop().wall_seconds)

        def finish_work() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        rounds = self.setting.turns(rounds)
        self.benchmark.pedantic(finish_work, setup=time_other, rounds=rounds, warmup_rounds=1)
        if not self.benchmark.enabled:
            return None
        ours = self.benchmark.stats.stats.data
        pairs = list(zip(ours, theirs[1:], strict=True))  # the first one warmed up
        value = median(their / our if inverse else our / their for our, their in pairs)
        ratio = Ratio(name, against, value, median(ours), median(theirs[1:]), rounds, goal, inverse)
        self.record(ratio)
        return ratio
