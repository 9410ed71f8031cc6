"""A wish to stop that is heard between two groups, where everything is saved, and not in the middle of a step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignal:
    """``requested`` says that the process was asked to stop; ``exit_if_requested`` does it, once what must be kept is kept."""

    requested: bool = False

    def exit_if_requested(self) -> None:
        """Stop now, if that is wanted."""


class ProcessStopSignal(StopSignal):
    """Asked to stop by ``number``, a signal that has a handler already: it is held back until ``exit_if_requested``.

    Slurm warns a job by a signal before it pre-empts it or its time is over, and submitit's handler requeues the job and
    ends the process at once, in the middle of whatever it does.
    """

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.before: Callable[[int, FrameType | None], Any] | int | None = signal.getsignal(number)
        signal.signal(number, self._heard)

    def exit_if_requested(self) -> None:
        if self.requested and callable(self.before):
            self.before(self.number, None)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
