"""Meta-DeepBDC (Xie et al. 2022, "Joint Distribution Matters: Deep Brownian Distance Covariance for Few-Shot Classification").

An image is represented by the Brownian distance covariance (BDC) matrix of its last feature map; the network is
pretrained as a classifier of these and then meta-trained like ProtoNet. Official code: github.com/Fei-Long121/DeepBDC
(`methods/bdc_module.py`, `meta_deepbdc.py` and `template.py`, `pretrain.py`, `meta_train.py`, `scripts`). As there, the
map may be reduced by a 1x1 convolution, BatchNorm and ReLU; the temperature is learned as its logarithm and starts at
1/(2hw); dropout acts on the BDC vectors in pretraining only; prototypes are means of BDC vectors; logits are negative
squared Euclidean distances, unscaled; the second stage has a new optimizer and no classification head.

Maps. BDC degenerates on a 1x1 map and is poor on few positions, so the target's last halvings are removed until the map
is at least 4x4. ConvNet-3 loses its last max-pool at 28x28 (map 7x7) and its last two at 8x8 (4x4), and none at 32x32
(4x4) or 84x84 (10x10). A ResNet's last stages get stride 1: none at 28x28 and 32x32 (4x4), two at 8x8 (4x4), one at 84x84
with the ImageNet stem (6x6; as in the official ResNet-18). Parameters keep their shapes; the time per image changes.

Reduction. Maps of more than `reduce_dim` = 256 channels are reduced to 256, as in the official scripts for ResNet-18
(CUB); ConvNet-3's 64 channels are not reduced.

Budget. Each stage takes half of the budget's groups, with equally many images per step, as nearly in the official schedule
for miniImageNet (170 epochs of 38,400 images, then 60,000 episodes of 105). With validation groups the first stage ends
where validation is best, like official pretraining, and the second gets exactly as many steps. So `chosen_groups` is
twice the length of the first stage, and a run with `max_groups=chosen_groups` and no validation repeats the schedule.
Validation during the second stage does not shorten it; a search ends with the best state of the second stage.

Departures from Xie et al.: Adam at the benchmark's 1e-3 in both stages, without weight decay or learning-rate decay (they:
SGD at 0.05, then 1e-3 to 5e-5, and a separate rate for the temperature in pretraining), so that all methods share one
schedule; no augmentation; ways, support and queries of the benchmark, in training as in testing; the length of the second
stage is not chosen separately (`meta_train.py` saves the epoch that validates best); dropout of 0.5, their default (their
scripts: 0.6 to 0.8); no 1-shot metric (their inner product), since support is larger here. On Fashion-set's training
classes (three held-out pairs, ConvNet-3, 150 groups), 1e-3 in the second stage did not undo the first: best validation
62.0, 100.0 and 99.4%, against 62.5, 100.0 and 99.5% with 1e-4.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Budget, Checkpoint, Dataset, GroupStream, MethodError, Session, TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner, Logits
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, euclidean_logits, prototypes

SMALLEST_MAP = 4  # positions a side
CHUNK = 256  # images whose BDC matrices are in memory at once


def brownian_covariance(feature_maps: Tensor, log_temperature: Tensor) -> Tensor:
    """Return the BDC matrices of feature maps as vectors: float [n, c, h, w] and a scalar -> [n, c(c+1)/2].

    With x_k in R^{hw} the k-th channel of an image (official `BDCovpool` and `Triuvec`; channels are observations):
    d_kl = |x_k - x_l|^2, a_kl = sqrt(exp(log_temperature) max(d_kl, 0) + 1e-5),
    r_kl = a_kl - mean_m a_km - mean_m a_ml + mean_mn a_mn, and the vector holds r_kl for k <= l, row by row.

    Computed in float32 regardless of autocast, or in float64 for float64 maps. Means replace the official products with
    matrices of ones, and a batch of one image keeps its first dimension, which the official `squeeze` removes.
    """
    n, channels = feature_maps.shape[:2]
    with torch.autocast(feature_maps.device.type, enabled=False):
        x = feature_maps if feature_maps.dtype == torch.float64 else feature_maps.float()
        x = x.reshape(n, channels, -1)
        gram = x @ x.mT
        norms = gram.diagonal(dim1=1, dim2=2)
        squared = (norms.unsqueeze(2) + norms.unsqueeze(1) - 2 * gram).clamp_min(0)
        distances = (log_temperature.reshape(()).exp() * squared + 1e-5).sqrt()
        rows, columns = distances.mean(2, keepdim=True), distances.mean(1, keepdim=True)
        centred = distances - rows - columns + rows.mean(1, keepdim=True)
        row, column = torch.triu_indices(channels, channels, device=x.device)
        return centred.flatten(1).index_select(1, row * channels + column)


def _feature_maps(network: nn.Module, images: Tensor) -> Tensor:
    maps: Tensor = network(images) if isinstance(network, nn.Sequential) else network.forward_features(images)  # type: ignore[operator]
    return maps


def _without_last_halving(network: nn.Module) -> bool:
    """Remove the network's last halving of the map; return False when there is none left."""
    for name, child in reversed(list(network.named_children())):
        if isinstance(child, nn.MaxPool2d):
            setattr(network, name, nn.Identity())
            return True
        strided = [m for m in child.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
        for convolution in strided:
            convolution.stride = (1, 1)
        if strided:
            return True
    return False


def _map_network(target: TargetSpec) -> tuple[nn.Module, torch.Size]:
    """Return the target network up to a last feature map of at least 4x4, and that map's (channels, height, width)."""
    network = targets.build(target)
    if isinstance(network, nn.Sequential):
        network = nn.Sequential(*list(network)[:-1])  # without Flatten
    while True:
        shape = targets.output_shape(network, partial(_feature_maps, network), target.image_shape)
        if min(shape[1:]) >= SMALLEST_MAP or not _without_last_halving(network):
            return network, shape


class MapNetwork(nn.Module):
    """Images [n, c, h, w] -> the feature maps whose BDC is taken; holds the logarithm of BDC's temperature, too."""

    def __init__(self, target: TargetSpec, reduce_dim: int) -> None:
        super().__init__()
        self.network, (channels, height, width) = _map_network(target)
        self.channels = min(channels, reduce_dim)
        self.reduction: nn.Module = nn.Identity()
        if channels > reduce_dim:
            convolution = nn.Conv2d(channels, reduce_dim, 1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.reduction = nn.Sequential(convolution, nn.BatchNorm2d(reduce_dim), nn.ReLU())
        self.log_temperature = nn.Parameter(torch.tensor(-math.log(2 * height * width)))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.reduction(_feature_maps(self.network, images))
        return maps


class BDCNetwork(nn.Module):
    """Images [n, c, h, w] -> BDC vectors float32 [n, c(c+1)/2]."""

    def __init__(self, maps: MapNetwork) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        return brownian_covariance(self.maps(images), self.maps.log_temperature)


class Stage(Session):
    """One stage of a session, with a budget of its own; reports and milestones count the groups of the whole session."""

    def __init__(self, whole: Session, budget: Budget, groups_before: int, chosen_before: int | None = None) -> None:
        """`chosen_before` is the length chosen for the previous stage, None in the first."""
        position = {"groups_before": groups_before, "chosen_before": chosen_before}
        checkpoint = whole.checkpoint
        mine = checkpoint is not None and checkpoint.numbers["chosen_before"] == chosen_before
        super().__init__(
            budget,
            milestones=tuple(seen - groups_before for seen in whole.milestones),
            save_milestone=lambda seen, state: whole.save_milestone(groups_before + seen, state),
            checkpoint=checkpoint if mine else None,
            save_checkpoint=lambda own: whole.save_checkpoint(Checkpoint(own.numbers | position, own.tensors)),
            checkpoint_due=whole.checkpoint_due,
            ranks=whole.ranks,
            seed=whole.seed,
        )
        self.whole, self.groups_before = whole, groups_before
        self.groups_seen = groups_before + (self.checkpoint.numbers["seen"] if self.checkpoint else 0)

    def report(self, groups_seen: int, metrics: dict[str, float]) -> None:
        self.groups_seen = self.groups_before + groups_seen
        self.whole.best_state = self.best_state
        self.whole.report(self.groups_seen, metrics)


class MetaDeepBDC(FeatureLearner):
    """The target network's feature maps, compared by their Brownian distance covariance.

    Wider maps are reduced to `reduce_dim` channels, at least 2; `dropout` is its probability in pretraining.
    """

    name: ClassVar[str] = "meta-deepbdc"

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        reduce_dim: int = 256,
        dropout: float = 0.5,
        support_per_class: int = SUPPORT_PER_CLASS,
    ) -> None:
        if reduce_dim < 2:
            raise MethodError(f"reduce_dim is {reduce_dim}, but the BDC matrix of one channel is zero; use 2 or more")
        if not 0 <= dropout < 1:
            raise MethodError(f"dropout is {dropout}; it must be at least 0 and under 1")
        self.dropout = dropout
        self.module = MapNetwork(target, reduce_dim)
        super().__init__(target, n_training_classes, support_per_class=support_per_class, network=self.module)

    def classifier(self, features: Tensor, labels: Tensor, n_classes: int) -> Logits:
        centroids = prototypes(features, labels, n_classes)
        return lambda query: euclidean_logits(query, centroids)

    def features(self, images: Tensor) -> Tensor:
        """Return the BDC vectors float32 [n, c(c+1)/2] of `images` [n, c, h, w]."""
        with self.autocast():
            maps: Tensor = self.module(images)
        parts = [brownian_covariance(part, self.module.log_temperature) for part in maps.split(CHUNK)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        return BDCNetwork(copy.deepcopy(self.module))

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        budget = session.budget
        first = Stage(session, replace(budget, max_groups=budget.max_groups // 2), 0)
        if session.checkpoint is not None and first.checkpoint is None:  # interrupted in the second stage
            first.chosen_groups = session.checkpoint.numbers["chosen_before"]
            first.groups_seen = session.checkpoint.numbers["groups_before"]
        else:
            self._pretrain(groups, first)
        length = first.chosen_groups
        # Without validation an odd group goes to the second stage, which never stops early: its length is given.
        chosen = length < first.budget.max_groups
        rest = length if chosen else budget.max_groups - length
        second = Stage(session, replace(budget, max_groups=rest, patience=rest + 1), first.groups_seen, length)
        super().meta_train(groups, second)
        session.chosen_groups = length + rest

    def _pretrain(self, groups: GroupStream, session: Session) -> None:
        """Run stage 1: cross-entropy over all training classes, with a linear head on the BDC vectors."""
        d = self.module.channels * (self.module.channels + 1) // 2
        head = nn.Linear(d, self.n_training_classes, device=self.module.log_temperature.device)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.Adam([*self.module.parameters(), *head.parameters()], lr=LEARNING_RATE, fused=True)
        batches = partial(groups.batches, groups.ways * groups.support_per_class + groups.queries_per_group)

        def losses(batch: Dataset) -> dict[str, Tensor]:
            logits = head(F.dropout(self.features(batch.images), self.dropout))
            return {"pretraining_loss": F.cross_entropy(logits, batch.labels)}

        train_until_converged(self, self.module, optimizer, batches, losses, groups, session)
