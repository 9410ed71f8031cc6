"""Pretrained: ordinary supervised training on all training classes, then frozen features and class centroids.

The paper names the baseline without describing it (section 4.2). Here: cross-entropy over all training classes on
batches drawn from all of them, with as many images per step as the episodic methods see per group, Adam at the paper's
1e-3; for an unseen group the features are frozen and classify by cosine to the centroids of 10 images per class, the
classifier of Chen et al. 2021 (Meta-Baseline), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import targets
from methods.base import Dataset, GroupStream, Method, Session, Snapshot, TargetSpec
from methods.meta_training import train_until_converged
from methods.metric import cosine_logits, prototypes, support_indices

LEARNING_RATE = 1e-3
TEMPERATURE = 10.0
SUPPORT_PER_CLASS = 10


class Pretrained(Method):
    """The target network trained as an ordinary classifier, then frozen."""

    name: ClassVar[str] = "pretrained"

    def __init__(
        self, target: TargetSpec, n_training_classes: int, *, support_per_class: int = SUPPORT_PER_CLASS
    ) -> None:
        super().__init__(target, n_training_classes)
        self.support_per_class = support_per_class
        network = targets.build(target)
        head = nn.Linear(targets.feature_count(network, target.image_shape), n_training_classes)
        self.modules = nn.ModuleDict({"network": network, "head": head})

    def to(self, device: torch.device) -> None:
        self.modules.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.modules.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.modules.load_state_dict(state)

    def features(self, images: Tensor) -> Tensor:
        """The network's features [n, d] of ``images`` [n, c, h, w]."""
        with self.autocast():
            features: Tensor = self.modules["network"](images)
        return features.float()

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.modules.parameters(), lr=LEARNING_RATE, fused=True)
        images_per_step = groups.ways * groups.support_per_class + groups.queries_per_group

        def step(batch: Dataset) -> dict[str, Tensor]:
            loss = F.cross_entropy(self.modules["head"](self.features(batch.images)), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        train_until_converged(self, self.modules, groups.batches(images_per_step), step, groups, session)

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.modules.eval()
        support = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        centroids = prototypes(self.features(dataset.images[support]), dataset.labels[support], dataset.n_classes)

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            return cosine_logits(self.features(images), centroids, TEMPERATURE)

        yield Snapshot(classify)
