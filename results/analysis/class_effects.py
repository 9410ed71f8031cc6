"""Class-effects model: what a mean over groups says of new classes, from groups that share classes and trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Effects:
    """One family of random effects: `loadings` [n, levels], of which row i adds `loadings[i] @ effects` to value i."""

    name: str
    loadings: csr_array


@dataclass(frozen=True, kw_only=True)
class Fit:
    """REML estimates: `variances` by name of effect, "residual" last; `covariance` of them [k, k], zero where a variance is 0."""

    variances: dict[str, float]
    covariance: Array


def fit(values: Array, effects: Sequence[Effects], rounds: int = 200) -> Fit:
    """Variance components of values [n] = mean + effects + residual, by REML with no variance below 0.

    Fisher scoring in the form of iterated MINQUE: each round solves for the variances whose quadratic forms are as expected
    under the last ones (Searle, Casella and McCulloch, Variance Components, 1992, chapters 6 and 11), and goes as far
    towards them as the likelihood rises: a whole step may overshoot, and cycle.
    """
    names = [effect.name for effect in effects] + ["residual"]
    deviations = values - values.mean()
    total = float(deviations @ deviations) / max(1, values.size - 1)
    if total <= 1e-20 * max(1.0, float(values @ values) / values.size):
        return Fit(variances=dict.fromkeys(names, 0.0), covariance=np.zeros((len(names), len(names))))
    sums = _Sums.of(deviations / math.sqrt(total), effects)
    variances = np.full(len(names), 1 / len(names))
    quadratic, information, likelihood = sums.forms(variances)
    for _ in range(rounds):
        step = _nonnegative(quadratic, information) - variances
        step[-1] = max(step[-1], 1e-6 - variances[-1])  # the forms divide by the residual's
        while np.abs(step).max() >= 1e-6:
            quadratic, information, risen = sums.forms(variances + step)
            if risen >= likelihood:
                break
            step /= 2
        else:
            break
        variances, likelihood = variances + step, risen
    _, information, _ = sums.forms(variances)
    free = variances > 1e-9
    covariance = np.zeros_like(information)
    covariance[np.ix_(free, free)] = 2 * np.linalg.pinv(information[np.ix_(free, free)])
    return Fit(variances=dict(zip(names, (total * variances).tolist(), strict=True)), covariance=total**2 * covariance)


def _nonnegative(quadratic: Array, information: Array) -> Array:
    """The variances t >= 0 that minimise t' F t / 2 - q' t: where those that are 0 would only raise it (Kuhn and Tucker)."""
    slack = 1e-9 * np.abs(quadratic).max()
    for size in range(quadratic.size, 0, -1):
        for chosen in map(list, combinations(range(quadratic.size), size)):
            found = np.zeros_like(quadratic)
            found[chosen] = np.linalg.lstsq(information[chosen][:, chosen], quadratic[chosen])[0]
            if found.min() >= 0 and (information @ found - quadratic).min() >= -slack:
                return found
    return np.zeros_like(quadratic)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sufficient statistics of values y, so that no round touches n numbers.

    One effect, of which every value has one level, is set apart: with loadings T its T'T is diagonal, so that nothing takes
    the square of its number of levels t. X = [Z 1 y] has the loadings Z of the others side by side.
    """

    n: int
    apart: int  # the number of that effect, -1 for none
    counts: Array  # values of each of its levels [t]
    crossed: Array  # X'X [q + 2, q + 2]
    cross: Array  # T'X [t, q + 2]
    owner: NDArray[np.intp]  # effect of each column of Z [q]
    effects: int

    @classmethod
    def of(cls, values: Array, effects: Sequence[Effects]) -> _Sums:
        from scipy.sparse import csr_array, hstack

        simple = {k: each.loadings.shape[1] for k, each in enumerate(effects) if np.all(each.loadings.data == 1)}
        apart = max(simple, key=lambda k: simple[k], default=-1)
        rest = [k for k in range(len(effects)) if k != apart]
        pair = csr_array(np.column_stack([np.ones_like(values), values]))
        x = csr_array(hstack([*(effects[k].loadings for k in rest), pair]))
        t = effects[apart].loadings if apart >= 0 else csr_array((values.size, 0))
        return cls(
            n=values.size,
            apart=apart,
            counts=t.sum(0),
            crossed=(x.T @ x).toarray(),
            cross=(t.T @ x).toarray(),
            owner=np.repeat(rest, [effects[k].loadings.shape[1] for k in rest]).astype(np.intp),
            effects=len(effects),
        )

    def forms(self, variances: Array) -> tuple[Array, Array, float]:
        """y'P G_k P y [k], tr(P G_k P G_l) [k, k] and the restricted log-likelihood but for a constant, at these variances.

        P projects the mean out of V^-1: P = A^-1 - A^-1 U K U' A^-1 with U = [Z 1] and A the covariance of the effect that is
        set apart and the residual (Woodbury's identity). The residual's forms follow from those of the effects by P V P = P.
        """
        residual, own = variances[-1], variances[self.apart] if self.apart >= 0 else 0.0
        weights, u = 1 / (residual + own * self.counts), self.owner.size + 1
        inverse = (self.crossed - self.cross.T @ (own * weights[:, None] * self.cross)) / residual  # X' A^-1 X
        left = weights[:, None] * self.cross  # T' A^-1 X
        root = np.append(np.sqrt(variances[self.owner]), 1.0)
        inner = root[:, None] * inverse[:u, :u] * root + np.diag(np.append(np.ones(u - 1), 0.0))
        k = root[:, None] * np.linalg.solve(inner, np.diag(root))
        projected = inverse - inverse[:, :u] @ k @ inverse[:u]  # X' P X
        beside = left - left[:, :u] @ k @ inverse[:u]  # T' P X
        squares, trace = self._apart(weights * self.counts, left[:, :u], k)
        determinant = (self.n - weights.size) * math.log(residual) - np.log(weights).sum()  # of A
        likelihood = -float(determinant + np.linalg.slogdet(inner)[1] + projected[-1, -1]) / 2
        return *self._collect(projected, beside, squares, trace, variances), likelihood

    @staticmethod
    def _apart(plain: Array, left: Array, k: Array) -> tuple[float, float]:
        """The sum of squares and the trace of T'PT, whose diagonal is `plain` [t] less that of left K left'."""
        lost = (left @ k * left).sum(1)
        both = k @ (left.T @ left)
        return float(plain @ plain - 2 * plain @ lost + (both * both.T).sum()), float((plain - lost).sum())

    def _collect(
        self, projected: Array, beside: Array, squares: float, trace_apart: float, variances: Array
    ) -> tuple[Array, Array]:
        size, k, residual = self.owner.size, self.effects, variances[-1]
        member = (self.owner[:, None] == np.arange(k)).astype(np.float64)  # [q, k]
        quadratic, information = np.empty(k + 1), np.empty((k + 1, k + 1))
        quadratic[:k] = projected[:size, -1] ** 2 @ member
        information[:k, :k] = member.T @ projected[:size, :size] ** 2 @ member
        traces = np.diag(projected)[:size] @ member
        if self.apart >= 0:
            quadratic[self.apart] = beside[:, -1] @ beside[:, -1]
            information[self.apart, :k] = information[:k, self.apart] = (beside[:, :size] ** 2).sum(0) @ member
            information[self.apart, self.apart], traces[self.apart] = squares, trace_apart
        quadratic[k] = (projected[-1, -1] - variances[:k] @ quadratic[:k]) / residual
        information[k, :k] = information[:k, k] = (traces - variances[:k] @ information[:k, :k]) / residual
        trace = (self.n - 1 - variances[:k] @ traces) / residual
        information[k, k] = (trace - variances[:k] @ information[:k, k]) / residual
        return quadratic, information


@dataclass(frozen=True, kw_only=True)
class Groups:
    """What the model knows of n groups: class-split seed [n], training seed [n], the sorted class ids of each (or ())."""

    split: NDArray[np.int64]
    seed: NDArray[np.int64]
    tuples: Sequence[tuple[int, ...]]

    @property
    def weights(self) -> Array:
        """What each group has in the mean [n]: every split has the same, shared evenly by its groups."""
        splits, where, counts = np.unique(self.split, return_inverse=True, return_counts=True)
        return np.asarray(1 / (splits.size * counts[where]))

    def effects(self) -> list[Effects]:
        """The effects that the groups can tell apart.

        "class" where class ids are known; "tuple" where tuples repeat and are more than the classes; "split" with several
        splits, which is that of their trainings too as long as each has one; "training" where a split has several.
        """
        found = []
        classes, of_class = np.unique(np.array([each for one in self.tuples for each in one], int), return_inverse=True)
        if classes.size:
            found.append(_effects("class", of_class, np.array([len(one) for one in self.tuples])))
        numbers: dict[tuple[int, ...], int] = {}
        of_tuple = np.array([numbers.setdefault(one, len(numbers)) for one in self.tuples], int)
        if 0 < classes.size < len(numbers) <= of_tuple.size / 2:
            found.append(_effects("tuple", of_tuple))
        splits, of_split = np.unique(self.split, return_inverse=True)
        seeds, of_seed = np.unique(self.seed, return_inverse=True)
        trainings, of_training = np.unique(of_split * seeds.size + of_seed, return_inverse=True)
        if splits.size > 1:
            found.append(_effects("split", of_split))
        if trainings.size > splits.size:
            found.append(_effects("training", of_training))
        return found

    def shares(self, effects: Sequence[Effects]) -> Array:
        """Variance of the mean per unit of each effect's variance, the residual's last [k].

        Splits are independent draws from the source's classes: a class adds to the mean's variance once for each split that
        has it, as new ones would. That one class in two splits is the same only counts for the estimated variances.
        """
        weights = self.weights
        by_split = (np.unique(self.split)[:, None] == self.split) * weights  # [splits, n]
        return np.array([*(((by_split @ effect.loadings) ** 2).sum() for effect in effects), weights @ weights])


def _effects(name: str, levels: NDArray[np.intp], sizes: NDArray[np.intp] | None = None) -> Effects:
    """Effects of which a row has the mean of `sizes` [n] levels (one unless given), whose numbers follow each other."""
    from scipy.sparse import csr_array

    sizes = np.ones(levels.size, int) if sizes is None else sizes
    ends = np.concatenate([[0], np.cumsum(sizes)])
    shape = (sizes.size, int(levels.max()) + 1)
    return Effects(name=name, loadings=csr_array((np.repeat(1 / sizes, sizes), levels, ends), shape=shape))


def standard_error(values: Array, groups: Groups) -> tuple[float, float]:
    """Standard error of the mean of split means [n values] for new classes and trainings, and its degrees of freedom.

    Satterthwaite's degrees of freedom from REML's information matrix, but at least 1, at most the classes less one, and at
    most 2 where an effect has two levels only: REML then often takes its variance for 0. Simulated on images and on Gaussian
    effects, nominal 95% intervals cover 93 to 98.5%; more where no class differs from another, and with two splits.
    """
    effects = groups.effects()
    found = fit(values, effects)
    shares = groups.shares(effects)
    variance = float(shares @ np.array(list(found.variances.values())))
    spread = float(shares @ found.covariance @ shares)
    df = 2 * variance**2 / spread if spread > 0 else math.inf
    most = 2.0 if any(effect.loadings.shape[1] == 2 for effect in effects) else effects[0].loadings.shape[1] - 1.0
    return math.sqrt(variance), max(1.0, min(df, most))
