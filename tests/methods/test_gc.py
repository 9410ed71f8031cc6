"""Gradient centralization against the official algorithm written as scalar loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pudnet_bench.methods.gc import AdamGC, centralize


def loop_centralize(grad: Tensor, conv_only: bool) -> Tensor:
    """Equation 1, element by element."""
    if grad.dim() <= (3 if conv_only else 1):
        return grad.clone()
    result = torch.empty_like(grad)
    for first in range(grad.shape[0]):
        rest = list(itertools.product(*(range(n) for n in grad.shape[1:])))
        mean = math.fsum(float(grad[(first, *place)]) for place in rest) / len(rest)
        for place in rest:
            result[(first, *place)] = float(grad[(first, *place)]) - mean
    return result


class OfficialAdam:
    """The official `Adam` of GC_code for one parameter (float64), with its options `gc_loc` and `gc_conv_only`."""

    def __init__(self, lr: float, decay: float, gc_loc: bool, conv_only: bool) -> None:
        self.lr, self.decay, self.gc_loc, self.conv_only = lr, decay, gc_loc, conv_only
        self.t = 0

    def step(self, p: Tensor, grad: Tensor) -> Tensor:
        if self.t == 0:
            self.m, self.v = torch.zeros_like(p), torch.zeros_like(p)
        self.t += 1
        grad = grad + self.decay * p
        if self.gc_loc:
            grad = loop_centralize(grad, self.conv_only)
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad**2
        update = self.m / ((self.v / (1 - 0.999**self.t)) ** 0.5 + 1e-8)
        if not self.gc_loc:
            update = loop_centralize(update, self.conv_only)
        return p - self.lr / (1 - 0.9**self.t) * update


def gradients(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(steps)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.booleans(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_centralize_against_a_loop(shape: list[int], conv_only: bool, seed: int) -> None:
    grad = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before = grad.clone()
    centred = centralize(grad, conv_only)
    torch.testing.assert_close(centred, loop_centralize(grad, conv_only), rtol=1e-12, atol=1e-14)
    assert torch.equal(grad, before)


def test_centralize_gives_rows_of_mean_zero_and_is_idempotent() -> None:
    grad = gradients((4, 3, 2, 2), 1)[0]
    centred = centralize(grad)
    torch.testing.assert_close(centred.flatten(1).mean(1), torch.zeros(4).double(), rtol=0, atol=1e-15)
    torch.testing.assert_close(centralize(centred), centred, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2), (3, 2, 2, 2)])
@pytest.mark.parametrize("conv_only", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("gc_loc", [True, False])
def test_steps_are_the_official_algorithms(shape: tuple[int, ...], gc_loc: bool, decay: float, conv_only: bool) -> None:
    # Starting away from row mean zero: adding the decay after centring instead of before would show.
    start = torch.linspace(1, 2, math.prod(shape), dtype=torch.float64).reshape(shape)
    p = start.clone().requires_grad_()
    optimizer = AdamGC([p], lr=1e-2, weight_decay=decay, gc_conv_only=conv_only, gc_loc=gc_loc)
    official, expected = OfficialAdam(1e-2, decay, gc_loc, conv_only), start
    for grad in gradients(shape, 6):
        p.grad = grad.clone()
        optimizer.step()
        expected = official.step(expected, grad)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("gc_loc", [True, False])
def test_the_callers_gradient_is_left_alone(gc_loc: bool) -> None:
    p = torch.ones(3, 4, requires_grad=True)
    given_grad = torch.arange(-5.0, 7.0).reshape(3, 4)
    p.grad = given_grad
    optimizer = AdamGC([p], weight_decay=0.1, gc_loc=gc_loc)
    for _ in range(2):
        optimizer.step()
    assert p.grad is given_grad
    assert torch.equal(given_grad, torch.arange(-5.0, 7.0).reshape(3, 4))
    assert not torch.equal(p.detach(), torch.ones(3, 4))


@pytest.mark.parametrize("gc_loc", [True, False])
def test_equals_adam_where_nothing_is_centred(gc_loc: bool) -> None:
    grads = gradients((6,), 5)
    ours, theirs = (torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    centring = AdamGC([ours], lr=1e-2, weight_decay=0.1, gc_loc=gc_loc)
    plain = torch.optim.Adam([theirs], lr=1e-2, weight_decay=0.1)
    for grad in grads:
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        centring.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_several_parameters_and_one_without_gradient() -> None:
    kernel, bias, unused = (torch.ones(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3), (2,), (2, 2)))
    optimizer = AdamGC([kernel, bias, unused], lr=1e-2)
    kernel.grad, bias.grad = gradients((2, 3), 1)[0], gradients((2,), 1)[0]
    expected_kernel = OfficialAdam(1e-2, 0, True, False).step(kernel.detach(), kernel.grad)
    expected_bias = OfficialAdam(1e-2, 0, True, False).step(bias.detach(), bias.grad)
    optimizer.step()
    torch.testing.assert_close(kernel.detach(), expected_kernel, rtol=1e-11, atol=0)
    torch.testing.assert_close(bias.detach(), expected_bias, rtol=1e-11, atol=0)
    assert torch.equal(unused.detach(), torch.ones(2, 2).double())
    assert unused.grad is None


def test_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    p = torch.tensor([[1.0, 3.0]], requires_grad=True)
    optimizer = AdamGC([p], lr=0.5)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 10.0
    # The gradient (2, 6) is centred to (-2, 2); Adam's first step is lr times its sign.
    torch.testing.assert_close(p.detach(), torch.tensor([[1.5, 2.5]]))
