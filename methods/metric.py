"""Metric classification: centroids of support features, and logits by distance or angle to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SUPPORT_PER_CLASS = 10  # images per class that make a centroid (paper, A.2)
TEMPERATURE = 10.0  # of cosines (paper, A.2; Chen et al. 2021, section 3.2, where it is the initial value)


def prototypes(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the mean of the `features` [n, d] of each class: [n_classes, d] (Snell et al. 2017, equation 1).

    `labels` are int64 [n] in 0..n_classes-1; every class occurs.
    """
    one_hot = F.one_hot(labels, n_classes).to(features.dtype)
    return (one_hot.T @ features) / one_hot.sum(0).unsqueeze(1)


def cosine_logits(query: Tensor, prototypes: Tensor, temperature: float | Tensor) -> Tensor:
    """Return `temperature` times the cosine of each query [n, d] and each prototype [k, d]: [n, k] (paper, equation 6)."""
    return temperature * (F.normalize(query, dim=-1) @ F.normalize(prototypes, dim=-1).T)


def euclidean_logits(query: Tensor, prototypes: Tensor) -> Tensor:
    """Return negative squared distances of queries [n, d] and prototypes [k, d]: [n, k] (Snell et al. 2017, section 2.3)."""
    cross = query @ prototypes.T
    return 2 * cross - query.square().sum(-1, keepdim=True) - prototypes.square().sum(-1)


def support_indices(labels: Tensor, n_classes: int, per_class: int) -> Tensor:
    """Return the positions, sorted by class, of the first `per_class` images of each class, or of all if it has fewer.

    Images of a group are in random order within a class, so the first ones are a random draw. `labels` are int64 [n] in
    0..n_classes-1; the result is int64 [n_classes * per_class].
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=n_classes)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return order[rank < per_class]
