"""How much of what PudNet computes differs between datasets, and how much all datasets have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pudnet_bench.methods.base import Dataset
from pudnet_bench.methods.pudnet.method import PudNet


@dataclass(frozen=True)
class Variation:
    """Shares (0..1) of the mean square that vary between datasets: 0 is the same for all, 1 has nothing in common.

    `sketch` is taken as it leaves the extractor, `context` is what the generators are given, `kernels` are all kernels of
    the target, each divided by its root mean square so that every layer counts by its size.
    """

    sketch: float
    context: float
    kernels: float


@torch.no_grad()
def variation(method: PudNet, datasets: Iterable[Dataset]) -> Variation:
    """Return the shares over `datasets`, at least two, of a trained `method`."""
    method.modules.eval()
    network = method.hypernetwork
    contexts: list[Tensor] = []
    hooks = [each.register_forward_pre_hook(lambda _, given: contexts.append(given[0])) for each in network.generators]
    rows: dict[str, list[Tensor]] = {"sketch": [], "context": [], "kernels": []}
    try:
        for dataset in datasets:
            contexts.clear()
            sketch = network.sketch.stream(dataset.images, dataset.labels)
            kernels = network.kernels(sketch)
            rows["sketch"].append(sketch.flatten())
            rows["context"].append(torch.cat(contexts))
            scaled = [kernels[name].flatten() / kernels[name].square().mean().sqrt() for name in network.names]
            rows["kernels"].append(torch.cat(scaled))
    finally:
        for hook in hooks:
            hook.remove()
    return Variation(**{name: share_between(torch.stack(values)) for name, values in rows.items()})


@torch.no_grad()
def share_between(values: Tensor) -> float:
    """Return the share of the mean square of `values` [n, d] that is variance over the n rows."""
    values = values.double()
    return float(values.var(0, correction=0).sum() / values.square().mean(0).sum().clamp_min(1e-300))
