"""A job: the unit in which a plan is performed, here or on a node. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Run the meta-training `training` of a cell, or measure its groups from `first` up to `end`.

    Attributes:
        cell: Key of a cell of the plan, or of the base of one.
        needs: Keys of the trainings that must have finished.
    """

    cell: str
    training: str = ""
    first: int = 0
    end: int = 0
    needs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """A name for logs and files."""
        return f"train-{self.training}" if self.training else f"{self.cell}.{self.first}-{self.end - 1}"
