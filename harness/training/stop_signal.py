"""Deferred stop requests: a signal takes effect between two steps, after a checkpoint, and not in the middle of one."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Whether the process has been asked to stop; by itself, never."""

    requested: bool = False

    def exit_if_requested(self) -> None:
        """End the process if it was asked to stop; call it when everything worth keeping is saved."""


class ProcessStopSignal(StopSignal):
    """A stop request by the signal `number`, whose existing handler is deferred to `exit_if_requested`.

    Slurm sends a signal before it pre-empts a job or its time is over; submitit's handler then requeues the job and ends
    the process at once, whatever it is doing.
    """

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.handler = signal.getsignal(number)
        signal.signal(number, self._request)

    def exit_if_requested(self) -> None:
        if self.requested and callable(self.handler):
            self.handler(self.number, None)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
