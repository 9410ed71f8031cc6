"""Meta-Baseline (Chen et al. 2021, "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning").

Official code: github.com/yinboc/few-shot-meta-baseline. The classification stage is the `pretrained` method, whose artifact
is shared; the meta stage trains the same network on episodes, with cosine to class centroids times a learnable
temperature that starts at 10. Centroids are means of raw features, normalised afterwards. Departures: the ways and support
of the benchmark, and Adam at 1e-3 instead of SGD at 1e-3 with momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner, Logits, nearest_prototype
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, TEMPERATURE


class MetaBaseline(FeatureLearner):
    """Pretrained features, meta-trained for classification by cosine to class centroids."""

    name: ClassVar[str] = "meta-baseline"

    def __init__(
        self, target: TargetSpec, n_training_classes: int, *, support_per_class: int = SUPPORT_PER_CLASS
    ) -> None:
        super().__init__(target, n_training_classes, support_per_class=support_per_class)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.modules["temperature"] = nn.ParameterList([self.temperature])

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return "pretrained", {}

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        nearest = nearest_prototype("cosine", features, labels, n_classes)
        return lambda query: self.temperature * nearest(query)
