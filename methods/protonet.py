"""ProtoNet (Snell et al. 2017, "Prototypical Networks for Few-shot Learning").

Features of the target network, class means of the support images, negative squared Euclidean distance; the classifier
is `feature_learner.nearest_prototype`. Departures: episodes have the benchmark's ways and support in training as in
testing (they train with more ways), and Adam's 1e-3 is not halved as theirs, so that all methods share one schedule.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pudnet_bench.methods.feature_learner import FeatureLearner, Logits, nearest_prototype


class ProtoNet(FeatureLearner):
    """The target network, meta-trained for classification by the nearest class mean."""

    name: ClassVar[str] = "protonet"

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        return nearest_prototype("euclidean", features, labels, n_classes)
