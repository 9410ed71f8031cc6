"""Training the target network from scratch on one group: what predicting its parameters competes with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import targets
from methods.base import Dataset, Method, Snapshot, TargetSpec


class Scratch(Method):
    """The target network with a linear head, trained by cross-entropy on the group's fit images.

    One training gives a snapshot at each of ``epochs``. The paper states Adam at 1e-3 (section 4.3) and neither batch
    size nor augmentation: here batches of 32 and none. With ``initial_seed`` every group begins with the same target, so
    that trained parameters of different groups can be compared (Figure 1); without, with one of its own.
    """

    iterative: ClassVar[bool] = True

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        epochs: tuple[int, ...] = (1, 30, 50),
        batch_size: int = 32,
        lr: float = 1e-3,
        initial_seed: int | None = None,
    ) -> None:
        super().__init__(target, n_training_classes)
        self.initial_seed = initial_seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr

    @abstractmethod
    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser under test, for a freshly initialised network."""

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        """The freshly initialised target, on the device."""
        if self.initial_seed is None:
            return targets.build(self.target).to(dataset.images.device)
        with torch.random.fork_rng():
            torch.manual_seed(self.initial_seed)
            return targets.build(self.target).to(dataset.images.device)

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        device = dataset.images.device
        features = self.fitted_network(dataset)
        width = targets.feature_count(features, self.target.image_shape)
        network = nn.Sequential(features, nn.Linear(width, dataset.n_classes)).to(device)
        optimizer = self.optimizer(network.parameters())
        for epoch in range(1, max(self.epochs) + 1):
            network.train()
            order = torch.randperm(len(dataset), device=device)
            for batch in order.split(self.batch_size):
                if len(batch) == 1:
                    continue  # BatchNorm cannot estimate a variance from one image
                with self.autocast():
                    logits = network(dataset.images[batch])
                loss = F.cross_entropy(logits.float(), dataset.labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if epoch in self.epochs:
                network.eval()
                yield Snapshot(partial(self._classify, network), f"{epoch} epochs", epoch, features)

    @torch.no_grad()
    def _classify(self, network: nn.Module, images: Tensor) -> Tensor:
        with self.autocast():
            logits: Tensor = network(images)
        return logits.float()


class Adam(Scratch):
    """Training from scratch by Adam (Kingma & Ba 2015), fused into one kernel per step."""

    name: ClassVar[str] = "adam"

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, fused=True)
