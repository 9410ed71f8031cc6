"""Pareto front of cost against value."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) pairs that no other dominates, in order of cost.

    A pair is dominated by one that costs at most as much with at least the value, and is better in one of the two.
    Equal pairs are all on the front or all off it.
    """
    front: list[int] = []
    highest = -math.inf
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        value = points[index][1]
        if value > highest or (front and points[front[-1]] == points[index]):
            front.append(index)
            highest = value
    return front
