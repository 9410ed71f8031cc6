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
    "pair", "learned", "learned_held_out", "random_mean", "random_low", "random_high", "random_held_out_mean",
    "random_held_out_low", "random_held_out_high", "n",
)  # fmt: skip
FOLDS = 5


def correlation_table(x: np.ndarray, y: np.ndarray, components: int, shuffles: int, seed: int) -> pd.DataFrame:
    """Learned against random for each canonical pair of x [n, p] and y [n, q]; columns `COLUMNS`, pairs from 1.

    Each side is centred and reduced to its first `components` principal components. "Learned" is in decreasing order, on
    the samples CCA was fitted to. Held out, PCA and CCA are fitted on the other folds, which `seed` draws: the mean over
    folds, in the order of the fit, negative at times. "Random" permutes the rows of y against x, `shuffles` times: mean
    and central 95% range. `seed` also starts the iterative PCA, which changes nothing beyond rounding.

    Raises:
        ValueError: For no shuffle, different numbers of rows, values that are not finite, at most 2 * components samples
            to fit, folds of fewer than 3 samples, and a side that varies in fewer than `components` directions.
    """
    import pandas as pd

    if shuffles < 1:
        raise ValueError(f"the random control needs at least one shuffle, not {shuffles}")
    _check(x, y, components)
    x, y = _coordinates(x), _coordinates(y)
    x_scores, y_scores = (_pca(side, components, seed).transform(side) for side in (x, y))
    folds = []  # the PCA of y is the same for every shuffle of x
    for test in np.array_split(np.random.default_rng(seed).permutation(len(y)), FOLDS):
        fit = np.setdiff1d(np.arange(len(y)), test)
        pca = _pca(y[fit], components, seed)
        folds.append((fit, test, pca.transform(y[fit]), pca.transform(y[test])))

    def held_out(x: np.ndarray) -> np.ndarray:
        correlations = []
        for fit, test, y_fit, y_test in folds:
            pca = _pca(x[fit], components, seed)
            cca = _cca(pca.transform(x[fit]), y_fit)
            correlations.append(_correlations(*cca.transform(pca.transform(x[test]), y_test)))
        return np.asarray(np.mean(correlations, axis=0))

    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(y)) for _ in range(shuffles)]
    # Shuffling x against y is shuffling y against x, and the PCA of images is the faster one to repeat: its spectrum is
    # steep. In sample nothing is repeated, as a permutation of all rows does not change their PCA.
    random = np.array([_in_sample(x_scores[order], y_scores) for order in orders])
    random_held_out = np.array([held_out(x[order]) for order in orders])
    columns = [np.arange(1, components + 1), _in_sample(x_scores, y_scores), held_out(x)]
    for control in (random, random_held_out):
        columns += [control.mean(axis=0), *np.quantile(control, (0.025, 0.975), axis=0)]
    return pd.DataFrame(dict(zip(COLUMNS, [*columns, np.full(components, len(y))], strict=True)))


def _check(x: np.ndarray, y: np.ndarray, components: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"x and y need two axes and the same number of rows, not {x.shape} and {y.shape}")
    most = min(x.shape[1], y.shape[1])
    if not 1 <= components <= most:
        raise ValueError(f"components must be 1 to {most} (columns of x and y), not {components}")
    fitted = len(x) - -(-len(x) // FOLDS)  # without the largest fold
    if fitted <= 2 * components:
        raise ValueError(f"{components} components need more than {2 * components} samples to fit, not {fitted}")
    if len(x) // FOLDS < 3:
        raise ValueError(f"{FOLDS} folds of {len(x)} samples: needs at least 3 samples in each")
    for name, side in (("x", x), ("y", y)):
        if not np.isfinite(side).all():
            raise ValueError(f"{name} has values that are not finite")


def _coordinates(values: np.ndarray) -> np.ndarray:
    """The centred rows of values [n, p] as float64 [n, min(n, p)], turned so that no more than n axes are needed.

    Distances stay the same, and so do the PCA scores of any subset of the rows, at a fraction of the cost for p >> n.
    """
    n, width = values.shape
    if width <= n:
        centred = values.astype(np.float64)
        return np.asarray(centred - centred.mean(axis=0))
    triangle: Any = np.zeros((0, n))
    for start in range(0, width, 4096):  # in blocks, so that the float64 copy of 1000 x 76,000 never exists
        block = values[:, start : start + 4096].astype(np.float64)
        triangle = np.linalg.qr(np.vstack([triangle, (block - block.mean(axis=0)).T]), mode="r")
    return np.asarray(triangle.T)


def _pca(values: np.ndarray, components: int, seed: int) -> Any:
    from sklearn.decomposition import PCA

    # ARPACK is as exact as the full decomposition. The randomized solver is not where the spectrum is flat.
    iterative = components < min(values.shape) and min(values.shape) > 200
    pca = PCA(components, svd_solver="arpack" if iterative else "full", random_state=seed).fit(values)
    if pca.explained_variance_[-1] <= 1e-12 * pca.explained_variance_[0]:
        raise ValueError(f"the samples vary in fewer than {components} directions; ask for fewer components")
    return pca


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
    return np.asarray(np.clip((first * second).sum(axis=0) / norms, -1.0, 1.0))


def _in_sample(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sort(_correlations(*_cca(x, y).transform(x, y)))[::-1]
