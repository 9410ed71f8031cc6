"""ProtoNet (Snell et al. 2017, "Prototypical Networks for Few-shot Learning").

Features of the target network, class means of the support images, negative squared Euclidean distance. The classifier
is learn2learn's `PrototypicalClassifier`, or `methods.metric` where learn2learn is not installed. Departures from Snell
et al.: episodes have the benchmark's ways and support in training as in testing (they train with more ways), and Adam
keeps the benchmark's 1e-3 without their halving schedule, so that all methods share one schedule.
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
