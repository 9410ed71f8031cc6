"""Training steps as CUDA graphs: one call launches all kernels of a recorded step.

On batches of 32 small images a step is dozens of kernels of a few microseconds each, about the time the host needs to
launch one. A graph replays the same kernels on the same memory, so everything that a step touches has a fixed address.
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

WARM_UPS = 3  # steps before a recording, in which libraries choose kernels and the optimiser creates its state


def recorded(step: Callable[[], None], optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Record `step` as a CUDA graph and return a callable that replays it on the current stream.

    `step` first runs a few times, on a side stream as CUDA graphs require; its effects remain.

    Raises:
        MethodError: on a CPU, and for an optimiser other than fused Adam, whose step cannot be captured.
    """
    if not (isinstance(optimizer, torch.optim.Adam) and all(group["fused"] for group in optimizer.param_groups)):
        raise MethodError(
            f"loop='graph' records steps of torch's Adam with fused=True, not of {type(optimizer).__name__}; use loop='device'"
        )
    if any(p.device.type != "cuda" for group in optimizer.param_groups for p in group["params"]):
        raise MethodError("loop='graph' needs a CUDA device, and this is a CPU; use loop='device', or --device cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for group in optimizer.param_groups:
        group["capturable"] = True  # required by torch during capture, and a warning at any other time
    try:
        with torch.cuda.graph(graph):
            step()
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
    return graph.replay


class StaticTraining:
    """Cross-entropy training of `network` on datasets of one shape, whose steps are recorded once and replayed.

    `begin` restarts it in place with a freshly initialised network on another dataset, which invalidates earlier
    classifiers. Epochs draw the images' order as `methods.scratch` does and skip batches of one image, too.
    """

    def __init__(
        self,
        network: nn.Sequential,
        optimizer: torch.optim.Optimizer,
        dataset: Dataset,
        batch_size: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.network, self.optimizer, self.autocast = network.train(), optimizer, autocast
        self.images, self.labels, self.n_classes = dataset.images.clone(), dataset.labels.clone(), dataset.n_classes
        self.batch_size = batch_size
        sizes = {min(batch_size, len(dataset)), len(dataset) % batch_size} - {0, 1}
        self.places = {size: torch.arange(size, device=self.labels.device) for size in sizes}
        self.steps = {size: recorded(partial(self._step, places), optimizer) for size, places in self.places.items()}

    def suits(self, dataset: Dataset) -> bool:
        """Return whether `dataset` has the shape, memory layout, device and classes that were recorded."""
        mine, other = self.images, dataset.images
        return (mine.shape, mine.stride(), mine.dtype, mine.device, self.n_classes) == (
            other.shape, other.stride(), other.dtype, other.device, dataset.n_classes,
        )  # fmt: skip

    @torch.no_grad()
    def begin(self, fresh: nn.Module, dataset: Dataset) -> None:
        """Start over with the parameters of `fresh` on `dataset`, which `suits`."""
        self.images.copy_(dataset.images)
        self.labels.copy_(dataset.labels)
        self.network.load_state_dict(fresh.state_dict())
        for state in self.optimizer.state.values():
            for value in state.values():  # Adam's step count and moments start at zero
                value.zero_()

    def epoch(self) -> None:
        """Train for one pass over the images in random order."""
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for batch in order.split(self.batch_size):
            if len(batch) > 1:
                self.places[len(batch)].copy_(batch)
                self.steps[len(batch)]()

    def _step(self, places: Tensor) -> None:
        with self.autocast():  # inside the graph, so that no cast weight outlives its step
            logits = self.network(self.images[places])
        loss = F.cross_entropy(logits.float(), self.labels[places])
        self.optimizer.zero_grad(set_to_none=True)  # so that a replay overwrites gradients instead of adding to them
        loss.backward()
        self.optimizer.step()
