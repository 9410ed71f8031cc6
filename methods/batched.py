"""Several groups at once: a target for each, computed as one network of grouped convolutions.

A route to accuracies, never to times: those are of one group alone. Images of G groups lie side by side as channels
[n, G * c, h, w], and a convolution with G times as many groups gives each its own kernels. BatchNorm keeps statistics per
channel, and so per group; ReLU, pooling and adding do not mix channels; Adam, and the mean per row that gradient
centralization subtracts, do not mix rows. So every group gets what it gets alone, up to the order of floating-point sums.

No command measures by it, because on a CPU it is slower where images are not tiny. Speed in units of one group after
another, for 4 and 16 groups of ConvNet-3 trained at once (AMD EPYC, one thread, a machine in use by others): in bfloat16
1.2 and 1.4 at 8x8 pixels, 1.0 and 0.7 at 28x28, 0.9 and 0.6 at 32x32; in float32 1.0 and 1.4, 0.8 and 0.6, 0.7 and 0.5.
``torch.func.vmap`` over stacked parameters of 4 groups, in bfloat16: 0.5, 0.3, 0.2. The gradients of 4 groups of a
meta-training step: 1.0, 0.8, 0.7. ``harness.bench.batched`` measures all of these on any device; on CUDA none is known yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pudnet_bench.methods.base import Dataset, Episode, MethodError, Snapshot
from pudnet_bench.methods.pudnet.losses import Losses
from pudnet_bench.methods.pudnet.method import PudNet, images_of
from pudnet_bench.methods.scratch import Scratch


def widened(network: nn.Module, groups: int) -> nn.Module:
    """A copy of ``network`` for ``groups`` groups, to be called by ``features`` with ``stacked`` states.

    Right for convolutions, BatchNorm and whatever treats channels alike: all that ``methods.targets`` are made of.
    """
    wide = deepcopy(network)
    for module in wide.modules():
        if isinstance(module, nn.Conv2d):
            module.groups *= groups
    return wide


def stacked(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """States of one network for several groups -> one for the widened network; scalars (BatchNorm's count) are the first's."""
    return {
        name: torch.cat([state[name] for state in states]) if first.dim() else first.clone()
        for name, first in states[0].items()
    }


def features(wide: nn.Module, state: dict[str, Tensor], images: Tensor) -> Tensor:
    """``images`` [n, groups, c, h, w] through a widened target with a stacked state -> features [n, groups, d]."""
    channels = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    side_by_side: Tensor = functional_call(wide, state, (channels,))
    return side_by_side.unflatten(1, (images.shape[1], -1))


def fit(method: Scratch, datasets: Sequence[Dataset], seeds: Sequence[int]) -> Iterator[list[Snapshot]]:
    """Train on all ``datasets`` at once; at each of the method's epochs, a snapshot for every dataset.

    Each draws its first parameters and the order of its images as ``method.fit`` does after ``torch.manual_seed(seed)``;
    torch's own random state stays as it was. Images are copied, and memory grows with the number of datasets. Raises
    MethodError where datasets differ in their number of images or classes, and for the loop of a plain script.
    """
    if method.plain:
        raise MethodError(f"{method.name} with loop=dataloader trains one group at a time; leave out the loop")
    if len({(len(dataset), dataset.n_classes) for dataset in datasets}) > 1:
        raise MethodError("groups trained at once need equal numbers of images and of classes; fit them one by one")
    groups = torch.arange(len(datasets), device=datasets[0].labels.device)
    images = torch.stack([dataset.images for dataset in datasets], 1)
    labels = torch.stack([dataset.labels for dataset in datasets], 1)
    networks, orders = _draws(method, datasets, seeds)
    wide = widened(networks[0][0], len(datasets)).train()
    state = stacked([network[0].state_dict() for network in networks])
    head = stacked([network[1].state_dict() for network in networks])
    names = [name for name, _ in networks[0][0].named_parameters()]
    optimizer = method.optimizer(
        [*(state[name].requires_grad_() for name in names), *(t.requires_grad_() for t in head.values())]
    )
    for epoch, order in enumerate(orders, 1):
        for batch in order.split(method.batch_size):
            if len(batch) == 1:
                continue  # as in Scratch.fit
            with method.autocast():
                found = features(wide, state, images[batch, groups])
                weight = head["weight"].unflatten(0, (len(groups), -1))
                logits = torch.einsum("ngd,gkd->ngk", found, weight) + head["bias"].view(len(groups), -1)
            # The mean over a group's images, summed over groups: each has the gradient that it has alone.
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels[batch, groups].flatten(), reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            (loss / len(batch)).backward()
            optimizer.step()
        if epoch in method.epochs:
            for place, network in enumerate(networks):
                for module, together in ((network[0], state), (network[1], head)):
                    module.load_state_dict(
                        {name: t.chunk(len(groups))[place] if t.dim() else t for name, t in together.items()}
                    )
            yield [method.snapshot(network, epoch) for network in networks]


def _draws(method: Scratch, datasets: Sequence[Dataset], seeds: Sequence[int]) -> tuple[list[nn.Sequential], Tensor]:
    """What ``method.fit`` draws: for each dataset a network, and orders of images int64 [epochs, n, datasets]."""
    networks, orders = [], []
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        for dataset, seed in zip(datasets, seeds, strict=True):
            torch.manual_seed(seed)
            networks.append(method.start(dataset))
            orders.append(torch.stack([method.order(dataset) for _ in range(max(method.epochs))]))
    return networks, torch.stack(orders, -1)


def episode_losses(method: PudNet, episodes: Sequence[Episode]) -> list[Losses]:
    """``method.episode_losses`` of several episodes of equal size, whose images pass through the target at once.

    Gradients are those of one episode after another. The target's running statistics are left as they were.
    """
    kernels = [method.hypernetwork(episode.fit.images) for episode in episodes]
    shared = dict(method.network.named_parameters()) | {n: b.clone() for n, b in method.network.named_buffers()}
    images = torch.stack([images_of(episode) for episode in episodes], 1)
    with method.autocast():
        found = features(widened(method.network, len(episodes)), stacked([shared | own for own in kernels]), images)
    return [method.losses_of(own, episode) for own, episode in zip(found.float().unbind(1), episodes, strict=True)]
