"""SciPy's t interval of a mean, as a reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class MeanCI(NamedTuple):
    """A mean, and the half width of its 95% interval."""

    mean: float
    half_width: float


def mean_ci(values: ArrayLike) -> MeanCI:
    """Mean and t interval of values [n], n >= 2."""
    array = np.asarray(values, dtype=np.float64)
    return MeanCI(float(array.mean()), float(stats.t.ppf(0.975, array.size - 1) * stats.sem(array)))
