"""The weight generator of one target layer (paper, equation 5 and Figure 4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightGenerator(nn.Module):
    """A context vector -> one convolution's kernel.

    One Linear and two 1x1 convolutions, as in Figure 4: Linear(d_a -> hidden*f*f), GELU, view [hidden, f, f],
    1x1 (hidden -> 2*hidden), GELU, 1x1 (2*hidden -> d_out*d_in), view [d_out, d_in, f, f]. The activations and `hidden=8`
    are our choice: 64 would need 181 million parameters for a ResNet-18.

    `kernel_norm` scales the kernel to Kaiming initialisation's root mean square sqrt(2 / fan_in), so that activations have
    the same magnitude for every dataset, as running BatchNorm statistics require.
    """

    def __init__(
        self, d_a: int, d_out: int, d_in: int, kernel_size: int, hidden: int = 8, *, kernel_norm: bool = True
    ) -> None:
        super().__init__()
        self.shape = (d_out, d_in, kernel_size, kernel_size)
        self.hidden, self.kernel_norm = hidden, kernel_norm
        self.linear = nn.Linear(d_a, hidden * kernel_size**2)
        self.mix = nn.Conv2d(hidden, 2 * hidden, 1)
        self.expand = nn.Conv2d(2 * hidden, d_out * d_in, 1)
        # Activations of unit variance inside and a kernel of Kaiming magnitude outside, so that an optimiser step changes
        # a predicted kernel in the same proportion as a learned one (Chang et al. 2020, hyperfan-in).
        nn.init.normal_(self.linear.weight, std=d_a**-0.5)
        nn.init.normal_(self.mix.weight, std=(2 / hidden) ** 0.5)
        nn.init.normal_(self.expand.weight, std=(2 / (2 * hidden) * 2 / (d_in * kernel_size**2)) ** 0.5)
        for bias in (self.linear.bias, self.mix.bias, self.expand.bias):
            assert bias is not None
            nn.init.zeros_(bias)

    def forward(self, context: Tensor) -> Tensor:
        """Generate a kernel float [d_out, d_in, f, f], in channels-last memory, from `context` float [d_a]."""
        d_out, d_in, f, _ = self.shape
        grid = F.gelu(self.linear(context)).view(1, self.hidden, f, f)
        mixed = F.gelu(self.mix(grid)).flatten(2).mT
        # The last 1x1 convolution as a matrix product per output channel, which gives the kernel in the target's memory
        # format; a convolution of nine pixels to 262,144 channels is slow.
        weight = self.expand.weight.view(d_out, d_in, 2 * self.hidden).mT
        assert self.expand.bias is not None
        kernel = torch.baddbmm(self.expand.bias.view(d_out, 1, d_in), mixed.expand(d_out, -1, -1), weight)
        if self.kernel_norm:
            kernel = kernel * (math.sqrt(2 / (d_in * f * f)) / kernel.square().mean().add(1e-12).sqrt())
        return kernel.view(d_out, f, f, d_in).permute(0, 3, 1, 2)


class NormGenerator(nn.Module):
    """A context vector -> scale and shift of one BatchNorm. Not in the paper.

    It starts as a BatchNorm's own, 1 and 0 for every dataset: the bias is what all datasets share.
    """

    def __init__(self, d_a: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_a, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift float [channels] for `context` float [d_a]."""
        scale, shift = self.linear(context).chunk(2)
        return 1 + scale, shift
