"""Controls: methods that are denied what a claim rests on, and must do without it.

A control answers for a dataset from other datasets. The harness shows it those, outside the clock; everything else is the
contract of `methods.base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pudnet_bench.methods.base import Dataset, Method


class Control(Method):
    """A method that the harness shows other datasets beside the one it fits.

    Attributes:
        observed_groups: training groups that `observe` is given.
        other_source: whether `show_other` is given a group of another source, for families that have several.
    """

    observed_groups: ClassVar[int] = 20
    other_source: bool = False

    def observe(self, training: Iterator[Dataset]) -> None:
        """Take in the fit images of `observed_groups` training groups, once, before any unseen group."""

    def show_other(self, other: Dataset) -> None:
        """Take in the fit images of another unseen group, before each `fit`; no class of the fitted group is in it,
        as far as the family has enough classes."""
