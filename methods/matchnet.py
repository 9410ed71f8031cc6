"""MatchNet (Vinyals et al. 2016, "Matching Networks for One Shot Learning").

Class probabilities of a query are attention weights over the support samples, by cosine similarity (section 2.1,
equation 1), summed per class. Departures: the cosine is multiplied by 100 before the softmax, as implementations do,
since cosines in [-1, 1] cannot make it sharp; the full-context embeddings of section 2.1.2 are an option, off by default,
since with features as wide as the target's they add more parameters than the target has.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner, Logits
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS

READS = 5  # processing steps of the query's attention LSTM; Vinyals et al. give no number


def attention_log_probs(query: Tensor, support: Tensor, labels: Tensor, n_classes: int, scale: float = 100.0) -> Tensor:
    """Return log class probabilities [n, n_classes] by attention (equation 1, with the cosine kernel times `scale`).

    `query` features are float [n, d], `support` features [s, d] with `labels` int64 [s]; every class occurs.
    """
    similarity = scale * (F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).T)
    attention = F.log_softmax(similarity, -1)
    of_class = F.one_hot(labels, n_classes).bool().T  # [n_classes, s]
    return attention.unsqueeze(1).masked_fill(~of_class, -torch.inf).logsumexp(-1)


class FullContext(nn.Module):
    """Full-context embeddings of features of width `dim` (section 2.1.2, appendices A.1 and A.2).

    The support embedding adds a bidirectional LSTM over the samples in order: g(x) + forward + backward. The query
    embedding is an LSTM that reads the support by attention `reads` times (equations 3 to 6).
    """

    def __init__(self, dim: int, reads: int = READS) -> None:
        super().__init__()
        self.dim, self.reads = dim, reads
        self.support_lstm = nn.LSTM(dim, dim, bidirectional=True)
        self.query_lstm = nn.LSTMCell(dim, 2 * dim)

    def support(self, features: Tensor) -> Tensor:
        """Embed support features [s, d] -> [s, d]."""
        forward, backward = self.support_lstm(features)[0].split(self.dim, -1)
        embedded: Tensor = features + forward + backward
        return embedded

    def query(self, features: Tensor, support: Tensor) -> Tensor:
        """Embed query features [n, d] -> [n, d], each independently, given embedded `support` [s, d]."""
        hidden = cell = features.new_zeros(len(features), 2 * self.dim)  # hidden is [h, r]: state and read vector
        h = features
        for _ in range(self.reads):
            hidden, cell = self.query_lstm(features, (hidden, cell))
            h = hidden[:, : self.dim] + features
            read = F.softmax(h @ support.T, -1) @ support
            hidden = torch.cat((h, read), -1)
        return h


class MatchNet(FeatureLearner):
    """The target network meta-trained for classification by attention over support samples."""

    name: ClassVar[str] = "matchnet"

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        support_per_class: int = SUPPORT_PER_CLASS,
        full_context: bool = False,
    ) -> None:
        super().__init__(target, n_training_classes, support_per_class=support_per_class)
        self.context: FullContext | None = None
        if full_context:
            self.context = FullContext(targets.feature_count(self.modules["network"], target.image_shape))
            self.modules["context"] = self.context

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        context = self.context
        if context is None:
            return lambda query: attention_log_probs(query, features, labels, n_classes)
        support = context.support(features)
        return lambda query: attention_log_probs(context.query(query, support), support, labels, n_classes)
