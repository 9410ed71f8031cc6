"""Nearest class mean of the target network's features, learned on groups of the training classes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from methods import targets
from methods.base import Dataset, Episode, GroupStream, Method, Session, Snapshot, TargetSpec
from methods.meta_training import LEARNING_RATE, train_until_converged
from methods.metric import euclidean_logits, prototypes


class MyMethod(Method):
    """Nearest class mean."""

    name = "my-method"  # of its rows, and for --methods

    def __init__(self, target: TargetSpec, n_training_classes: int, *, scale: float = 1.0) -> None:
        super().__init__(target, n_training_classes)
        self.scale = scale  # an option: a suite's Variant may give it another value
        self.network = targets.build(target)  # images [n, c, h, w] -> features [n, d]

    def features(self, images: Tensor) -> Tensor:
        with self.autocast():  # the precision that all methods of a run have
            return self.network(images).float() * self.scale

    def class_means(self, known: Dataset) -> Tensor:
        return prototypes(self.features(known.images), known.labels, known.n_classes)

    # Learning before any unseen group is met. A method that does not do it leaves out all but fit.
    def meta_train(self, groups: GroupStream, session: Session) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)

        def losses(episode: Episode) -> dict[str, Tensor]:
            logits = euclidean_logits(self.features(episode.query.images), self.class_means(episode.support))
            return {"loss": F.cross_entropy(logits, episode.query.labels)}

        train_until_converged(self, self.network, optimizer, groups.episodes, losses, groups, session)

    # The only part that is timed: labelled images in, a classifier out.
    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.network.eval()  # so that BatchNorm does not look at the test images
        means = self.class_means(dataset)
        yield Snapshot(torch.no_grad()(lambda images: euclidean_logits(self.features(images), means)))

    # What was learned, to be stored, and to be moved to a GPU.
    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict(state)

    def to(self, device: torch.device) -> None:
        self.network.to(device)
