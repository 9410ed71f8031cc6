"""Gradient centralization (Yong et al. 2020, "Gradient Centralization: A New Optimization Technique for DNNs").

Official code: Yonghongwei/Gradient-Centralization, ``algorithm/GC_code``. ``centralize`` is its ``centralized_gradient``
and ``AdamGC`` its Adam with the options ``gc_conv_only`` and ``gc_loc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pudnet_bench.methods.scratch import Scratch


def centralize(grad: Tensor, conv_only: bool = False) -> Tensor:
    """``grad`` minus its mean over all dimensions but the first, for tensors of more than one dimension (equation 1).

    With ``conv_only`` only tensors of more than three dimensions are centred. Returns a new tensor of the same shape,
    or ``grad`` itself where nothing is centred; never changes ``grad``.
    """
    if grad.dim() <= (3 if conv_only else 1):
        return grad
    return grad - grad.mean(dim=tuple(range(1, grad.dim())), keepdim=True)


class AdamGC(torch.optim.Adam):
    """Adam with gradient centralization, on top of torch's Adam, ``fused`` or as torch defaults it.

    ``gc_loc=True`` centres the gradient, after weight decay has been added to it; ``False`` centres the final update.
    The parameters' ``.grad`` are as the caller left them after ``step``.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gc_conv_only: bool = False,
        gc_loc: bool = True,
        fused: bool | None = True,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, fused=fused)
        self.decay = weight_decay
        self.gc_conv_only = gc_conv_only
        self.gc_loc = gc_loc

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; ``closure`` as in torch's optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        before = None if self.gc_loc else [p.clone() for p in parameters]
        for p in parameters:
            gradient = p.grad if self.decay == 0 else p.grad.add(p, alpha=self.decay)
            p.grad = centralize(gradient, self.gc_conv_only) if self.gc_loc else gradient
        super().step()
        if before is not None:
            for p, old in zip(parameters, before, strict=True):
                # Centring is linear, so the centred update is what remains of the plain one.
                p.copy_(old + centralize(p - old, self.gc_conv_only))
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        return loss


class GC(Scratch):
    """Training from scratch by Adam with gradient centralization, the paper's accelerated baseline."""

    name = "gc"

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return AdamGC(parameters, lr=self.lr, fused=None if self.plain else True)
