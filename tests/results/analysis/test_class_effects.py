import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pudnet_bench.results.analysis.class_effects import Effects, Groups, fit, standard_error


def drawn(seed: int, splits: int, groups: int, unseen: int, classes: int, ways: int, deviations: tuple[float, ...]):
    """Groups of a simulated source, and values with effects of classes, tuples, splits and groups of these deviations."""
    rng = np.random.default_rng(seed)
    of_class, of_tuple, of_split = rng.normal(0, deviations[0], classes), {}, rng.normal(0, deviations[2], splits)
    tuples, split, values = [], np.repeat(np.arange(splits), groups), []
    for each in range(splits):
        there = rng.choice(classes, unseen, replace=False)
        for _ in range(groups):
            tuples.append(tuple(sorted(rng.choice(there, ways, replace=False).tolist())))
            own = of_tuple.setdefault(tuples[-1], rng.normal(0, deviations[1]))
            values.append(of_class[list(tuples[-1])].mean() + own + of_split[each] + rng.normal(0, deviations[3]))
    return Groups(split=split, seed=split, tuples=tuples), 90 + np.array(values)


def restricted_likelihood(values: np.ndarray, effects: list[Effects], variances: dict[str, float]) -> float:
    """REML log-likelihood up to a constant, from the full covariance matrix [n, n]."""
    ones, covariance = np.ones(values.size), variances["residual"] * np.eye(values.size)
    for effect in effects:
        covariance += variances[effect.name] * (effect.loadings @ effect.loadings.T).toarray()
    inverse = np.linalg.inv(covariance)
    weight = ones @ inverse @ ones
    rest = values - ones @ inverse @ values / weight
    return -(np.linalg.slogdet(covariance)[1] + np.log(weight) + rest @ inverse @ rest) / 2


SHAPES = st.sampled_from([(1, 40, 4, 10, 2), (3, 20, 4, 10, 2), (4, 15, 12, 60, 3), (1, 30, 20, 100, 5)])
DEVIATIONS = st.tuples(*[st.sampled_from([0.0, 1.0, 5.0])] * 3, st.sampled_from([0.5, 2.0]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, DEVIATIONS)
@example(1494, (1, 30, 20, 100, 5), (5.0, 1.0, 0.0, 2.0))  # whole steps cycle
def test_no_other_variances_are_more_likely(seed: int, shape: tuple[int, ...], deviations: tuple[float, ...]) -> None:
    groups, values = drawn(seed, *shape, deviations)
    effects = groups.effects()
    found = fit(values, effects).variances
    highest, rng = restricted_likelihood(values, effects, found), np.random.default_rng(seed)
    size = sum(found.values())
    for scale in [1e-3, 1e-2, 0.1, 1.0] * 10:
        other = {name: abs(value + rng.normal(0, scale * size)) for name, value in found.items()}
        other["residual"] = max(other["residual"], 1e-3 * size)
        assert restricted_likelihood(values, effects, other) <= highest + 1e-6


@pytest.mark.parametrize(
    ("seed", "shape"), [(1, (1, 60, 4, 10, 2)), (2, (4, 40, 4, 10, 2)), (3, (1, 60, 12, 60, 3)), (4, (5, 30, 6, 20, 2))]
)
def test_standard_error_is_that_of_statsmodels(seed: int, shape: tuple[int, ...]) -> None:
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    groups, values = drawn(seed, *shape, (5, 1.5, 1.5, 3))
    effects = groups.effects()
    loadings = [[effect.loadings.toarray()] for effect in effects]
    columns = [[[str(level) for level in range(one[0].shape[1])]] for one in loadings]
    components = VCSpec([effect.name for effect in effects], columns, loadings)
    model = MixedLM(values, np.ones((values.size, 1)), groups=np.ones(values.size), exog_vc=components)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tries one optimiser after the other, and says so
        theirs = model.fit(reml=True, method=["powell", "lbfgs"])
    variances = np.array([*theirs.vcomp, theirs.scale])
    expected = np.sqrt(groups.shares(effects) @ variances)
    assert standard_error(values, groups)[0] == pytest.approx(expected, rel=2e-3)


def test_a_balanced_layout_by_hand() -> None:
    """Classes alone in their groups are a one-way layout: REML is the analysis of variance."""
    values = np.array([1.0, 3.0, 5.0, 7.0, 12.0, 14.0])
    groups = Groups(split=np.zeros(6, int), seed=np.zeros(6, int), tuples=[(0,), (0,), (1,), (1,), (2,), (2,)])
    found = fit(values, groups.effects()).variances  # mean squares: between 62, within 2
    assert found == pytest.approx({"class": 30.0, "residual": 2.0}, rel=1e-5)
    error, df = standard_error(values, groups)
    assert error == pytest.approx(np.sqrt(62 / 6), rel=1e-5)
    assert df == pytest.approx(2, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), SHAPES, st.floats(0.01, 100), st.floats(-100, 100))
def test_shift_and_scale(seed: int, shape: tuple[int, ...], scale: float, shift: float) -> None:
    groups, values = drawn(seed, *shape, (2, 1, 1, 2))
    error, df = standard_error(values, groups)
    assume(error > 1e-3)
    other, same_df = standard_error(scale * values + shift, groups)
    assert other == pytest.approx(scale * error, rel=1e-4)
    assert same_df == pytest.approx(df, rel=1e-2)


def test_effects_that_cannot_be_told_apart_are_left_out() -> None:
    def names(split: list[int], seed: list[int], tuples: list[tuple[int, ...]]) -> list[str]:
        groups = Groups(split=np.array(split), seed=np.array(seed), tuples=tuples)
        return [effect.name for effect in groups.effects()]

    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert names([0] * 6, [0] * 6, pairs) == ["class"]
    assert names([0] * 12, [0] * 12, 2 * pairs) == ["class", "tuple"]
    assert names([0] * 6 + [1] * 6, [0] * 6 + [1] * 6, 2 * pairs) == ["class", "tuple", "split"]
    assert names([0] * 12, [0] * 6 + [1] * 6, 2 * pairs) == ["class", "tuple", "training"]
    assert names([0, 0, 1, 1], [0, 1, 0, 1], [()] * 4) == ["split", "training"]


def test_equal_values_have_no_error() -> None:
    groups, values = drawn(0, 3, 20, 4, 10, 2, (1, 1, 1, 1))
    assert standard_error(np.full_like(values, 0.3), groups)[0] == 0


def test_two_splits_give_no_more_than_two_degrees_of_freedom() -> None:
    """REML takes the variance between two splits for 0 half the time; t with many degrees would cover 86 to 92%."""
    groups, values = drawn(0, 2, 50, 20, 100, 5, (5, 0, 0, 1))
    assert standard_error(values, groups)[1] <= 2


def test_memory_is_not_that_of_the_square_of_tuples() -> None:
    groups, values = drawn(0, 10, 500, 10, 100, 5, (1.0, 1.0, 1.0, 1.0))
    levels = {effect.name: effect.loadings.shape[1] for effect in groups.effects()}
    assert levels["tuple"] > 2_000
    tracemalloc.start()
    try:
        standard_error(values, groups)
        assert tracemalloc.get_traced_memory()[1] < 8 * levels["tuple"] ** 2 / 2
    finally:
        tracemalloc.stop()
