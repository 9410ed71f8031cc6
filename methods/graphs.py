"""Training steps as CUDA graphs: all kernels of a step are launched by one call, as they were recorded, and not one by one.

On batches of 32 small images a step is dozens of kernels of microseconds each, about what the host takes to launch one. A
graph repeats the same kernels on the same memory, so everything that a step touches has a fixed place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods.base import Dataset, MethodError

WARM_UPS = 3  # steps before a recording, in which libraries choose their kernels and optimisers make their state
Recorder = Callable[[Callable[[], None], torch.optim.Optimizer], Callable[[], object]]
"""``record(step, optimizer)`` gives what repeats ``step``, which uses ``optimizer``."""


def recorded(step: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """``step`` as a CUDA graph; what is returned replays it on the current stream.

    ``step`` runs a few times first, on a stream of its own as torch asks of what is captured, and changes what it changes.
    Raises MethodError on a CPU, and for an optimiser whose step cannot be captured whole.
    """
    if not (isinstance(optimizer, torch.optim.Adam) and all(group["fused"] for group in optimizer.param_groups)):
        raise MethodError(
            f"loop='graph' records steps of torch's Adam with fused=True, not of {type(optimizer).__name__}; use loop='device'"
        )
    if any(p.device.type != "cuda" for group in optimizer.param_groups for p in group["params"]):
        raise MethodError(
            "loop='graph' replays CUDA graphs, and this device is a CPU; use loop='device', or --device cuda"
        )
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    _set_capturable(optimizer, True)  # torch asks for it while it captures, and warns of it at any other time
    try:
        with torch.cuda.graph(graph):
            step()
    finally:
        _set_capturable(optimizer, False)
    return graph.replay


def _set_capturable(optimizer: torch.optim.Optimizer, value: bool) -> None:
    for group in optimizer.param_groups:
        group["capturable"] = value


class StaticTraining:
    """Training of ``network`` by cross-entropy on datasets of one shape, each step of which is recorded once.

    ``begin`` makes it the training of another freshly initialised network on another dataset, in place: what classified
    before does not any more. An epoch draws the order that the loop of ``methods.scratch`` draws, and skips, as it does, a
    batch of one image.
    """

    def __init__(
        self,
        network: nn.Sequential,
        optimizer: torch.optim.Optimizer,
        dataset: Dataset,
        batch_size: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        record: Recorder,
    ) -> None:
        self.network, self.optimizer, self.autocast = network.train(), optimizer, autocast
        self.images, self.labels, self.n_classes = dataset.images.clone(), dataset.labels.clone(), dataset.n_classes
        self.batch_size = batch_size
        sizes = {min(batch_size, len(dataset)), len(dataset) % batch_size} - {0, 1}
        self.places = {size: torch.arange(size, device=self.labels.device) for size in sizes}
        self.steps = {size: record(partial(self._step, places), optimizer) for size, places in self.places.items()}

    def suits(self, dataset: Dataset) -> bool:
        """Whether ``dataset`` has the shape, layout, device and classes that were recorded."""
        mine, other = self.images, dataset.images
        return (mine.shape, mine.stride(), mine.dtype, mine.device, self.n_classes) == (
            other.shape, other.stride(), other.dtype, other.device, dataset.n_classes,
        )  # fmt: skip

    @torch.no_grad()
    def begin(self, fresh: nn.Module, dataset: Dataset) -> None:
        """From now on the training of a network with the state of ``fresh`` on ``dataset``, which ``suits``."""
        self.images.copy_(dataset.images)
        self.labels.copy_(dataset.labels)
        self.network.load_state_dict(fresh.state_dict())
        for state in self.optimizer.state.values():
            for value in state.values():  # Adam's steps and moments begin at zero
                value.zero_()

    def epoch(self) -> None:
        """One pass over the images in a random order."""
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for batch in order.split(self.batch_size):
            if len(batch) > 1:
                self.places[len(batch)].copy_(batch)
                self.steps[len(batch)]()

    def _step(self, places: Tensor) -> None:
        with self.autocast():  # opened and closed inside the graph: no cast of a weight outlives the step that made it
            logits = self.network(self.images[places])
        loss = F.cross_entropy(logits.float(), self.labels[places])
        self.optimizer.zero_grad(set_to_none=True)  # so that a replay writes gradients and does not add to them
        loss.backward()
        self.optimizer.step()
