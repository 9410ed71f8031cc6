"""A job: one piece that a plan is worked off in. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Meta-train what ``cell`` needs (``training`` is its key), or measure its groups from ``first`` up to ``end``.

    ``cell`` is the key of a cell of the plan, or of the cell of a method that one builds on. ``needs`` are the keys of the
    trainings that must be over.
    """

    cell: str
    training: str = ""
    first: int = 0
    end: int = 0
    needs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For people, and for names of files: what it works on."""
        return f"train-{self.training}" if self.training else f"{self.cell}.{self.first}-{self.end - 1}"


def cells_behind(jobs: Sequence[Job]) -> int:
    """How many cells the jobs measure."""
    return len({job.cell for job in jobs if not job.training})
