"""Training the target network from scratch on one group: what predicting its parameters competes with."""

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
from pudnet_bench.methods.base import Dataset, Method, MethodError, Snapshot, TargetSpec
from pudnet_bench.methods.graphs import StaticTraining, recorded

LOOPS = ("device", "dataloader", "graph")
WORKERS = 2  # processes of the plain script's DataLoader


class Scratch(Method):
    """The target network with a linear head, trained by cross-entropy on the group's fit images.

    One training gives a snapshot at each of `epochs`. The paper states Adam at 1e-3 (section 4.3) and neither batch
    size nor augmentation: here batches of 32 and none. With `initial_seed` every group begins with the same target, so
    that trained parameters of different groups can be compared (Figure 1); without, with one of its own.

    `loop="device"` is training at its best: images stay on the device, the precision is the harness's, the optimiser one
    fused kernel. `loop="dataloader"` is a plain script, as the paper's times suggest it had: torch's DataLoader with
    `WORKERS` processes begun anew for each epoch, eager float32 in contiguous memory, the optimiser as torch defaults it.
    `loop="graph"` is training at its best with each step replayed as a CUDA graph. The first fit records it, which is the
    one that warms up, not timed, as compiling is not; a fit that finds another shape of dataset records again, and its time
    has that in it. A fit ends the snapshots of the one before. Raises MethodError for another loop, and `fit` does
    where "graph" finds a CPU or an optimiser that it cannot record.
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
        self.plain = loop == "dataloader"
        self.graphed = loop == "graph"
        self.recorded: StaticTraining | None = None
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
        """Trains `network` for one epoch after the other."""
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
        """The training that replays recorded steps, begun with the state of `network`."""
        if self.recorded is None or not self.recorded.suits(dataset):
            self.recorded = None  # its memory is free before other steps are recorded
            own = copy.deepcopy(network)
            optimizer = self.optimizer(own.parameters())
            self.recorded = StaticTraining(own, optimizer, dataset, self.batch_size, self._precision, recorded)
        self.recorded.begin(network, dataset)
        return self.recorded

    def _gathered(self, dataset: Dataset) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
        """Epoch after epoch its batches, gathered on the device."""
        while True:
            order = torch.randperm(len(dataset), device=dataset.labels.device)
            yield ((dataset.images[batch], dataset.labels[batch]) for batch in order.split(self.batch_size))

    def _loaded(self, dataset: Dataset) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
        """Epoch after epoch its batches, image by image through the processes of a DataLoader."""
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
    """Training from scratch by Adam (Kingma & Ba 2015)."""

    name: ClassVar[str] = "adam"

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, fused=None if self.plain else True)
