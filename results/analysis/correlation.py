"""Figure 1: canonical correlation between data sets' representations and the parameters of networks trained on them.

The representations x [n, p] and the parameters y [n, q] are reduced by PCA, then scikit-learn's CCA pairs them. With few
samples canonical correlations are large by chance, so there are two controls: the same numbers with the rows of y
shuffled, and the correlation on samples that neither PCA nor CCA was fitted to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "pair",
    "learned",
    "learned_held_out",
    "random_mean",
    "random_low",
    "random_high",
    "random_held_out_mean",
    "random_held_out_low",
    "random_held_out_high",
    "n",
)
FOLDS = 5


def canonical_correlations(x: np.ndarray, y: np.ndarray, components: int, seed: int = 0) -> np.ndarray:
    """Canonical correlations [components] of x [n, p] and y [n, q] in decreasing order, on the samples CCA was fitted to.

    Each side is centred and reduced to its first `components` principal components. `seed` starts the iterative PCA
    and changes nothing beyond rounding. Raises ValueError for n <= 2 * components, for different numbers of rows, for
    values that are not finite, and for a side that varies in fewer than `components` directions.
    """
    _check(x, y, components)
    return _in_sample(*(_scores(_coordinates(side), components, seed) for side in (x, y)))


def held_out_correlations(
    x: np.ndarray, y: np.ndarray, components: int, seed: int = 0, folds: int = FOLDS
) -> np.ndarray:
    """Correlations [components] of the canonical scores of x [n, p] and y [n, q] on held-out samples, mean over folds.

    PCA and CCA are fitted on the other folds, which `seed` draws. A value may be negative, as
    nothing was fitted to the held-out samples. Pairs are in the order of the fit. Raises ValueError as `canonical_correlations`
    does, with n the samples left for fitting, and for folds of fewer than 3 samples.
    """
    _check(x, y, components, folds)
    x, y = _coordinates(x), _coordinates(y)
    return _HeldOut(y, components, seed, folds)(x)


def correlation_table(x: np.ndarray, y: np.ndarray, components: int, shuffles: int, seed: int) -> pd.DataFrame:
    """Learned against random for each canonical pair of x [n, p] and y [n, q]; columns `COLUMNS`, pairs from 1.

    "Random" permutes the rows of y against x, `shuffles` times: mean and central 95% range over the permutations, on
    the samples CCA was fitted to and held out (5 folds, the same for learned and random). Raises ValueError as
    `held_out_correlations` does and for `shuffles` < 1.
    """
    import pandas as pd

    if shuffles < 1:
        raise ValueError(f"the random control needs at least one shuffle, not {shuffles}")
    _check(x, y, components, FOLDS)
    x, y = _coordinates(x), _coordinates(y)
    x_scores, y_scores = (_scores(side, components, seed) for side in (x, y))
    held_out = _HeldOut(y, components, seed, FOLDS)
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(y)) for _ in range(shuffles)]
    # Shuffling x against y is shuffling y against x, and the PCA of images is the faster one to repeat: its spectrum is
    # steep. In sample nothing is repeated, as a permutation of all rows does not change their PCA.
    random = np.array([_in_sample(x_scores[order], y_scores) for order in orders])
    random_held_out = np.array([held_out(x[order]) for order in orders])
    columns = (
        np.arange(1, components + 1),
        _in_sample(x_scores, y_scores),
        held_out(x),
        random.mean(axis=0),
        *np.quantile(random, (0.025, 0.975), axis=0),
        random_held_out.mean(axis=0),
        *np.quantile(random_held_out, (0.025, 0.975), axis=0),
        np.full(components, len(y)),
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


def _check(x: np.ndarray, y: np.ndarray, components: int, folds: int = 0) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x and y need two axes and the same number of rows, not {x.shape} and {y.shape}")
    if not 1 <= components <= min(x.shape[1], y.shape[1]):
        raise ValueError(
            f"components must be 1 to {min(x.shape[1], y.shape[1])} (columns of x and y), not {components}"
        )
    smallest = len(x) // folds if folds else 0
    fitted = len(x) - (-(-len(x) // folds) if folds else 0)  # without the largest fold
    if fitted <= 2 * components:
        raise ValueError(f"{components} components need more than {2 * components} samples to fit, not {fitted}")
    if folds and (folds < 2 or smallest < 3):
        raise ValueError(f"{folds} folds of {len(x)} samples: needs at least 2 folds and 3 samples in each")
    for name, side in (("x", x), ("y", y)):
        if not np.isfinite(side).all():
            raise ValueError(f"{name} has values that are not finite")


def _coordinates(values: np.ndarray) -> np.ndarray:
    """The centred rows of values [n, p] as float64 [n, min(n, p)], turned so that no more than n axes are needed.

    Distances stay the same, and so do the PCA scores of any subset of the rows, at a fraction of the cost for p >> n.
    """
    n, width = values.shape
    if width <= n:
        centred: np.ndarray = values.astype(np.float64)
        centred -= centred.mean(axis=0)
        return centred
    triangle: Any = np.zeros((0, n))
    for start in range(0, width, 4096):  # in blocks, so that the float64 copy of 1000 x 76,000 never exists
        block = values[:, start : start + 4096].astype(np.float64)
        triangle = np.linalg.qr(np.vstack([triangle, (block - block.mean(axis=0)).T]), mode="r")
    components: np.ndarray = triangle.T
    return components


def _pca(values: np.ndarray, components: int, seed: int) -> Any:
    from sklearn.decomposition import PCA

    # ARPACK is as exact as the full decomposition. The randomized solver is not where the spectrum is flat.
    iterative = components < min(values.shape) and min(values.shape) > 200
    pca = PCA(components, svd_solver="arpack" if iterative else "full", random_state=seed).fit(values)
    if pca.explained_variance_[-1] <= 1e-12 * pca.explained_variance_[0]:
        raise ValueError(f"the samples vary in fewer than {components} directions; ask for fewer components")
    return pca


def _scores(values: np.ndarray, components: int, seed: int) -> np.ndarray:
    scores: np.ndarray = _pca(values, components, seed).transform(values)
    return scores


def _cca(x: np.ndarray, y: np.ndarray) -> Any:
    import warnings

    from sklearn.cross_decomposition import CCA
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Slow only where two correlations are nearly equal: then the pairs are not determined, but the values are.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return CCA(x.shape[1], max_iter=10_000, tol=1e-10).fit(x, y)


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation [k] of the columns of first [n, k] with those of second [n, k]."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    clipped: np.ndarray = np.clip((first * second).sum(axis=0) / norms, -1.0, 1.0)
    return clipped


def _in_sample(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sort(_correlations(*_cca(x, y).transform(x, y)))[::-1]


class _HeldOut:
    """Held-out correlations of a fixed y with any x: the folds and the PCA of y are the same for every shuffle of x."""

    def __init__(self, y: np.ndarray, components: int, seed: int, folds: int) -> None:
        self.components, self.seed = components, seed
        self.folds = []
        for test in np.array_split(np.random.default_rng(seed).permutation(len(y)), folds):
            fit = np.setdiff1d(np.arange(len(y)), test)
            pca = _pca(y[fit], components, seed)
            self.folds.append((fit, test, pca.transform(y[fit]), pca.transform(y[test])))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        correlations = []
        for fit, test, y_fit, y_test in self.folds:
            pca = _pca(x[fit], self.components, self.seed)
            cca = _cca(pca.transform(x[fit]), y_fit)
            correlations.append(_correlations(*cca.transform(pca.transform(x[test]), y_test)))
        mean: np.ndarray = np.mean(correlations, axis=0)
        return mean
