"""MUSML (Jiang, Kwok & Zhang, ICML 2022, "Subspace Learning for Effective Meta-Learning").

The parameters of a task's network lie in one of K learned linear subspaces, w = S_k v, and only the m coordinates v are
fitted to the task. For a task with support set S and query set Q, and a shared initial v_0:

    v_k,0 = v_0,    v_k,t+1 = v_k,t - alpha * grad_v L_S(S_k v_k,t)    for t = 0..T-1         (inner steps, each k)
    o = softmax(-[L_S(S_1 v_1,T), ..., L_S(S_K v_K,T)] / gamma)                                (soft choice)
    minimise over S_1..S_K:  sum_k o_k * L_Q(S_k v_k,T)                                        (meta loss)

As gamma decreases, the soft choice approaches the hard one made at test time: the subspace with the smallest training
loss.

Only the abstract was available when this was written, neither the paper's Algorithm 1 nor official code. The equations are
our reading of it, and these are our choices:

- The bases are free parameters, neither orthogonal nor normalised. Each column starts as an independently initialised
  network, and v_0 = (1/m, ..., 1/m), so that BatchNorm's gains start at one; BatchNorm undoes the smaller kernels.
- The head takes cosines to the support's class means (`head="prototype"`), has no parameters, and works for any number of
  classes. `head="linear"` puts a linear layer inside the subspaces, a more literal reading. But a group's labels are in
  random order (5 classes: 120 orders), so the m coordinates would have to encode which label is which before anything
  about the images, which gets harder with more classes. On a few unseen groups of Fashion-set (2 ways) its accuracy was
  61% untrained and 88% after 60 groups, and on CIFAR100-set (5 ways, K = 1) 29% after 20, where the class means of an
  untrained network had 96% and 55%.
- The gradient flows through the soft choice, too. With `first_order=True`, the default, inner gradients are constants.
- The temperature decreases linearly over the first `anneal_groups` groups, an absolute number, so that the search for the
  best length and the training of that length follow one schedule.
- BatchNorm normalises by the current images in training (the support images in inner steps, support and query images
  together for the meta loss), as MAML implementations do. At test time the chosen network uses the statistics of the
  group's fit images: no running average fits networks of different coordinates, and a test image's logits must not
  depend on other test images.
- The hard choice takes the loss on all fit images, from the pass that estimates those statistics. For a dataset of
  thousands of images the pass takes 2,000, evenly spaced, so that memory does not grow with the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pudnet_bench.methods import base, targets
from pudnet_bench.methods.base import Dataset, Episode, GroupStream, ImagePasses, Method, MethodError, Session, Snapshot
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, TEMPERATURE, cosine_logits, prototypes, support_indices
from pudnet_bench.methods.targets import STATISTICS_IMAGES

Loss = Callable[[Tensor], Tensor]  # maps parameters w [d] to a scalar


def subspace_parameters(basis: Tensor, coordinates: Tensor) -> Tensor:
    """Return w = S_k v [d], for `basis` [m, d] with the columns of S_k as rows and `coordinates` v [m]."""
    return coordinates @ basis


def named_parameters(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return views of `vector` [d] as tensors of `shapes`, in order; d is the sum of their sizes."""
    pieces = vector.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def adapt(loss: Loss, basis: Tensor, start: Tensor, steps: int, alpha: float, first_order: bool = False) -> Tensor:
    """Take gradient steps v <- v - alpha * grad_v loss(S_k v) from coordinates `start` [m]; gradients must be enabled.

    `first_order` treats the inner gradients as constants, instead of differentiating the result through them.
    """
    coordinates = start if start.requires_grad else start.detach().requires_grad_()
    for _ in range(steps):
        value = loss(subspace_parameters(basis, coordinates))
        (gradient,) = torch.autograd.grad(value, coordinates, create_graph=not first_order)
        coordinates = coordinates - alpha * gradient
        if first_order:
            coordinates = coordinates.detach().requires_grad_()
    return coordinates


def _without_head(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in parameters.items() if not name.startswith("head.")}


def soft_choice(support_losses: Tensor, temperature: float) -> Tensor:
    """Return the weights o = softmax(-losses / temperature) of the subspaces: [K] -> [K], summing to one."""
    return torch.softmax(-support_losses / temperature, 0)


def hard_choice(training_losses: Tensor) -> int:
    """Return the subspace with the smallest of `training_losses` [K], the limit of `soft_choice` at temperature zero."""
    return int(training_losses.argmin())


def meta_loss(support_losses: Tensor, query_losses: Tensor, temperature: float) -> Tensor:
    """Return sum_k o_k * L_Q,k, with o the soft choice: `support_losses` [K], `query_losses` [K] -> scalar."""
    return soft_choice(support_losses, temperature) @ query_losses


def temperature_at(groups_seen: int, initial: float, final: float, anneal_groups: int) -> float:
    """Return gamma after `groups_seen` groups: linear from `initial` to `final` over `anneal_groups`, then `final`."""
    return initial + (final - initial) * min(groups_seen / anneal_groups, 1.0)


class Subspaces(nn.Module):
    """The bases S_1..S_K: K parameters of shape [m, d]."""

    def __init__(self, bases: list[Tensor]) -> None:
        super().__init__()
        self.bases = nn.ParameterList(nn.Parameter(basis) for basis in bases)


class MUSML(Method):
    """The target's parameters in one of K learned subspaces; fitting moves m coordinates.

    Args:
        n_subspaces, subspace_dim: K and m. The bases hold K * m * d numbers, which with gradients and Adam's moments are
            15 MB for ConvNet-3 (d = 76 thousand), 2.1 GB for ResNet-18 (11.2 million) and 4.1 GB for ResNet-34.
        inner_steps, alpha: T and the step size; T = 5 is usual for MAML, here both in training and in testing.
        gamma: temperature of the soft choice, from 0.5 (losses start near log 2 or log 5, so every subspace learns) to
            0.01 (practically the hard choice), over `anneal_groups` groups.
        first_order: a step on Fashion-set with ConvNet-3 takes 0.6 s of one core, but 1.9 s in second order, which was no
            better on Digits-set after 60 groups; for the ResNets, second-order graphs of all inner steps would hardly fit
            8 GB. In first order activations of support and query images are stored K times: 2.1 GB for ResNet-18 on
            CIFAR100-set (4.7 MB an image, 150 images), 3.6 GB for ResNet-34.
        head: "prototype" or "linear". A linear head has as many outputs as the groups of meta-training have classes.
        adapt_on: "support" fits the coordinates to the support images, as in meta-training; "fit" to all fit images.

    Raises:
        MethodError: for unknown options, and from `fit` with a linear head for another number of classes.
    """

    name: ClassVar[str] = "musml"

    def __init__(
        self,
        target: base.TargetSpec,
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
            given = f"{head} and {adapt_on}"
            raise MethodError(f"musml takes head=linear or prototype and adapt_on=support or fit, not {given}")
        self.n_subspaces, self.subspace_dim = n_subspaces, subspace_dim
        self.inner_steps, self.alpha, self.first_order = inner_steps, alpha, first_order
        self.gamma, self.anneal_groups = gamma, anneal_groups
        self.head, self.adapt_on, self.support_per_class = head, adapt_on, support_per_class
        self.device = torch.device("cpu")
        self.network = targets.build(target).requires_grad_(False)  # for its structure; its own parameters are unused
        self.n_features = targets.feature_count(self.network, target.image_shape)
        self.ways: int | None = None  # size of a linear head, known from the first groups or state
        self.subspaces: Subspaces | None = None
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # one pass in training mode stores the statistics of its images

    def fit_passes(self, images: int, support: int) -> ImagePasses:
        return ImagePasses(self.n_subspaces * self.inner_steps * support, self.n_subspaces * images)

    def meta_training_images(self, support: int, episode: int) -> int:
        """In every subspace the inner steps, and then the meta loss."""
        return self.n_subspaces * (self.inner_steps * support + episode)

    def to(self, device: torch.device) -> None:
        self.device = device
        self.network.to(device)
        if self.subspaces is not None:
            self.subspaces.to(device)

    def shapes(self, ways: int) -> dict[str, torch.Size]:
        """Return names and shapes of the parts of a parameter vector [d], in order, for groups of `ways` classes."""
        shapes = {name: parameter.shape for name, parameter in self.network.named_parameters()}
        if self.head == "linear":
            shapes |= {"head.weight": torch.Size((ways, self.n_features)), "head.bias": torch.Size((ways,))}
        return shapes

    def _subspaces_for(self, ways: int) -> Subspaces:
        """Return the bases for groups of `ways` classes, created on first use."""
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
        """Return a basis [m, d] whose rows are the parameters of freshly initialised networks and heads."""
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
                f"this state does not fit a musml with {self.n_subspaces} subspaces of dimension {self.subspace_dim} and a "
                f"{self.head} head for {self.target.name}; give the options it was meta-trained with"
            )
        self.ways = ways
        self.subspaces = Subspaces([state[name].detach().clone() for name in expected]).to(self.device)

    def start(self) -> Tensor:
        """Return v_0 [m], every coordinate 1/m."""
        return torch.full((self.subspace_dim,), 1 / self.subspace_dim, device=self.device)

    def features(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        """Return the features float32 [n, n_features] of `images` [n, c, h, w] under `parameters` (and buffers)."""
        with self.autocast():
            features: Tensor = functional_call(self.network, _without_head(parameters), (images,))
        return features.float()

    def logits(self, parameters: dict[str, Tensor], features: Tensor, support: tuple[Tensor, Tensor], n: int) -> Tensor:
        """Return logits [q, n] of `features` [q, f]; `support` has features [s, f] and labels [s] of the `n` classes."""
        if self.head == "linear":
            return F.linear(features, parameters["head.weight"], parameters["head.bias"])
        return cosine_logits(features, prototypes(*support, n), TEMPERATURE)

    def support_loss(self, shapes: Mapping[str, torch.Size], support: Dataset) -> Loss:
        """Return the cross-entropy of `support` as a function of w, in BatchNorm's training mode."""

        def loss(vector: Tensor) -> Tensor:
            parameters = named_parameters(vector, shapes)
            features = self.features(parameters, support.images)
            logits = self.logits(parameters, features, (features, support.labels), support.n_classes)
            return F.cross_entropy(logits, support.labels)

        return loss

    def episode_losses(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return support and query losses [K], [K] of the subspaces, each adapted to the support images."""
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
        """Return, for each subspace after the inner steps, w [d], BatchNorm's buffers and the loss on the fit images."""
        dataset = dataset.at_most(STATISTICS_IMAGES)
        subspaces, shapes = self._subspaces_for(dataset.n_classes), self.shapes(dataset.n_classes)
        indices = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        support = dataset
        if self.adapt_on == "support":
            support = Dataset(dataset.images[indices], dataset.labels[indices], dataset.n_classes)
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
                support_features = (features[indices], dataset.labels[indices])
                logits = self.logits(parameters, features, support_features, dataset.n_classes)
                outcomes.append((vector, buffers, F.cross_entropy(logits, dataset.labels)))
        return outcomes

    def chosen(self, dataset: Dataset) -> dict[str, Tensor]:
        """Return parameters and BatchNorm's buffers of the subspace with the smallest loss on the fit images, by name."""
        outcomes = self.adapted(dataset)
        vector, buffers, _ = outcomes[hard_choice(torch.stack([loss for _, _, loss in outcomes]))]
        return {**named_parameters(vector, self.shapes(dataset.n_classes)), **buffers}

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        state = _without_head(self.chosen(dataset))
        network = targets.build(self.target).to(dataset.images.device)
        network.load_state_dict(state)
        return network

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        parameters = self.chosen(dataset)
        indices = support_indices(dataset.labels, dataset.n_classes, self.support_per_class)
        self.network.eval()
        with torch.no_grad():
            support = (self.features(parameters, dataset.images[indices]), dataset.labels[indices])

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            self.network.eval()
            return self.logits(parameters, self.features(parameters, images), support, dataset.n_classes)

        yield Snapshot(classify)
