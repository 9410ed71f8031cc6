"""ProtoNet (Snell et al. 2017, "Prototypical Networks for Few-shot Learning").

Features of the target network, class means of the support images, negative squared Euclidean distance. The classifier
is learn2learn's ``PrototypicalClassifier``, whose Euclidean distance is the squared one of the paper. Departures from
Snell et al.: episodes have the benchmark's ways and support in training as in testing (they train with more ways), and
Adam keeps the benchmark's 1e-3 without their halving schedule, so that all methods share one schedule.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import targets
from methods.base import Dataset, Episode, GroupStream, Method, MethodError, Session, Snapshot, TargetSpec
from methods.meta_training import train_until_converged
from methods.metric import support_indices

LEARNING_RATE = 1e-3
SUPPORT_PER_CLASS = 10


def prototypical_classifier(distance: str) -> Any:
    """learn2learn's ``PrototypicalClassifier`` for ``distance`` ("euclidean" or "cosine").

    Raises MethodError where learn2learn is not installed. Imported late and quietly: it imports gym, which prints a
    notice to stderr.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            from learn2learn.nn import PrototypicalClassifier
        except ImportError as error:
            raise MethodError(
                "ProtoNet classifies with learn2learn, which cannot be imported here; `uv sync` in the project's folder "
                f"builds and installs it ({error})"
            ) from error
    return PrototypicalClassifier(distance=distance)


class ProtoNet(Method):
    """The target network meta-trained so that class means of its features classify."""

    name: ClassVar[str] = "protonet"

    def __init__(
        self, target: TargetSpec, n_training_classes: int, *, support_per_class: int = SUPPORT_PER_CLASS
    ) -> None:
        super().__init__(target, n_training_classes)
        self.support_per_class = support_per_class
        self.network: nn.Module = targets.build(target)
        self.classifier = prototypical_classifier("euclidean")

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict(state)

    def features(self, images: Tensor) -> Tensor:
        """The network's features [n, d] of ``images`` [n, c, h, w]; float32, since squared distances need it."""
        with self.autocast():
            features: Tensor = self.network(images)
        return features.float()

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)

        def step(episode: Episode) -> dict[str, Tensor]:
            n_support = len(episode.support)
            features = self.features(torch.cat((episode.support.images, episode.query.images)))
            self.classifier.fit_(features[:n_support], episode.support.labels)
            loss = F.cross_entropy(self.classifier(features[n_support:]), episode.query.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        train_until_converged(self, self.network, groups.episodes(), step, groups, session)

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.network.eval()
        support = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        classifier = prototypical_classifier("euclidean")
        classifier.fit_(self.features(dataset.images[support]), dataset.labels[support])

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            logits: Tensor = classifier(self.features(images))
            return logits

        yield Snapshot(classify)
