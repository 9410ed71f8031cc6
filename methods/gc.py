"""Training from scratch with gradient centralization (Yong et al. 2020).

"Gradient Centralization: A New Optimization Technique for Deep Neural Networks". Official code:
github.com/Yonghongwei/Gradient-Centralization, `algorithm/GC_code`: `centralize` is its `centralized_gradient`, and
`AdamGC` its Adam with the options `gc_conv_only` and `gc_loc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pudnet_bench.methods.scratch import Scratch


def centralize(grad: Tensor, conv_only: bool = False) -> Tensor:
    """Return `grad` less its mean over all dimensions but the first, if it has more than one dimension (equation 1).

    `conv_only` centres only tensors of more than three dimensions. `grad` itself is not modified.
    """
    if grad.dim() <= (3 if conv_only else 1):
        return grad
    return grad - grad.mean(dim=tuple(range(1, grad.dim())), keepdim=True)


class AdamGC(torch.optim.Adam):
    """torch's Adam with gradient centralization; `step` leaves the parameters' `.grad` unchanged.

    Args:
        weight_decay: L2 penalty, added to the gradient before it is centred.
        gc_conv_only: centre only the gradients of convolutions.
        gc_loc: centre the gradient; if False, centre the final update.
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
        self.decay, self.gc_conv_only, self.gc_loc = weight_decay, gc_conv_only, gc_loc

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one update; `closure` as in `torch.optim.Optimizer.step`."""
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
                # Centring is linear: the centred update is the centred difference of the plain one.
                p.copy_(old + centralize(p - old, self.gc_conv_only))
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        return loss


class GC(Scratch):
    """Training from scratch with Adam and gradient centralization, the paper's accelerated baseline."""

    name = "gc"

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return AdamGC(parameters, lr=self.lr, fused=None if self.plain else True)
