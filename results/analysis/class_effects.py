"""Class-effects model: what a mean over groups says of new classes, from groups that share classes and trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Effects:
    """One family of random effects: `loadings` [n, levels], of which row i adds `loadings[i] @ effects` to value i."""

    name: str
    loadings: Array


@dataclass(frozen=True, kw_only=True)
class Fit:
    """REML estimates: `variances` by name of effect, "residual" last; `covariance` of them [k, k], zero where a variance is 0."""

    variances: dict[str, float]
    covariance: Array


def fit(values: Array, effects: Sequence[Effects], rounds: int = 50) -> Fit:
    """Variance components of values [n] = mean + effects + residual, by REML with no variance below 0.

    Fisher scoring in the form of iterated MINQUE: each round solves for the variances whose quadratic forms are as expected
    under the last ones (Searle, Casella and McCulloch, Variance Components, 1992, chapters 6 and 11).
    """
    names = [effect.name for effect in effects] + ["residual"]
    deviations = values - values.mean()
    total = float(deviations @ deviations) / max(1, values.size - 1)
    if total <= 1e-20 * max(1.0, float(values @ values) / values.size):
        return Fit(variances=dict.fromkeys(names, 0.0), covariance=np.zeros((len(names), len(names))))
    sums = _Sums.of(deviations / math.sqrt(total), effects)
    variances = np.full(len(names), 1 / len(names))
    for _ in range(rounds):
        before = variances
        quadratic, information = sums.forms(variances)
        variances = _nonnegative(quadratic, information)
        variances[-1] = max(variances[-1], 1e-6)  # the forms divide by the residual's
        if np.abs(variances - before).max() < 1e-6:
            break
    _, information = sums.forms(variances)
    free = variances > 1e-9
    covariance = np.zeros_like(information)
    covariance[np.ix_(free, free)] = 2 * np.linalg.pinv(information[np.ix_(free, free)])
    return Fit(variances=dict(zip(names, (total * variances).tolist(), strict=True)), covariance=total**2 * covariance)


def _nonnegative(quadratic: Array, information: Array) -> Array:
    """The variances t >= 0 that minimise t' F t / 2 - q' t."""
    from scipy.optimize import nnls

    scale = 1 / np.sqrt(np.diag(information))
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    root = np.sqrt(np.maximum(values, 1e-10))
    solution, _ = nnls((vectors * root).T, (vectors / root).T @ (scale * quadratic))
    return np.asarray(scale * solution)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sufficient statistics: with Z the loadings of all effects side by side and values y, no round touches n numbers."""

    n: int
    crossed: Array  # Z'Z [q, q]
    ones: Array  # Z'1 [q]
    cross: Array  # Z'y [q]
    corner: Array  # [1 y]'[1 y] [2, 2]
    owner: NDArray[np.intp]  # effect of each column [q]
    effects: int

    @classmethod
    def of(cls, values: Array, effects: Sequence[Effects]) -> _Sums:
        z = np.hstack([effect.loadings for effect in effects]) if effects else np.zeros((values.size, 0))
        owner = np.repeat(np.arange(len(effects)), [effect.loadings.shape[1] for effect in effects])
        pair = np.column_stack([np.ones_like(values), values])
        ones, cross = (z.T @ pair).T
        return cls(
            n=values.size,
            crossed=z.T @ z,
            ones=ones,
            cross=cross,
            corner=pair.T @ pair,
            owner=owner,
            effects=len(effects),
        )

    def forms(self, variances: Array) -> tuple[Array, Array]:
        """y'P G_k P y [k] and tr(P G_k P G_l) [k, k] at these variances; P projects the mean out of V^-1.

        V^-1 by Woodbury's identity. The residual's forms follow from those of the effects by P V P = P.
        """
        residual = variances[-1]
        root = np.sqrt(variances[self.owner])
        inner = np.eye(root.size) * residual + root[:, None] * self.crossed * root
        known = np.column_stack([self.crossed, self.ones, self.cross])  # Z'[Z 1 y]
        plain = np.vstack([known, np.block([known[:, -2:].T, self.corner])])
        scaled = root[:, None] * known
        full = (plain - scaled.T @ np.linalg.solve(inner, scaled)) / residual  # [Z 1 y]' V^-1 [Z 1 y]
        size = root.size
        projected = full - np.outer(full[:, size], full[size]) / full[size, size]  # [Z 1 y]' P [Z 1 y]
        return self._collect(projected, variances)

    def _collect(self, projected: Array, variances: Array) -> tuple[Array, Array]:
        size, k, residual = self.owner.size, self.effects, variances[-1]
        member = (self.owner[:, None] == np.arange(k)).astype(np.float64)  # [q, k]
        quadratic, information = np.empty(k + 1), np.empty((k + 1, k + 1))
        quadratic[:k] = projected[:size, -1] ** 2 @ member
        quadratic[k] = (projected[-1, -1] - variances[:k] @ quadratic[:k]) / residual
        information[:k, :k] = member.T @ projected[:size, :size] ** 2 @ member
        traces = np.diag(projected)[:size] @ member
        information[k, :k] = information[:k, k] = (traces - variances[:k] @ information[:k, :k]) / residual
        trace = (self.n - 1 - variances[:k] @ traces) / residual
        information[k, k] = (trace - variances[:k] @ information[:k, k]) / residual
        return quadratic, information


def standard_error(
    values: Array, split: NDArray[np.int64], seed: NDArray[np.int64], tuples: Sequence[tuple[int, ...]]
) -> tuple[float, float]:
    """Standard error of the mean of split means for new classes and trainings, and its degrees of freedom (Satterthwaite).

    Args:
        values: [n], one number for each group.
        split: [n], class-split seed.
        seed: [n], training seed.
        tuples: The sorted class ids of each group.
    """
    effects = effects_of(split, seed, tuples)
    found = fit(values, effects)
    splits, where, counts = np.unique(split, return_inverse=True, return_counts=True)
    weights = 1 / (splits.size * counts[where])
    squares = np.array([*(((weights @ effect.loadings) ** 2).sum() for effect in effects), (weights**2).sum()])
    variance = float(squares @ np.array(list(found.variances.values())))
    spread = float(squares @ found.covariance @ squares)
    df = 2 * variance**2 / spread if spread > 0 else values.size - 1.0
    return math.sqrt(variance), df


def effects_of(split: NDArray[np.int64], seed: NDArray[np.int64], tuples: Sequence[tuple[int, ...]]) -> list[Effects]:
    """The effects that such groups can tell apart: "class" always, "tuple" where they repeat, "training" from two on."""
    classes = sorted({each for one in tuples for each in one})
    column = {each: i for i, each in enumerate(classes)}
    loadings = np.zeros((len(tuples), len(classes)))
    for row, one in zip(loadings, tuples, strict=True):
        row[[column[each] for each in one]] = 1 / len(one)
    effects = [Effects(name="class", loadings=loadings)]
    distinct = {one: i for i, one in enumerate(sorted(set(tuples)))}
    if len(classes) < len(distinct) <= len(tuples) / 2:
        effects.append(Effects(name="tuple", loadings=np.eye(len(distinct))[[distinct[one] for one in tuples]]))
    trainings, which = np.unique(np.column_stack([split, seed]), axis=0, return_inverse=True)
    if len(trainings) > 1:
        effects.append(Effects(name="training", loadings=np.eye(len(trainings))[which.ravel()]))
    return effects
