"""Training the target network from scratch on one group, the baseline that parameter prediction competes with."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Dataset, ImagePasses, Method, MethodError, Snapshot, TargetSpec
from pudnet_bench.methods.graphs import StaticTraining

LOOPS = ("device", "dataloader", "graph")
WORKERS = 2  # DataLoader processes of the plain script


class Scratch(Method):
    """The target network with a linear head, trained by cross-entropy on the group's fit images.

    The paper states Adam at 1e-3 (section 4.3) but neither batch size nor augmentation: here batches of 32 and none.

    Args:
        epochs: numbers of epochs at which one training yields a snapshot.
        batch_size: images of a step; a last batch of one image is skipped.
        initial_seed: starts every group from the same target, so that trained parameters of different groups can be
            compared (Figure 1).
        loop: "device": as fast as possible; images on the device, the harness's precision, a fused optimiser.
            "dataloader": like the plain script that the paper's times suggest; torch's DataLoader with `WORKERS`
            processes started anew for each epoch, eager float32 in contiguous memory, torch's default optimiser.
            "graph": like "device", with each step replayed as a CUDA graph. The first fit, an untimed warm-up, records
            it; a fit of another dataset shape records again, within its time. A fit invalidates earlier snapshots.

    Raises:
        MethodError: for another loop, and from `fit` where "graph" finds a CPU or an optimiser that cannot be recorded.
    """

    iterative: ClassVar[bool] = True
    paper_clock: ClassVar[Mapping[str, Any]] = {"loop": "dataloader"}

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        epochs: tuple[int, ...] = (1, 30, 50),
        batch_size: int = 32,
        lr: float = 1e-3,
        initial_seed: int | None = None,
        loop: str = "device",
    ) -> None:
        super().__init__(target, n_training_classes)
        if loop not in LOOPS:
            raise MethodError(f"{self.name}'s loop is {', '.join(LOOPS[:-1])} or {LOOPS[-1]}, not '{loop}'")
        self.plain, self.graphed = loop == "dataloader", loop == "graph"
        self.recorded: StaticTraining | None = None
        self.initial_seed = initial_seed
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr

    @abstractmethod
    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser under test for the parameters of a freshly initialised network."""

    def fit_passes(self, images: int, support: int) -> ImagePasses:
        return ImagePasses(images * max(self.epochs, default=0))

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        """Return the freshly initialised target, on the device."""
        with torch.random.fork_rng(enabled=self.initial_seed is not None):
            if self.initial_seed is not None:
                torch.manual_seed(self.initial_seed)
            return targets.build(self.target).to(dataset.images.device)

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        features = self.fitted_network(dataset)
        head = nn.Linear(targets.feature_count(features, self.target.image_shape), dataset.n_classes)
        network = nn.Sequential(features, head).to(dataset.images.device)
        if self.graphed:
            training = self._recorded_for(dataset, network)
            network, one_epoch = training.network, training.epoch
        else:
            one_epoch = partial(next, self._epochs(network, dataset))
        for epoch in range(1, max(self.epochs) + 1):
            network.train()
            one_epoch()
            if epoch in self.epochs:
                network.eval()
                yield Snapshot(partial(self._classify, network), f"{epoch} epochs", epoch, network[0])

    def _epochs(self, network: nn.Module, dataset: Dataset) -> Iterator[None]:
        """Train `network` for one epoch per item."""
        batches = self._loaded(dataset) if self.plain else self._gathered(dataset)
        if self.plain:
            network.to(memory_format=torch.contiguous_format)
        optimizer = self.optimizer(network.parameters())
        while True:
            for images, labels in next(batches):
                if len(labels) == 1:
                    continue  # BatchNorm cannot estimate a variance from one image
                with self._precision():
                    logits = network(images)
                loss = F.cross_entropy(logits.float(), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            yield

    def _recorded_for(self, dataset: Dataset, network: nn.Sequential) -> StaticTraining:
        """Return the training that replays recorded steps, started from the parameters of `network`."""
        if self.recorded is None or not self.recorded.suits(dataset):
            self.recorded = None  # frees its memory before other steps are recorded
            own = copy.deepcopy(network)
            optimizer = self.optimizer(own.parameters())
            self.recorded = StaticTraining(own, optimizer, dataset, self.batch_size, self._precision)
        self.recorded.begin(network, dataset)
        return self.recorded

    def _gathered(self, dataset: Dataset) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
        """Yield each epoch's batches, gathered on the device."""
        while True:
            order = torch.randperm(len(dataset), device=dataset.labels.device)
            yield ((dataset.images[batch], dataset.labels[batch]) for batch in order.split(self.batch_size))

    def _loaded(self, dataset: Dataset) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
        """Yield each epoch's batches, loaded image by image by the processes of a DataLoader."""
        device = dataset.labels.device
        loader = DataLoader(
            TensorDataset(dataset.images.cpu().contiguous(), dataset.labels.cpu()),
            self.batch_size,
            shuffle=True,
            num_workers=WORKERS,
            pin_memory=device.type == "cuda",
        )
        while True:
            yield ((images.to(device), labels.to(device)) for images, labels in loader)

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.plain else self.autocast()

    @torch.no_grad()
    def _classify(self, network: nn.Module, images: Tensor) -> Tensor:
        with self._precision():
            logits: Tensor = network(images)
        return logits.float()


class Adam(Scratch):
    """Training from scratch with Adam (Kingma & Ba 2015)."""

    name: ClassVar[str] = "adam"

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, fused=None if self.plain else True)
