"""Pretrained: supervised training on all training classes, then frozen features and class centroids.

The paper names this baseline without describing it (section 4.2). Here: cross-entropy over all training classes, on
batches with as many images as the episodic methods see per group, with Adam at the paper's 1e-3. For an unseen group the
frozen features classify by cosine to the centroids of 10 images per class (Chen et al. 2021, Meta-Baseline, section 3.1).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Dataset, GroupStream, Session, TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS


class Pretrained(FeatureLearner):
    """The target network trained as an ordinary classifier, then frozen."""

    name: ClassVar[str] = "pretrained"

    def __init__(
        self, target: TargetSpec, n_training_classes: int, *, support_per_class: int = SUPPORT_PER_CLASS
    ) -> None:
        super().__init__(target, n_training_classes, support_per_class=support_per_class)
        n_features = targets.feature_count(self.modules["network"], target.image_shape)
        self.modules["head"] = nn.Linear(n_features, n_training_classes)

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.modules.parameters(), lr=LEARNING_RATE, fused=True)
        batches = partial(groups.batches, groups.ways * groups.support_per_class + groups.queries_per_group)

        def losses(batch: Dataset) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.modules["head"](self.features(batch.images)), batch.labels)}

        train_until_converged(self, self.modules, optimizer, batches, losses, groups, session)
