"""Metric classification: centroids of support features, and logits by distance or angle to them.

Pure functions over features; shared by PudNet, Pretrained, ProtoNet and the other metric learners.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SUPPORT_PER_CLASS = 10  # images per class that make a centroid (the paper, A.2)


def prototypes(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean feature vector of each class (Snell et al. 2017, equation 1).

    ``features`` float [n, d], ``labels`` int64 [n] in 0..n_classes-1; returns [n_classes, d]. Every class must occur.
    """
    one_hot = F.one_hot(labels, n_classes).to(features.dtype)
    return (one_hot.T @ features) / one_hot.sum(0).unsqueeze(1)


def cosine_logits(query: Tensor, prototypes: Tensor, temperature: float | Tensor) -> Tensor:
    """``temperature`` times the cosine of each query feature and each prototype (paper, equation 6).

    ``query`` float [n, d], ``prototypes`` [k, d]; returns [n, k].
    """
    return temperature * (F.normalize(query, dim=-1) @ F.normalize(prototypes, dim=-1).T)


def euclidean_logits(query: Tensor, prototypes: Tensor) -> Tensor:
    """Negative squared Euclidean distance (Snell et al. 2017, section 2.3): ``query`` [n, d], ``prototypes`` [k, d] -> [n, k]."""
    cross = query @ prototypes.T
    return 2 * cross - query.square().sum(-1, keepdim=True) - prototypes.square().sum(-1)


def support_indices(labels: Tensor, n_classes: int, per_class: int) -> Tensor:
    """Positions of the first ``per_class`` images of each class, int64 [n_classes * per_class] (fewer where a class has fewer).

    Images of a group come in random order within a class, so the first ones are a random draw.
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=n_classes)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return order[rank < per_class]
