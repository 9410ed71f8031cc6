"""Dataset compression (paper, sections 3.3, A.1 and A.3): from a dataset of any size to a sketch of fixed size."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import MethodError

GRID = 4  # pixels a side of the pooled map; pooled to one pixel, BatchNorm in training mode leaves only its bias
WIDTH = 32  # channels of a block; A.1 gives no number
# Pixels per pass of the extractor in evaluation: on a CPU what fits its caches (four times as fast as 500 images of 32x32
# at once), on a GPU what keeps it busy.
STREAM_PIXELS = {"cpu": 2**17, "cuda": 2**21}
EMBEDDINGS = ("mean", "sum", "geometric-mean", "mean+variance")  # Table 9


class DatasetSketch(nn.Module):
    """Images of a dataset -> its sketch s [layers, dim] (equation 3).

    The mean over images precedes the Linear, which commutes with it and then costs one row instead of n. A block has
    stride 2 while its input is larger than two grids: A.1 gives neither stride nor width, and full resolution would cost
    more than the ResNet-18 whose kernels are predicted.

    Args:
        extractor: "3conv-1linear" is three blocks of [5x5 convolution, LeakyReLU, BatchNorm] (A.1), average-pooled to a 4x4
            grid and flattened, then one Linear; "3conv" has no Linear and a last block as wide as the sketch (Table 12).
        layers, dim: rows and columns of the sketch.
        embedding: how the flattened grids of all images become one vector (Table 9): their mean; their sum; the geometric
            mean of magnitudes, since features are signed; or mean and population variance side by side.

    Raises:
        MethodError: for an unknown extractor or embedding.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], extractor: str, layers: int, dim: int, embedding: str = "mean"
    ) -> None:
        super().__init__()
        form = re.fullmatch(r"([1-9])conv(-1linear)?", extractor)
        if form is None:
            raise MethodError(f"pudnet's extractor is named like '2conv' or '1conv-1linear', not '{extractor}'")
        if embedding not in EMBEDDINGS:
            raise MethodError(f"pudnet's embedding is one of {', '.join(EMBEDDINGS)}, not '{embedding}'")
        blocks, linear = int(form[1]), form[2] is not None
        vectors = 2 if embedding == "mean+variance" else 1
        needed, rest = divmod(layers * dim, vectors * GRID * GRID)
        if rest and not linear:
            grids = f"{vectors} {GRID}x{GRID} grids"
            raise MethodError(f"a sketch of {layers}x{dim} does not divide into {grids}: add -1linear")
        channels, size, _ = image_shape
        stages: list[nn.Module] = []
        for block in range(1, blocks + 1):
            width = WIDTH if linear or block < blocks else needed
            stride = 2 if size > 2 * GRID else 1
            convolution = nn.Conv2d(channels, width, 5, stride=stride, padding=2, bias=False)
            stages += [convolution, nn.LeakyReLU(), nn.BatchNorm2d(width)]
            channels, size = width, (size + stride - 1) // stride
        self.extractor = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
        self.project = nn.Linear(vectors * channels * GRID * GRID, layers * dim) if linear else nn.Identity()
        self.embedding, self.shape = embedding, (layers, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Sketch `images` float [n, c, h, w]: float [layers, dim]."""
        return self._sketch(self._addends(images), len(images))

    @torch.no_grad()
    def stream(self, images: Tensor, chunk: int | None = None) -> Tensor:
        """Sketch `images` in chunks of `chunk` images, so that memory does not grow with the dataset.

        Equal to `forward` in evaluation mode only, where BatchNorm does not depend on the batch.
        """
        first, *rest = images.split(chunk or max(1, STREAM_PIXELS[images.device.type] // images[0, 0].numel()))
        total = self._addends(first)
        for part in rest:
            total += self._addends(part)
        return self._sketch(total, len(images))

    def _addends(self, images: Tensor) -> Tensor:
        """Return the sum over images of what the embedding averages, in float32."""
        features: Tensor = self.extractor(images)
        if self.embedding == "geometric-mean":
            features = features.abs().add(1e-6).log()
        elif self.embedding == "mean+variance":
            features = torch.cat((features, features.square()), 1)
        return features.sum(0, dtype=torch.float32)

    def _sketch(self, total: Tensor, n: int) -> Tensor:
        vector = total if self.embedding == "sum" else total / n
        if self.embedding == "geometric-mean":
            vector = vector.exp()
        elif self.embedding == "mean+variance":
            mean, square = vector.chunk(2)
            vector = torch.cat((mean, square - mean.square()))
        sketch: Tensor = self.project(vector)
        return sketch.view(self.shape)
