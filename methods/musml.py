"""MUSML (Jiang, Kwok & Zhang, ICML 2022, "Subspace Learning for Effective Meta-Learning").

The parameters of a task's network lie in one of K learned linear subspaces, w = S_k v, and only the m coordinates v are
fitted to the task. For a task with support set S and query set Q, and a start v_0 shared by all:

    v_k,0 = v_0,    v_k,t+1 = v_k,t - alpha * grad_v L_S(S_k v_k,t)    for t = 0..T-1         (inner steps, each k)
    o = softmax(-[L_S(S_1 v_1,T), ..., L_S(S_K v_K,T)] / gamma)                                (soft choice)
    minimise over S_1..S_K:  sum_k o_k * L_Q(S_k v_k,T)                                        (meta loss)

While gamma is lowered the soft choice becomes the hard one of test time, the subspace with the smallest training loss.

Neither the paper's Algorithm 1 nor official code could be had while this was written (only the abstract); the equations
are the benchmark's reading of it, and these points are choices of ours:

- The bases are free parameters, neither orthogonal nor normalised. Each column starts as a network initialised on its
  own, and v_0 = (1/m, ..., 1/m), which starts BatchNorm's gains at one; the kernels start smaller than usual, which BatchNorm
  undoes.
- The head takes cosines to the support's class means (`head="prototype"`), has no parameters, and works for any number
  of classes. `head="linear"` puts a linear layer inside the subspaces, as the design reads the method; but a group's
  labels are in random order (5 classes: 120 orders), a basis knows none of them, and m coordinates would have to say
  which label is which before they say anything about the images. It gets harder with more classes: on a few unseen
  groups of Fashion-set (2 ways) accuracy was 61% untrained and 88% after 60 groups, on those of CIFAR100-set (5 ways,
  K = 1) 29% after 20, where the class means of an untrained network had 96% and 55%.
- The gradient goes through the soft choice as well. With `first_order=True`, the default, it takes the inner gradients
  for constants.
- The temperature falls linearly over the first `anneal_groups` groups: an absolute number, so that a search for the
  best length and the training of that length follow one schedule.
- BatchNorm normalises by the images at hand while training (the support images in inner steps, support and query
  images together for the meta loss), as MAML implementations do. At test time it uses, in the chosen network, the
  statistics of the group's fit images: networks of different coordinates have different statistics, so one running average
  for all would fit none, and a test image's logits never depend on other test images.
- Training loss, for the hard choice, is that of all fit images, from the pass that takes those statistics. Of a dataset
  with thousands of images the pass takes 2,000, evenly spaced, so that memory does not grow with the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Dataset, Episode, GroupStream, Method, MethodError, Session, Snapshot, TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, cosine_logits, prototypes, support_indices

IMAGES_AT_ONCE = 2_000
TEMPERATURE = 10.0  # of the cosines, with head="prototype"; PudNet's, section A.2 of its paper


def subspace_parameters(basis: Tensor, coordinates: Tensor) -> Tensor:
    """w = S_k v. `basis` [m, d] holds the columns of S_k as rows, `coordinates` v [m]; returns w [d]."""
    return coordinates @ basis


def named_parameters(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """`vector` [d] cut into tensors of `shapes`, in their order; d is the sum of their sizes. Views, no copies."""
    pieces = vector.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def adapt(
    support_loss: Callable[[Tensor], Tensor],
    basis: Tensor,
    start: Tensor,
    steps: int,
    alpha: float,
    first_order: bool = False,
) -> Tensor:
    """Coordinates after `steps` gradient steps v <- v - alpha * grad_v support_loss(S_k v) from `start`.

    `support_loss` maps w [d] to a scalar; `basis` [m, d]; `start` [m]; returns [m]. The result is a function of
    `basis` through the inner gradients too, unless `first_order`, where those count as constants. Needs gradients
    to be enabled.
    """
    coordinates = start if start.requires_grad else start.detach().requires_grad_()
    for _ in range(steps):
        loss = support_loss(subspace_parameters(basis, coordinates))
        (gradient,) = torch.autograd.grad(loss, coordinates, create_graph=not first_order)
        coordinates = coordinates - alpha * gradient
        if first_order:
            coordinates = coordinates.detach().requires_grad_()
    return coordinates


def soft_choice(support_losses: Tensor, temperature: float) -> Tensor:
    """Weights o = softmax(-losses / temperature) of the subspaces: `support_losses` [K] -> [K], summing to one."""
    return torch.softmax(-support_losses / temperature, 0)


def hard_choice(training_losses: Tensor) -> int:
    """The subspace with the smallest training loss, of `training_losses` [K]; the limit of `soft_choice` at zero."""
    return int(training_losses.argmin())


def meta_loss(support_losses: Tensor, query_losses: Tensor, temperature: float) -> Tensor:
    """sum_k o_k * L_Q,k, with o the soft choice: `support_losses` [K], `query_losses` [K] -> scalar."""
    return soft_choice(support_losses, temperature) @ query_losses


def temperature_at(groups_seen: int, initial: float, final: float, anneal_groups: int) -> float:
    """gamma after `groups_seen` groups: linear from `initial` to `final` over `anneal_groups`, then `final`."""
    share = min(groups_seen / anneal_groups, 1.0)
    return initial + (final - initial) * share


class Subspaces(nn.Module):
    """The bases S_1..S_K: K parameters of shape [m, d]."""

    def __init__(self, bases: list[Tensor]) -> None:
        super().__init__()
        self.bases = nn.ParameterList(nn.Parameter(basis) for basis in bases)


class MUSML(Method):
    """The target's parameters in one of K learned subspaces; fitting moves m coordinates.

    `n_subspaces` K = 3 and `subspace_dim` m = 4: the bases hold K * m * d numbers, which with gradients and Adam's
    moments are 15 MB for ConvNet-3 (d = 76 thousand), 2.1 GB for ResNet-18 (11.2 million) and 4.1 GB for ResNet-34.
    `inner_steps` T = 5 of size `alpha`: as in MAML's usual setting, as many in testing as in training.
    `gamma`: temperature of the soft choice at first and at last, 0.5 (losses start near log 2 or log 5, so that
    every subspace learns at first) to 0.01 (practically the hard choice), over `anneal_groups` groups.
    `first_order` True: a step on Fashion-set with ConvNet-3 takes 0.6 s of one core against 1.9 s in second order, which
    was no better on Digits-set after 60 groups at this `alpha`; and for the ResNets the graphs of all inner steps of all
    subspaces would hardly fit 8 GB. In first order the activations kept are those of support and query images, K times: for
    ResNet-18 on CIFAR100-set 4.7 MB an image, 150 images, 2.1 GB in all, beside the 2.1 GB above; ResNet-34: 3.6 and 4.1 GB.
    `adapt_on`: "support" fits the coordinates to `support_per_class` images per class, as in meta-training; "fit" to
    all fit images.
    `head`: "linear" or "prototype", see above. A linear head has as many outputs as the groups of meta-training have
    classes; a group with another number is a MethodError.
    """

    name: ClassVar[str] = "musml"

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        n_subspaces: int = 3,
        subspace_dim: int = 4,
        inner_steps: int = 5,
        alpha: float = 0.1,
        gamma: tuple[float, float] = (0.5, 0.01),
        anneal_groups: int = 1000,
        first_order: bool = True,
        head: str = "prototype",
        adapt_on: str = "support",
        support_per_class: int = SUPPORT_PER_CLASS,
    ) -> None:
        super().__init__(target, n_training_classes)
        if head not in ("linear", "prototype") or adapt_on not in ("support", "fit"):
            raise MethodError(
                f"musml takes head=linear or prototype and adapt_on=support or fit, not {head} and {adapt_on}"
            )
        self.n_subspaces = n_subspaces
        self.subspace_dim = subspace_dim
        self.inner_steps = inner_steps
        self.alpha = alpha
        self.gamma = gamma
        self.anneal_groups = anneal_groups
        self.first_order = first_order
        self.head = head
        self.adapt_on = adapt_on
        self.support_per_class = support_per_class
        self.device = torch.device("cpu")
        self.network = targets.build(target).requires_grad_(False)  # gives the shapes; its own parameters are not used
        self.n_features = targets.feature_count(self.network, target.image_shape)
        self.ways: int | None = None  # known with the first groups or the first state; it sizes a linear head
        self.subspaces: Subspaces | None = None
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # one pass in training mode leaves the statistics of its images

    def to(self, device: torch.device) -> None:
        self.device = device
        self.network.to(device)
        if self.subspaces is not None:
            self.subspaces.to(device)

    def shapes(self, ways: int) -> dict[str, torch.Size]:
        """Names and shapes of what a vector of d parameters holds, in order, for groups of `ways` classes."""
        shapes = {name: parameter.shape for name, parameter in self.network.named_parameters()}
        if self.head == "linear":
            shapes |= {"head.weight": torch.Size((ways, self.n_features)), "head.bias": torch.Size((ways,))}
        return shapes

    def _subspaces_for(self, ways: int) -> Subspaces:
        """The bases for groups of `ways` classes, made on first use."""
        if self.subspaces is None:
            self.ways = ways
            self.subspaces = Subspaces([self._fresh_basis(ways) for _ in range(self.n_subspaces)]).to(self.device)
        if self.head == "linear" and ways != self.ways:
            raise MethodError(
                f"musml was meta-trained for groups of {self.ways} classes and cannot classify {ways}; "
                "meta-train it on such groups, or choose head=prototype"
            )
        return self.subspaces

    def _fresh_basis(self, ways: int) -> Tensor:
        """[m, d]: in each row all parameters of one freshly initialised network and head."""
        rows = []
        for _ in range(self.subspace_dim):
            parts = list(targets.build(self.target).parameters())
            if self.head == "linear":
                parts += nn.Linear(self.n_features, ways).parameters()
            rows.append(torch.cat([part.detach().flatten() for part in parts]))
        return torch.stack(rows)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.subspaces is None else dict(self.subspaces.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        d = sum(shape.numel() for shape in self.shapes(0).values())
        size = next(iter(state.values())).shape[-1] if state else 0
        ways, rest = divmod(size - d, self.n_features + 1) if self.head == "linear" else (0, size - d)
        expected = {f"bases.{k}": (self.subspace_dim, size) for k in range(self.n_subspaces)}
        if rest or size < d or {name: tuple(value.shape) for name, value in state.items()} != expected:
            raise MethodError(
                f"this state is not of a musml with {self.n_subspaces} subspaces of dimension {self.subspace_dim} and a "
                f"{self.head} head for {self.target.name}; give the options it was meta-trained with"
            )
        self.ways = ways
        self.subspaces = Subspaces([state[name].detach().clone() for name in expected]).to(self.device)

    def start(self) -> Tensor:
        """v_0 [m]: every coordinate 1/m."""
        return torch.full((self.subspace_dim,), 1 / self.subspace_dim, device=self.device)

    def features(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        """The target with these `parameters` (and buffers) on `images` [n, c, h, w]: float32 [n, n_features]."""
        own = {name: value for name, value in parameters.items() if not name.startswith("head.")}
        with self.autocast():
            features: Tensor = functional_call(self.network, own, (images,))
        return features.float()

    def logits(self, parameters: dict[str, Tensor], features: Tensor, support: tuple[Tensor, Tensor], n: int) -> Tensor:
        """The head on `features` [q, f] -> [q, n]. `support`: features [s, f] and labels [s], of the `n` classes."""
        if self.head == "linear":
            return F.linear(features, parameters["head.weight"], parameters["head.bias"])
        return cosine_logits(features, prototypes(*support, n), TEMPERATURE)

    def support_loss(self, shapes: Mapping[str, torch.Size], support: Dataset) -> Callable[[Tensor], Tensor]:
        """w [d] -> cross-entropy of `support` under the network of parameters w, in BatchNorm's training mode."""

        def loss(vector: Tensor) -> Tensor:
            parameters = named_parameters(vector, shapes)
            features = self.features(parameters, support.images)
            logits = self.logits(parameters, features, (features, support.labels), support.n_classes)
            return F.cross_entropy(logits, support.labels)

        return loss

    def episode_losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Support and query losses [K], [K] of the subspaces, each adapted to the support images."""
        support, query = episode.support, episode.query
        subspaces, shapes = self._subspaces_for(support.n_classes), self.shapes(support.n_classes)
        support_loss = self.support_loss(shapes, support)
        images, n = torch.cat((support.images, query.images)), len(support)
        support_losses, query_losses = [], []
        self.network.train()
        for basis in subspaces.bases:
            coordinates = adapt(support_loss, basis, self.start(), self.inner_steps, self.alpha, self.first_order)
            parameters = named_parameters(subspace_parameters(basis, coordinates), shapes)
            features = self.features(parameters, images)
            logits = self.logits(parameters, features, (features[:n], support.labels), support.n_classes)
            support_losses.append(F.cross_entropy(logits[:n], support.labels))
            query_losses.append(F.cross_entropy(logits[n:], query.labels))
        return torch.stack(support_losses), torch.stack(query_losses)

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        subspaces = self._subspaces_for(groups.ways)
        optimizer = torch.optim.Adam(subspaces.parameters(), lr=LEARNING_RATE, fused=True)

        def losses(episode: Episode) -> dict[str, Tensor]:
            temperature = temperature_at(episode.index, *self.gamma, self.anneal_groups)
            return {"loss": meta_loss(*self.episode_losses(episode), temperature)}

        train_until_converged(self, subspaces, optimizer, groups.episodes, losses, groups, session)

    def adapted(self, dataset: Dataset) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
        """For each subspace: parameters w [d], BatchNorm's buffers and loss on the fit images, after the inner steps."""
        dataset = dataset.at_most(IMAGES_AT_ONCE)
        subspaces, shapes = self._subspaces_for(dataset.n_classes), self.shapes(dataset.n_classes)
        where = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        support = dataset
        if self.adapt_on == "support":
            support = Dataset(dataset.images[where], dataset.labels[where], dataset.n_classes)
        outcomes = []
        self.network.train()
        for basis in (parameter.detach() for parameter in subspaces.bases):
            with torch.enable_grad():
                support_loss = self.support_loss(shapes, support)
                coordinates = adapt(support_loss, basis, self.start(), self.inner_steps, self.alpha, first_order=True)
            with torch.no_grad():
                vector = subspace_parameters(basis, coordinates.detach())
                parameters = named_parameters(vector, shapes)
                buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
                features = self.features({**parameters, **buffers}, dataset.images)  # fills the buffers
                support_features = (features[where], dataset.labels[where])
                logits = self.logits(parameters, features, support_features, dataset.n_classes)
                outcomes.append((vector, buffers, F.cross_entropy(logits, dataset.labels)))
        return outcomes

    def chosen(self, dataset: Dataset) -> dict[str, Tensor]:
        """Parameters and BatchNorm's buffers by name, of the subspace with the smallest loss on the fit images."""
        outcomes = self.adapted(dataset)
        vector, buffers, _ = outcomes[hard_choice(torch.stack([loss for _, _, loss in outcomes]))]
        return {**named_parameters(vector, self.shapes(dataset.n_classes)), **buffers}

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        state = {name: tensor for name, tensor in self.chosen(dataset).items() if not name.startswith("head.")}
        network = targets.build(self.target).to(dataset.images.device)
        network.load_state_dict(state)
        return network

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        parameters = self.chosen(dataset)
        where = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        self.network.eval()
        with torch.no_grad():
            support = (self.features(parameters, dataset.images[where]), dataset.labels[where])

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            self.network.eval()
            return self.logits(parameters, self.features(parameters, images), support, dataset.n_classes)

        yield Snapshot(classify)
