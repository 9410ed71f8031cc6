"""PudNet's losses (paper, section 3.5, equations 7 to 10)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Losses(NamedTuple):
    """Scalars: the parameter-free loss, the full classification loss, the consistency loss."""

    metric: Tensor
    full: Tensor
    consistency: Tensor

    @property
    def total(self) -> Tensor:
        """Equation 10."""
        return self.metric + self.full + self.consistency


def metric_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 7: cross-entropy of the metric logits [n, k] against the group's labels int64 [n]; mean over images."""
    return F.cross_entropy(logits, labels)


def full_loss(full_logits: Tensor, global_labels: Tensor) -> Tensor:
    """Equation 8: cross-entropy of the full head's logits [n, C] against the ids among all training classes int64 [n]."""
    return F.cross_entropy(full_logits, global_labels)


def pad_logits(logits: Tensor, classes: Tensor, n_training_classes: int) -> Tensor:
    """The group's logits [n, k] at its classes' places among all training classes, zero elsewhere: [n, C] (A.2).

    `classes` int64 [k]. Logits are padded, as A.2 says; section 3.5 pads probabilities, which makes equation 9 infinite.
    """
    return logits.new_zeros(len(logits), n_training_classes).index_copy(1, classes, logits)


def consistency_loss(logits: Tensor, full_logits: Tensor, classes: Tensor, *, into_metric: bool = True) -> Tensor:
    """Equation 9: KL(q || p) with q from the full head [n, C] and p from the padded metric logits; mean over images.

    Without `into_metric` p is a fixed target. While q is still near uniform, the gradient into p asks for cosines of
    zero with every centroid, against equation 7; the paper does not say where the gradient goes.
    """
    log_p = F.log_softmax(pad_logits(logits if into_metric else logits.detach(), classes, full_logits.shape[1]), -1)
    log_q = F.log_softmax(full_logits, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def losses(
    logits: Tensor,
    labels: Tensor,
    full_logits: Tensor,
    global_labels: Tensor,
    classes: Tensor,
    *,
    into_metric: bool = True,
) -> Losses:
    """All three losses for one batch of queries; shapes as in the functions above."""
    return Losses(
        metric_loss(logits, labels),
        full_loss(full_logits, global_labels),
        consistency_loss(logits, full_logits, classes, into_metric=into_metric),
    )
