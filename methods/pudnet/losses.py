"""PudNet's losses (paper, section 3.5, equations 7 to 10)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """The parameter-free metric loss, the full classification loss and the consistency loss: scalars."""

    metric: Tensor
    full: Tensor
    consistency: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of all losses (equation 10)."""
        return self.metric + self.full + self.consistency


def metric_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of metric logits [n, k] and labels in the group int64 [n] (equation 7)."""
    return F.cross_entropy(logits, labels)


def full_loss(full_logits: Tensor, global_labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of full logits [n, C] and labels among all training classes int64 [n] (equation 8)."""
    return F.cross_entropy(full_logits, global_labels)


def pad_logits(logits: Tensor, classes: Tensor, n_training_classes: int) -> Tensor:
    """Return the group's logits [n, k] at its `classes` int64 [k] among all training classes, zero elsewhere: [n, C].

    Logits are padded, as in A.2; section 3.5 pads probabilities, which makes equation 9 infinite.
    """
    return logits.new_zeros(len(logits), n_training_classes).index_copy(1, classes, logits)


def consistency_loss(logits: Tensor, full_logits: Tensor, classes: Tensor, *, into_metric: bool = True) -> Tensor:
    """Return the mean of KL(q || p), q from full logits [n, C] and p from padded metric logits (equation 9).

    Without `into_metric`, p is a constant. While q is nearly uniform, the gradient into p pulls the cosines with all
    centroids to zero, against equation 7; the paper does not say where the gradient flows.
    """
    log_p = F.log_softmax(pad_logits(logits if into_metric else logits.detach(), classes, full_logits.shape[1]), -1)
    log_q = F.log_softmax(full_logits, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()
