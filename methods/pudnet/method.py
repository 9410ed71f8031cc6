"""PudNet: meta-training by Algorithm 1 of the paper, and prediction in one forward pass for an unseen dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Dataset, Episode, GroupStream, Method, MethodError, Session, Snapshot, TargetSpec
from pudnet_bench.methods.meta_training import LEARNING_RATE, train_until_converged
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS, TEMPERATURE, cosine_logits, prototypes, support_indices
from pudnet_bench.methods.pudnet.context import ContextGRU
from pudnet_bench.methods.pudnet.generator import NormGenerator, WeightGenerator
from pudnet_bench.methods.pudnet.losses import Losses, consistency_loss, full_loss, metric_loss
from pudnet_bench.methods.pudnet.paper_settings import paper_settings
from pudnet_bench.methods.pudnet.sketch import DatasetSketch, SketchNorm
from pudnet_bench.methods.targets import STATISTICS_IMAGES

LOSS_TERMS: dict[str, Callable[[Losses], Tensor]] = {
    "all": lambda parts: parts.total,
    "no-kl": lambda parts: parts.metric + parts.full,
    "metric": lambda parts: parts.metric,
}


class Hypernetwork(nn.Module):
    """H_theta: images of a dataset -> kernels of every convolution of the target.

    `eta` is the share of the sketch in the initial residual (equation 4); with stacked layers the residual is the mean of
    the sketch's rows. A LayerNorm follows, since the sketch is unbounded and the context lies in (0, 1).

    Ablations of section 4.4: `use_context=False` gives every generator the sketch ("w.o. context"), `random_hidden`
    starts the GRU from a normal draw ("random"), `eta=0` is "w.o. initial residual".

    Readings that are not in the paper: `sketch_norm` centres and scales sketches over datasets; `norm_generators` predict,
    by the name of the convolution before it, scale and shift of the BatchNorm of that name.
    """

    def __init__(
        self,
        sketch: DatasetSketch,
        context: ContextGRU,
        generators: dict[str, WeightGenerator],
        eta: float,
        use_context: bool,
        random_hidden: bool,
        sketch_norm: SketchNorm | None = None,
        norm_generators: Mapping[str, tuple[str, NormGenerator]] | None = None,
    ) -> None:
        super().__init__()
        self.eta, self.use_context, self.random_hidden = eta, use_context, random_hidden
        self.names = list(generators)
        self.sketch, self.context = sketch, context
        dim = context.output.out_features
        self.first_context = nn.Parameter(torch.zeros(dim))  # a_0
        self.norm = nn.LayerNorm(dim)
        self.generators = nn.ModuleList(generators.values())
        self.sketch_norm = sketch_norm
        pairs = norm_generators or {}
        self.norm_names = {convolution: name for convolution, (name, _) in pairs.items()}
        self.norm_generators = nn.ModuleList(generator for _, generator in pairs.values())

    def kernels(self, sketch: Tensor) -> dict[str, Tensor]:
        """Predict kernels by parameter name, in the target's forward order, from `sketch` float [layers, dim]."""
        sketch = sketch if self.sketch_norm is None else self.sketch_norm(sketch)
        norm_generators = dict(zip(self.norm_names, self.norm_generators, strict=True))
        hidden = torch.randn_like(sketch) if self.random_hidden else sketch
        context, residual = self.first_context, sketch.mean(0)
        predicted = {}
        for name, generator in zip(self.names, self.generators, strict=True):
            mixed = residual
            if self.use_context:
                hidden, context = self.context(hidden, context)
                mixed = context * (1 - self.eta) + residual * self.eta  # equation 4
            predicted[name] = generator(self.norm(mixed))  # equation 5
            if name in norm_generators:
                norm = self.norm_names[name]
                scale, shift = norm_generators[name](self.norm(mixed))
                predicted |= {f"{norm}.weight": scale, f"{norm}.bias": shift}
        return predicted

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Predict the kernels for a dataset with `images` float [n, c, h, w] and, where its sketch needs them, `labels`."""
        return self.kernels(self.sketch(images, labels) if self.training else self.sketch.stream(images, labels))


class PudNet(Method):
    """Predicts all convolution kernels of the target from the dataset, and classifies by cosine to class centroids.

    The target's BatchNorm scale and shift are learned with the hypernetwork and shared by all datasets. Evaluation uses
    running statistics, so that an image's logits do not depend on the images it is tested with.

    The full head takes the features divided by the square root of their number. A group has few of the training classes,
    so on unscaled features an Adam step moves the logit of every absent class by about 1e-3 times that number, and the
    head's oscillation between groups drowns the metric loss.

    Args:
        eta, use_context: see `Hypernetwork`.
        initial_hidden: "sketch", or the ablation "random" of section 4.4.
        gru_layers: layers of the context GRU, and rows of the sketch (Table 11).
        extractor, embedding: see `DatasetSketch`; the extractor is by default the paper's for the target (A.1).
        loss_terms: "all", or the ablations "metric" and "no-kl" of section 4.4.
        dim: width of sketch and context; for `hidden` and `kernel_norm` see `WeightGenerator`.
        bn_mode: "running", or "fit" to take BatchNorm statistics from the dataset's fit images.
        support_per_class: images per class that define a centroid, or "all".
        learnable_temperature: learn the temperature of equation 6 (section 3.5) instead of fixing it at 10 (A.2).
        steps_per_group: optimiser steps on each visited group.
        consistency_into_metric: let the gradient of equation 9 reach the metric logits, too.
        sketch_norm, predict_norms: readings that are not in the paper: see `SketchNorm` and `NormGenerator`.

    Raises:
        MethodError: for an unknown `loss_terms`, `initial_hidden`, `extractor` or `embedding`.
    """

    name: ClassVar[str] = "pudnet"

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        eta: float = 0.2,
        gru_layers: int = 1,
        extractor: str | None = None,
        embedding: str = "mean",
        use_context: bool = True,
        initial_hidden: str = "sketch",
        loss_terms: str = "all",
        dim: int = 128,
        hidden: int = 8,
        kernel_norm: bool = True,
        bn_mode: str = "running",
        support_per_class: int | str = SUPPORT_PER_CLASS,
        learnable_temperature: bool = False,
        steps_per_group: int = 1,
        consistency_into_metric: bool = False,
        sketch_norm: bool = False,
        predict_norms: bool = False,
    ) -> None:
        super().__init__(target, n_training_classes)
        self.support_per_class, self.bn_mode, self.steps_per_group = support_per_class, bn_mode, steps_per_group
        self.consistency_into_metric = consistency_into_metric
        if initial_hidden not in ("sketch", "random"):
            raise MethodError(f"pudnet's initial_hidden is sketch or random, not '{initial_hidden}'")
        if loss_terms not in LOSS_TERMS:
            raise MethodError(f"pudnet's loss_terms is one of {', '.join(LOSS_TERMS)}, not '{loss_terms}'")
        self.loss_terms = LOSS_TERMS[loss_terms]
        self.network = targets.build(target)
        convolutions = targets.convolutions(self.network)
        extractor = extractor or ("1conv-1linear" if target.name == "convnet3" else "5conv-1linear")
        sketch = DatasetSketch(target.image_shape, extractor, gru_layers, dim, embedding)
        context = ContextGRU(dim, gru_layers)
        generators = {}
        for name, module in convolutions:
            d_out, d_in, size, _ = module.weight.shape
            generators[f"{name}.weight"] = WeightGenerator(dim, d_out, d_in, size, hidden, kernel_norm=kernel_norm)
        norms = targets.norms(self.network).items() if predict_norms else ()
        self.hypernetwork = Hypernetwork(
            sketch, context, generators, eta, use_context, initial_hidden == "random",
            SketchNorm(sketch.shape) if sketch_norm else None,
            {f"{name}.weight": (norm, NormGenerator(dim, module.num_features)) for name, (norm, module) in norms},
        )  # fmt: skip
        n_features = targets.feature_count(self.network, target.image_shape)
        self.head = nn.Linear(n_features, n_training_classes)  # Q_phi, equation 8
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE), requires_grad=learnable_temperature)
        for _, module in convolutions:  # the kernels are predicted: the target has none of its own
            del module.weight
            module.register_buffer("weight", None, persistent=False)
        self.modules = nn.ModuleDict({"hypernetwork": self.hypernetwork, "network": self.network, "head": self.head})

    @classmethod
    def paper_options(cls, family: str, target: str) -> Mapping[str, Any]:
        # A subclass under another name is another method, whose constructor may take neither option.
        return paper_settings(family, target) if cls.name == PudNet.name else {}

    def to(self, device: torch.device) -> None:
        self.modules.to(device)
        self.temperature.data = self.temperature.data.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.modules.state_dict(), "temperature": self.temperature.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        state = dict(state)
        self.temperature.data.copy_(state.pop("temperature"))
        self.modules.load_state_dict(state)

    def features(self, kernels: dict[str, Tensor], images: Tensor) -> Tensor:
        """Return f(x; Omega): features [n, d] of `images` [n, c, h, w] by the target with these kernels."""
        with self.autocast():
            features: Tensor = functional_call(self.network, kernels, (images,))
        return features.float()

    def episode_losses(self, episode: Episode) -> Losses:
        """Return the three losses of a visited group (Algorithm 1, inner loop)."""
        support, query, n = episode.support, episode.query, len(episode.support)
        kernels = self.hypernetwork(episode.fit.images, episode.fit.labels)
        features = self.features(kernels, torch.cat((support.images, query.images)))
        centroids = prototypes(features[:n], support.labels, support.n_classes)
        logits = cosine_logits(features[n:], centroids, self.temperature)
        full_logits = self.head(features[n:] / math.sqrt(features.shape[1]))
        return Losses(
            metric_loss(logits, query.labels),
            full_loss(full_logits, episode.global_labels),
            consistency_loss(logits, full_logits, episode.classes, into_metric=self.consistency_into_metric),
        )

    def meta_train(self, groups: GroupStream, session: Session) -> None:
        parameters = [*self.modules.parameters(), self.temperature]
        optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=LEARNING_RATE, fused=True)

        def losses(episode: Episode) -> dict[str, Tensor]:
            parts = self.episode_losses(episode)
            return {"loss": self.loss_terms(parts), **{f"{name}_loss": loss for name, loss in parts._asdict().items()}}

        updates = self.steps_per_group
        train_until_converged(self, self.modules, optimizer, groups.episodes, losses, groups, session, updates)

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        kernels = self.predicted(dataset)
        per_class = len(dataset) if self.support_per_class == "all" else int(self.support_per_class)
        support = support_indices(dataset.labels, dataset.n_classes, per_class)
        features = self.features(kernels, dataset.images[support])
        centroids = prototypes(features, dataset.labels[support], dataset.n_classes)

        @torch.no_grad()
        def classify(images: Tensor) -> Tensor:
            return cosine_logits(self.features(kernels, images), centroids, self.temperature)

        yield Snapshot(classify)

    @torch.no_grad()
    def fitted_network(self, dataset: Dataset) -> nn.Module:
        """Return the target with the kernels predicted for `dataset` and the shared BatchNorm parameters."""
        kernels = self.predicted(dataset)
        network = targets.build(self.target).to(dataset.images.device)
        network.load_state_dict({**self.network.state_dict(), **kernels})
        return network

    def predicted(self, dataset: Dataset) -> dict[str, Tensor]:
        """Return the kernels for `dataset` by name and, with `bn_mode="fit"`, its BatchNorm statistics."""
        self.modules.eval()
        kernels = self.kernels(dataset)
        if self.bn_mode == "fit":
            return kernels | self._statistics(kernels, dataset.at_most(STATISTICS_IMAGES).images)
        return kernels

    def kernels(self, dataset: Dataset) -> dict[str, Tensor]:
        """Return the hypernetwork's prediction for `dataset`, by parameter name."""
        kernels: dict[str, Tensor] = self.hypernetwork(dataset.images, dataset.labels)
        return kernels

    def _statistics(self, kernels: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        """Return BatchNorm statistics of these images by buffer name; the network's own are left as they were."""
        momenta = {norm: norm.momentum for norm in self.network.modules() if isinstance(norm, nn.BatchNorm2d)}
        statistics = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        for norm in momenta:
            norm.momentum = 1.0
        self.network.train()
        self.features(kernels | statistics, images)
        self.network.eval()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        return statistics
