"""Dataset compression (paper, sections 3.3, A.1 and A.3): from a dataset of any size to a sketch of fixed size."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods.base import MethodError

GRID = 4  # pixels a side of the pooled map; pooled to one pixel, BatchNorm in training mode leaves only its bias
WIDTH = 32  # channels of a block; A.1 gives no number
# Pixels per pass of the extractor in evaluation: on a CPU what fits its caches (four times as fast as 500 images of 32x32
# at once), on a GPU what keeps it busy.
STREAM_PIXELS = {"cpu": 2**17, "cuda": 2**21}
EMBEDDINGS = ("mean", "sum", "geometric-mean", "mean+variance")  # Table 9
PER_CLASS = "class-variance"  # not in the paper
MOMENTUM = 0.02  # of the running statistics of sketches: the last 50 datasets or so


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
            mean of magnitudes, since features are signed; or mean and population variance side by side. "class-variance" is
            not in the paper: the mean of each class, then mean and population variance of these, which needs labels.

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
        if embedding not in (*EMBEDDINGS, PER_CLASS):
            raise MethodError(f"pudnet's embedding is one of {', '.join((*EMBEDDINGS, PER_CLASS))}, not '{embedding}'")
        blocks, linear = int(form[1]), form[2] is not None
        vectors = 2 if embedding in ("mean+variance", PER_CLASS) else 1
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

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Sketch `images` float [n, c, h, w]: float [layers, dim]. Only "class-variance" needs their `labels` int64 [n]."""
        members = self._members(images, labels)
        return self._sketch(self._addends(images, members), members.sum(0))

    @torch.no_grad()
    def stream(self, images: Tensor, labels: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Sketch `images` in chunks of `chunk` images, so that memory does not grow with the dataset.

        Equal to `forward` in evaluation mode only, where BatchNorm does not depend on the batch.
        """
        members = self._members(images, labels)
        size = chunk or max(1, STREAM_PIXELS[images.device.type] // images[0, 0].numel())
        parts = zip(images.split(size), members.split(size), strict=True)
        total = self._addends(*next(parts))
        for part in parts:
            total += self._addends(*part)
        return self._sketch(total, members.sum(0))

    def _members(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return which images are averaged together, float32 [n, 1] for all and [n, n_classes] for those of a class."""
        if self.embedding != PER_CLASS:
            return torch.ones(len(images), 1, device=images.device)
        if labels is None:
            raise ValueError(f"the embedding {PER_CLASS} needs the labels of the images")
        return F.one_hot(labels).float()

    def _addends(self, images: Tensor, members: Tensor) -> Tensor:
        """Return the sums over images of what the embedding averages, float32 [1 or n_classes, d]."""
        features: Tensor = self.extractor(images)
        if self.embedding == "geometric-mean":
            features = features.abs().add(1e-6).log()
        elif self.embedding == "mean+variance":
            features = torch.cat((features, features.square()), 1)
        if self.embedding == PER_CLASS:
            return members.T @ features.float()
        return features.sum(0, keepdim=True, dtype=torch.float32)

    def _sketch(self, total: Tensor, counts: Tensor) -> Tensor:
        """Return the sketch of the sums [k, d] of `counts` images [k]."""
        means = total if self.embedding == "sum" else total / counts[:, None]
        vector = means[0]
        if self.embedding == "geometric-mean":
            vector = vector.exp()
        elif self.embedding == "mean+variance":
            mean, square = vector.chunk(2)
            vector = torch.cat((mean, square - mean.square()))
        elif self.embedding == PER_CLASS:
            vector = torch.cat((means.mean(0), means.var(0, correction=0)))
        sketch: Tensor = self.project(vector)
        return sketch.view(self.shape)


class SketchNorm(nn.Module):
    """Sketches [layers, dim] centred and scaled over datasets, by running statistics of those that were trained on.

    Not in the paper. What all datasets' sketches have in common is taken away, so that what differs between them is all
    that the rest of the hypernetwork sees.
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, sketch: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.seen += 1
                share = (1 / self.seen).clamp_min(MOMENTUM)
                self.variance.lerp_((sketch - self.mean).square(), share)
                self.mean.lerp_(sketch, share)
        return (sketch - self.mean) / (self.variance + 1e-5).sqrt()
