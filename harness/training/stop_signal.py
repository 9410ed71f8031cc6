"""Deferred stop requests: a signal takes effect between two steps, after a checkpoint, and not in the middle of one."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Whether the process was asked to stop by the signal `number`; without one, never.

    Slurm sends a signal before it pre-empts a job or its time is over; submitit's handler then requeues the job and ends
    the process at once, whatever it is doing. Here that handler is deferred to `exit_if_requested`.
    """

    def __init__(self, number: signal.Signals | None = None) -> None:
        self.number, self.requested = number or 0, False
        if number is not None:
            self.handler = signal.signal(number, self._request)

    def exit_if_requested(self) -> None:
        """End the process if it was asked to stop; call it when everything worth keeping is saved."""
        if self.requested and callable(self.handler):
            self.handler(self.number, None)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
