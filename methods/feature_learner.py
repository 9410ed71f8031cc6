"""Base class of the metric learners: the target network as feature extractor, a classifier built from support features.

By default a subclass meta-trains on episodes with its `classifier` and cross-entropy, by the schedule of all methods
(Adam, 1e-3).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods import metric, targets
from pudnet_bench.methods.base import Dataset, Episode, GroupStream, Method, MethodError, Session, Snapshot, TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, support_indices

Logits = Callable[[Tensor], Tensor]
"""Maps query features [n, d] to logits [n, n_classes]."""

Distance = Literal["euclidean", "cosine"]


@cache
def prototype_classifier_name() -> Literal["learn2learn", "methods.metric"]:
    """Return whose code classifies by class means in this environment: learn2learn's wherever it is installed."""
    return "learn2learn" if find_spec("learn2learn") else "methods.metric"


def prototypical_classifier(distance: Distance) -> Any:
    """Return learn2learn's `PrototypicalClassifier`, without support yet.

    Raises:
        MethodError: if learn2learn is not installed or fails to import.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # it imports gym, which prints a notice
        try:
            from learn2learn.nn import PrototypicalClassifier
        except ImportError as error:
            raise MethodError(
                f"learn2learn cannot be imported ({error}); install the extra pudnet-bench[learn2learn], or uninstall "
                "learn2learn to classify without it"
            ) from error
    return PrototypicalClassifier(distance=distance)


def nearest_prototype(distance: Distance, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
    """Return the classifier by class means of support `features` float [n, d] with `labels` int64 [n].

    It is learn2learn's where that is installed and otherwise that of `methods.metric`, equal to rounding. Logits are
    negative squared distances or cosines.

    Raises:
        MethodError: if learn2learn is installed but fails to import.
    """
    if prototype_classifier_name() == "learn2learn":
        classifier: Logits = prototypical_classifier(distance)
        classifier.fit_(features, labels)  # type: ignore[attr-defined]
        return classifier
    means = metric.prototypes(features, labels, n_classes)
    if distance == "cosine":
        return lambda query: metric.cosine_logits(query, means, 1.0)
    return lambda query: metric.euclidean_logits(query, means)


class FeatureLearner(Method):
    """The target network, learned once and then frozen; fitting a group only builds a classifier on its support.

    `support_per_class` images per class define the classifier. A subclass may build another `network` than the target.
    """

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        support_per_class: int = SUPPORT_PER_CLASS,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(target, n_training_classes)
        self.support_per_class = support_per_class
        self.modules = nn.ModuleDict({"network": network or targets.build(target)})

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        """Return the classifier defined by support `features` float [n, d] and `labels` int64 [n] in 0..n_classes-1.

        By default it goes by cosine to class centroids times 10 (Chen et al. 2021, section 3.1).
        """
        centroids = metric.prototypes(features, labels, n_classes)
        return lambda query: metric.cosine_logits(query, centroids, metric.TEMPERATURE)

    def features(self, images: Tensor) -> Tensor:
        """Return the features float32 [n, d] of `images` [n, c, h, w]."""
        with self.autocast():
            features: Tensor = self.modules["network"](images)
        return features.float()

    def to(self, device: torch.device) -> None:
        self.modules.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.modules.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.modules.load_state_dict(state)

    def start_from(self, base: Method) -> None:
        state = base.state_dict().items()
        network = {name.removeprefix("network."): tensor for name, tensor in state if name.startswith("network.")}
        self.modules["network"].load_state_dict(network)

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        return copy.deepcopy(self.modules["network"])

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.modules.parameters(), lr=LEARNING_RATE, fused=True)

        def losses(episode: Episode) -> dict[str, Tensor]:
            n_support = len(episode.support)
            features = self.features(torch.cat((episode.support.images, episode.query.images)))
            classify = self.classifier(features[:n_support], episode.support.labels, episode.support.n_classes)
            return {"loss": F.cross_entropy(classify(features[n_support:]), episode.query.labels)}

        train_until_converged(self, self.modules, optimizer, groups.episodes, losses, groups, session)

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.modules.eval()
        support = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        classify = self.classifier(self.features(dataset.images[support]), dataset.labels[support], dataset.n_classes)

        @torch.no_grad()
        def classifier(images: Tensor) -> Tensor:
            return classify(self.features(images))

        yield Snapshot(classifier)
