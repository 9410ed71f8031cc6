"""Shares of variance between datasets: 0 for a constant, all of it for what has no common part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.methods.base import Budget, Session, TargetSpec
from pudnet_bench.methods.pudnet.controls import ConstantSketch
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.pudnet.variation import share_between, variation
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

TARGET = TargetSpec("convnet3", (1, 8, 8))


@given(n=st.integers(2, 20), d=st.integers(1, 8), common=st.floats(-3, 3), seed=st.integers(0, 100))
def test_the_share_is_the_variance_over_the_mean_square(n: int, d: int, common: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(common, 1, (n, d))
    expected = 1 - np.square(values.mean(0)).sum() / np.square(values).mean(0).sum()
    assert share_between(torch.from_numpy(values)) == pytest.approx(expected)


def test_a_constant_sketch_varies_in_nothing_and_a_normed_one_in_more(digits: FamilyImages) -> None:
    groups = [digits.group("training", 0, index).fit for index in range(12)]
    found = {}
    for name, kind, options in (
        ("plain", PudNet, {}), ("constant", ConstantSketch, {}), ("normed", PudNet, {"sketch_norm": True}),
    ):  # fmt: skip
        torch.manual_seed(0)
        method = kind(TARGET, 6, **options)
        method.meta_train(TrainingStream(digits, 0), Session(Budget(20, 20, 1)))
        before = {key: value.clone() for key, value in method.state_dict().items()}
        found[name] = variation(method, groups)
        assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
        kernels = torch.stack(
            [torch.cat([k.flatten() / k.square().mean().sqrt() for k in method.predicted(g).values()]) for g in groups]
        )
        assert found[name].kernels == pytest.approx(share_between(kernels), rel=1e-3, abs=1e-9)
    assert (found["constant"].sketch, found["constant"].context) == pytest.approx((0, 0), abs=1e-9)
    assert found["constant"].kernels == pytest.approx(0, abs=1e-9)
    assert 0 < found["plain"].kernels < found["normed"].kernels < 1
    assert 0 < found["plain"].context < found["normed"].context < 1
