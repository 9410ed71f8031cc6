"""Dataset compression (paper, section 3.3 and A.1): a dataset of any size becomes a sketch of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GRID = 4  # pixels a side of the pooled map; global pooling would leave nothing but BatchNorm's bias (design, section 7)


class DatasetSketch(nn.Module):
    """Images of one dataset -> its sketch ``s`` [layers, dim] (equation 3).

    The extractor T is ``blocks`` blocks of [5x5 convolution, LeakyReLU, BatchNorm] (A.1), average-pooled to a 4x4 grid
    and flattened, then one Linear. The mean over images is taken before the Linear, which commutes with it and so costs
    one row instead of n. A block has stride 2 while its input is larger than two grids: A.1 gives neither stride nor
    width, and full resolution would cost more than the ResNet-18 whose kernels are wanted.
    """

    def __init__(self, image_shape: tuple[int, int, int], blocks: int, layers: int, dim: int, width: int = 32) -> None:
        super().__init__()
        channels, height, _ = image_shape
        stages: list[nn.Module] = []
        size = height
        for _ in range(blocks):
            stride = 2 if size > 2 * GRID else 1
            stages += [
                nn.Conv2d(channels, width, 5, stride=stride, padding=2, bias=False),
                nn.LeakyReLU(),
                nn.BatchNorm2d(width),
            ]
            channels, size = width, (size + stride - 1) // stride
        self.extractor = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.project = nn.Linear(width * GRID * GRID, layers * dim)
        self.shape = (layers, dim)

    def forward(self, images: Tensor) -> Tensor:
        """``images`` float [n, c, h, w] -> sketch float [layers, dim]."""
        return self.project(self.extractor(images).mean(0)).view(self.shape)

    @torch.no_grad()
    def stream(self, images: Tensor, chunk: int = 2048) -> Tensor:
        """The same sketch, ``chunk`` images at a time, so that memory does not grow with the dataset.

        Equal to ``forward`` only in evaluation mode, where BatchNorm does not depend on the batch; the sum is kept in
        float32.
        """
        total = torch.zeros(self.project.in_features, device=images.device)
        for part in images.split(chunk):
            total += self.extractor(part).sum(0, dtype=torch.float32)
        return self.project(total / len(images)).view(self.shape)
