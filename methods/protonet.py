"""ProtoNet (Snell et al. 2017, "Prototypical Networks for Few-shot Learning").

Logits are negative squared Euclidean distances of the target network's features to the class means of the support images, as
in learn2learn's `PrototypicalClassifier`. Departures from Snell et al., so that all methods share one schedule: training
episodes have the ways and support of testing (they train with more ways), and Adam stays at 1e-3 (they halve the rate).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pudnet_bench.methods.feature_learner import FeatureLearner, Logits, prototypical_classifier


class ProtoNet(FeatureLearner):
    """The target network, meta-trained for classification by the nearest class mean."""

    name: ClassVar[str] = "protonet"

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        nearest_mean: Logits = prototypical_classifier("euclidean")
        nearest_mean.fit_(features, labels)  # type: ignore[attr-defined]
        return nearest_mean
