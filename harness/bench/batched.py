"""Several groups at once against one after another: training from scratch, and a step of PudNet's meta-training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from pudnet_bench.harness.bench.ratio import Ratio, interleaved
from pudnet_bench.harness.bench.setting import Setting
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.methods import batched
from pudnet_bench.methods.base import Dataset, Episode, TargetSpec
from pudnet_bench.methods.pudnet.losses import Losses
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.scratch import Adam

SIZES = (4, 16)  # groups at once
FAMILIES = {(1, 8, 8): 2, (1, 28, 28): 2, (3, 32, 32): 5}  # image shape: classes of a group, as the families have them
FIT_IMAGES, SUPPORT, QUERIES = 160, 10, 100  # of a group; of a class; of an episode


def datasets(shape: tuple[int, int, int], groups: int, device: torch.device) -> list[Dataset]:
    """Random groups of ``FIT_IMAGES`` images."""
    ways = FAMILIES[shape]
    labels = torch.arange(ways, device=device).repeat_interleave(FIT_IMAGES // ways)
    images = (torch.randn(len(labels), *shape, device=device) for _ in range(groups))
    return [Dataset(values.to(memory_format=torch.channels_last), labels, ways) for values in images]


def trainer(shape: tuple[int, int, int], compute: Compute) -> Adam:
    """One epoch of training ConvNet-3 from scratch."""
    method = Adam(TargetSpec("convnet3", shape), 0, epochs=(1,))
    method.autocast = compute.autocast
    return method


def one_by_one(method: Adam, groups: Sequence[Dataset]) -> None:
    """Train on each group alone, as the harness does."""
    for seed, dataset in enumerate(groups):
        torch.manual_seed(seed)
        for _ in method.fit(dataset):
            pass


def at_once(method: Adam, groups: Sequence[Dataset]) -> None:
    """Train on all groups by grouped convolutions."""
    for _ in batched.fit(method, groups, range(len(groups))):
        pass


def vmapped(method: Adam, groups: Sequence[Dataset]) -> None:
    """Train on all groups by `torch.func.vmap` over stacked parameters."""
    networks = [method.start(dataset).train() for dataset in groups]
    parameters, buffers = stack_module_state(networks)

    def loss(own: dict[str, Tensor], statistics: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        with method.autocast():
            logits = functional_call(networks[0], (own, statistics), (images,))
        return F.cross_entropy(logits.float(), labels)

    losses = vmap(loss)
    optimizer = method.optimizer(parameters.values())
    images, labels = (torch.stack([getattr(dataset, name) for dataset in groups]) for name in ("images", "labels"))
    place = torch.arange(len(groups), device=labels.device).unsqueeze(1)
    order = torch.stack([method.order(dataset) for dataset in groups])
    for batch in order.split(method.batch_size, 1):
        optimizer.zero_grad(set_to_none=True)
        losses(parameters, buffers, images[place, batch], labels[place, batch]).sum().backward()
        optimizer.step()


def episodes(shape: tuple[int, int, int], groups: int, device: torch.device) -> list[Episode]:
    """Random training groups of ``FIT_IMAGES`` images and their episodes."""
    ways, found = FAMILIES[shape], []
    for index, fit in enumerate(datasets(shape, groups, device)):
        images = fit.images.unflatten(0, (ways, -1))
        support, query = (
            Dataset(
                part.flatten(0, 1).contiguous(memory_format=torch.channels_last),
                torch.arange(ways, device=device).repeat_interleave(part.shape[1]),
                ways,
            )
            for part in (images[:, :SUPPORT], images[:, SUPPORT : SUPPORT + QUERIES // ways])
        )
        found.append(Episode(index, support, query, torch.arange(ways, device=device), partial(lambda own: own, fit)))
    return found


def learner(shape: tuple[int, int, int], compute: Compute) -> PudNet:
    """PudNet for ConvNet-3, in training mode."""
    method = PudNet(TargetSpec("convnet3", shape), 80)
    method.autocast = compute.autocast
    method.to(compute.device)
    method.modules.train()
    return method


def gradients_one_by_one(method: PudNet, groups: Sequence[Episode]) -> None:
    """The gradients of a step, one episode after another."""
    for episode in groups:
        method.episode_losses(episode).total.backward()
    method.modules.zero_grad()


def gradients_at_once(method: PudNet, groups: Sequence[Episode]) -> None:
    """The gradients of a step, all episodes through one target of grouped convolutions."""
    losses: list[Losses] = batched.episode_losses(method, groups)
    torch.stack([parts.total for parts in losses]).sum().backward()
    method.modules.zero_grad()


def measure(setting: Setting) -> list[Ratio]:
    """Speed of several groups at once, and of the fewest of them by vmap and in meta-training, for each image shape."""
    compute, rounds, sizes = setting.compute, setting.turns(5), SIZES[:1] if setting.quick else SIZES
    torch.manual_seed(0)
    found = []
    for shape in FAMILIES:
        size = "x".join(map(str, shape))
        method = trainer(shape, compute)
        for count in sizes:
            groups = datasets(shape, count, compute.device)
            ways = {"grouped convolutions": at_once} | ({"vmap": vmapped} if count == sizes[0] else {})
            for name, way in ways.items():
                found.append(
                    interleaved(
                        f"training from scratch, {count} groups at once by {name}, convnet3, {size}, "
                        f"{compute.precision}",
                        partial(way, method, groups),
                        "one group after another",
                        partial(one_by_one, method, groups),
                        compute.device,
                        rounds=rounds,
                        inverse=True,
                    )
                )
        pudnet, step = learner(shape, compute), episodes(shape, sizes[0], compute.device)
        found.append(
            interleaved(
                f"a step of PudNet's meta-training, {len(step)} groups at once, convnet3, {size}, {compute.precision}",
                partial(gradients_at_once, pudnet, step),
                "one group after another",
                partial(gradients_one_by_one, pudnet, step),
                compute.device,
                rounds=rounds,
                inverse=True,
            )
        )
    return found
