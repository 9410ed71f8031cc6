"""Canonical correlations against plain linear algebra, their shuffled and held-out controls, and Figure 1."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pudnet_bench.results.analysis.correlation import COLUMNS, correlation_table


def planted(seed: int, n: int, p: int, q: int, strength: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """x [n, p] and y [n, q] share two hidden directions; the rest is noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2)) * [strength, strength / 2]
    x = hidden @ rng.normal(size=(2, p)) + rng.normal(size=(n, p))
    y = hidden @ rng.normal(size=(2, q)) + rng.normal(size=(n, q))
    return x, y


def reference(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """Singular values of Qx' Qy, with Q an orthonormal basis of the first principal components' scores."""
    bases = []
    for side in (x, y):
        left, values, _ = np.linalg.svd(
            side.astype(np.float64) - side.mean(axis=0, dtype=np.float64), full_matrices=False
        )
        bases.append(np.linalg.qr(left[:, :components] * values[:components])[0])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def learned(x: np.ndarray, y: np.ndarray, components: int, column: str = "learned", seed: int = 0) -> np.ndarray:
    return correlation_table(x, y, components, shuffles=1, seed=seed)[column].to_numpy()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return correlation_table(*planted(0, 200, 12, 40), components=4, shuffles=40, seed=1)


@pytest.fixture(scope="module")
def unrelated() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return correlation_table(rng.normal(size=(200, 12)), rng.normal(size=(200, 40)), 4, shuffles=40, seed=1)


@pytest.mark.parametrize(
    ("n", "p", "q", "components"),
    [(90, 7, 30, 3), (60, 200, 300, 5), (230, 250, 4500, 4), (80, 5, 5, 5)],
    ids=["narrow", "more columns than rows", "iterative PCA and several blocks", "every direction"],
)
def test_equals_an_independent_computation(n: int, p: int, q: int, components: int) -> None:
    x, y = planted(1, n, p, q)
    found = learned(x, y, components)
    assert found.shape == (components,)
    assert found == pytest.approx(reference(x, y, components), abs=1e-4)
    assert (np.diff(found) <= 0).all()
    assert found[0] > 0.7


def test_single_precision_is_computed_in_double_precision() -> None:
    x, y = (side.astype(np.float32) + 1000 for side in planted(2, 80, 10, 200))
    assert learned(x, y, 3) == pytest.approx(reference(x, y, 3), abs=1e-4)


def test_linearly_related_data_correlate_perfectly() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5))
    y = x @ rng.normal(size=(5, 30))  # five directions, all of them kept
    assert learned(x, y, 5) == pytest.approx(np.ones(5), abs=1e-9)
    assert learned(x, y, 5, "learned_held_out") == pytest.approx(np.ones(5), abs=1e-9)


def test_order_of_samples_signs_scales_and_offsets_do_not_matter() -> None:
    x, y = planted(4, 100, 8, 20)
    expected = learned(x, y, 3)
    order = np.random.default_rng(0).permutation(100)
    for other_x, other_y in (
        (x[order], y[order]),
        (-x, y),
        (x * 1e-3, y * 50),
        (x + 7, y - 3),
        (x[:, ::-1], y),
        (y, x),
    ):
        assert learned(other_x, other_y, 3) == pytest.approx(expected, abs=1e-5)


def test_the_seed_of_the_iterative_pca_changes_nothing() -> None:
    x, y = planted(5, 230, 210, 300)
    assert learned(x, y, 4, seed=0) == pytest.approx(learned(x, y, 4, seed=9), abs=1e-6)


def test_held_out_equals_refitting_on_the_raw_columns_of_each_fold() -> None:
    x, y = planted(6, 70, 6, 150)
    expected = []
    for test in np.array_split(np.random.default_rng(2).permutation(70), 5):
        fit = np.setdiff1d(np.arange(70), test)
        scores = []
        for side in (x, y):
            mean = side[fit].mean(axis=0)
            left, values, axes = np.linalg.svd(side[fit] - mean, full_matrices=False)
            basis = left[:, :3]
            scores.append((basis, (side[test] - mean) @ axes[:3].T / values[:3]))
        turn_x, _, turn_y = np.linalg.svd(scores[0][0].T @ scores[1][0])
        first, second = scores[0][1] @ turn_x, scores[1][1] @ turn_y.T
        expected.append([np.corrcoef(first[:, k], second[:, k])[0, 1] for k in range(3)])
    assert learned(x, y, 3, "learned_held_out", seed=2) == pytest.approx(np.mean(expected, axis=0), abs=1e-3)


def test_related_data_stand_out_of_the_shuffled_ones(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert table["pair"].tolist() == [1, 2, 3, 4]
    assert table["n"].tolist() == [200] * 4
    x, y = planted(0, 200, 12, 40)
    assert table["learned"].to_numpy() == pytest.approx(reference(x, y, 4), abs=1e-4)
    assert (table["random_low"] < table["random_mean"]).all()
    assert (table["random_mean"] < table["random_high"]).all()
    first = table.iloc[0]
    assert first["learned"] > first["random_high"] + 0.3
    assert first["learned_held_out"] > first["random_held_out_high"] + 0.3


def test_unrelated_data_look_like_the_shuffled_ones(unrelated: pd.DataFrame) -> None:
    assert unrelated["learned_held_out"].abs().max() < 0.2
    assert unrelated["random_held_out_mean"].abs().max() < 0.05
    assert unrelated["learned"].iloc[0] > 0.15  # in sample, chance alone looks like a correlation
    assert unrelated["learned"].iloc[0] == pytest.approx(unrelated["random_mean"].iloc[0], abs=0.1)
    assert unrelated["random_low"].iloc[0] <= unrelated["learned"].iloc[0] <= unrelated["random_high"].iloc[0]


def test_the_table_is_the_same_for_the_same_seed(table: pd.DataFrame) -> None:
    x, y = planted(0, 200, 12, 40)
    pd.testing.assert_frame_equal(table, correlation_table(x, y, 4, shuffles=40, seed=1))
    assert not table.equals(correlation_table(x, y, 4, shuffles=40, seed=2))


def test_what_cannot_be_computed_is_refused() -> None:
    x, y = planted(7, 40, 8, 9)
    with pytest.raises(ValueError, match="same number of rows"):
        learned(x, y[:-1], 2)
    with pytest.raises(ValueError, match=r"3 components need more than 6 samples to fit, not 6"):
        learned(x[:8], y[:8], 3)  # 8 > 6, but a fold is left out
    learned(x[:17], y[:17], 6)
    with pytest.raises(ValueError, match="samples to fit, not 16"):
        learned(x[:20], y[:20], 8)
    with pytest.raises(ValueError, match="3 samples in each"):
        learned(x[:14], y[:14], 2)
    with pytest.raises(ValueError, match="components must be 1 to 8"):
        learned(x, y, 9)
    with pytest.raises(ValueError, match="components must be"):
        learned(x, y, 0)
    with pytest.raises(ValueError, match="at least one shuffle"):
        correlation_table(x, y, 2, shuffles=0, seed=0)
    with pytest.raises(ValueError, match="y has values that are not finite"):
        learned(x, np.where(y == y.max(), np.nan, y), 2)
    with pytest.raises(ValueError, match="fewer than 3 directions"):
        learned(x, y[:, :2] @ np.ones((2, 9)), 3)
