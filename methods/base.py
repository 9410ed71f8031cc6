"""The contract between a method and the harness, and the manual for writing a method.

A method subclasses `Method`, sets `name` and implements `fit`; everything else has a default. The harness

1. calls `Method(target, n_training_classes, **options)`, then `to(device)`;
2. calls `meta_train(groups, session)`, if the class overrides it, once and on training classes only, stores what
   `state_dict` then returns, and restores it into fresh instances with `load_state_dict`;
3. calls `fit(dataset)` for each unseen group: labelled images in, one or more `Snapshot`s out. This alone is timed.

A method sees tensors on one device, never files, and never the test images of a group: those reach only the classifier
of a snapshot, outside the timed region. `python -m harness check FILE.py:Class` verifies the contract in seconds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from pudnet_bench.errors import BenchError

Classifier = Callable[[Tensor], Tensor]
"""Maps images float32 [n, c, h, w], normalised like the fit images, to logits [n, n_classes].

An image's logits must not depend on the other images of the call.
"""


class MethodError(BenchError):
    """A method that cannot be found, imported or used as requested; the message names it and the way out."""


class DivergenceError(Exception):
    """Meta-training produced a metric that is not finite."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images on one device; each of the `n_classes` classes occurs in a group's fit images."""

    images: Tensor  # float32 [n, c, h, w] in channels-last memory, normalised by the family
    labels: Tensor  # int64 [n], in 0..n_classes-1
    n_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def at_most(self, images: int) -> Dataset:
        """Return the dataset, or every k-th image of it if it has more than `images`, for passes that take all at once.

        The harness orders images by class, so a regular stride preserves the classes' shares.
        """
        stride = -(-len(self) // images)
        return self if stride <= 1 else Dataset(self.images[::stride], self.labels[::stride], self.n_classes)


@dataclass(frozen=True)
class Group:
    """A small dataset of a family, `fit`, and disjoint `test` images of the same classes."""

    index: int  # position in its stream
    fit: Dataset
    test: Dataset


@dataclass(frozen=True)
class Episode:
    """A training group split for one meta-training step: support images define the classifier, query images the loss.

    Both are disjoint parts of the group's fit images. All methods see the same episodes in the same order.
    """

    index: int  # position in the stream
    support: Dataset
    query: Dataset
    classes: Tensor  # int64 [n_classes], ids of the group's classes among all training classes
    gather_fit: Callable[[], Dataset]  # loads `fit`; called only if a method reads it

    @property
    def global_labels(self) -> Tensor:
        """Labels of the query images among all training classes, int64 [n_query]."""
        return self.classes[self.query.labels]

    @cached_property
    def fit(self) -> Dataset:
        """All fit images of the group."""
        return self.gather_fit()


class GroupStream(Protocol):
    """The training side of a family: endless, reproducible streams that store no group.

    Every call restarts the same sequence. `first` and `stride` select every `stride`-th item from number `first` on,
    which is how processes share a stream and how a resumed training finds its place.
    """

    n_training_classes: int
    image_shape: tuple[int, int, int]
    ways: int
    support_per_class: int
    queries_per_group: int

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        """Yield training groups as episodes."""

    def batches(self, images: int, first: int = 0, stride: int = 1) -> Iterator[Dataset]:
        """Yield batches of `images` images drawn from all training classes, labelled by global class id."""

    def validation_groups(self) -> Iterator[Group]:
        """Yield a fixed, finite set of groups of training classes held out of the other streams; none if none are."""


@dataclass(frozen=True)
class Budget:
    """The length of a meta-training; `groups_per_step` groups give one optimiser step their mean gradient.

    A step takes fewer groups where a validation, a milestone or the end comes first; in the paper it takes one.
    """

    max_groups: int  # upper limit of training groups; the exact number where there are no validation groups
    check_every: int  # groups between two validations
    patience: int  # validations in a row without improvement after which training stops
    groups_per_step: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to resume after its last step as if it had not been interrupted."""

    numbers: dict[str, Any]  # JSON values
    tensors: dict[str, Tensor]  # on any device; in a restored checkpoint contiguous and on the CPU


@dataclass(frozen=True)
class Ranks:
    """The processes that share one meta-training, in the terms of `torch.distributed`.

    All ranks must make the same collective calls (`all_reduce`, `any`, `barrier`) in the same order. `all_reduce`
    replaces each tensor by its sum over all ranks, in place and bit for bit the same on each; shapes must agree.
    """

    rank: int = 0
    world_size: int = 1
    all_reduce: Callable[[Sequence[Tensor]], None] = lambda tensors: None

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on at least one rank."""
        if self.world_size == 1:
            return flag
        votes = torch.tensor(float(flag))
        self.all_reduce([votes])
        return bool(votes)

    def barrier(self) -> None:
        """Wait until every rank has reached this call."""
        self.any(False)


SINGLE_PROCESS = Ranks()


@dataclass
class Session:
    """The harness's side of one meta-training: limits, callbacks, and the record of how it went.

    `methods.meta_training.train_until_converged` honours all of it; a training loop of your own should, in this order
    after each step: `report`, `save_milestone`, `save_checkpoint`.

    Attributes:
        on_report: called by `report`; displays progress.
        milestones: numbers of groups after which to call `save_milestone`: points of a learning curve.
        save_milestone: takes the groups seen and the method's `state_dict`.
        checkpoint: where to resume; None starts from the beginning.
        save_checkpoint: to be called after a step whenever `checkpoint_due()` is true. May end the process.
        ranks: the processes that share the training. Each has its own session and does the same work, except for its
            share of the groups.
        seed: of the training; torch's global generator is seeded before the method is constructed.
        curve: one row per report: `groups` and the metrics.
        chosen_groups: set by the method: the number of groups that validated best, or that were seen.
        best_state: set by the method: the number of groups and the state that validated best so far, which the harness
            rescues if training diverges.
    """

    budget: Budget
    on_report: Callable[[int, dict[str, float]], None] = lambda groups_seen, metrics: None
    milestones: tuple[int, ...] = ()
    save_milestone: Callable[[int, dict[str, Tensor]], None] = lambda groups_seen, state: None
    checkpoint: Checkpoint | None = None
    save_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None
    checkpoint_due: Callable[[], bool] = lambda: False
    ranks: Ranks = SINGLE_PROCESS
    seed: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    chosen_groups: int = 0
    best_state: tuple[int, dict[str, Tensor]] | None = None

    def report(self, groups_seen: int, metrics: dict[str, float]) -> None:
        """Record and display `metrics` after `groups_seen` groups; raise DivergenceError if one is not finite."""
        self.curve.append({"groups": groups_seen, **metrics})
        self.on_report(groups_seen, metrics)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceError(f"meta-training diverged: {name} is {value} after {groups_seen} groups")


@dataclass(frozen=True)
class Snapshot:
    """A classifier handed over while fitting, valid until `fit` is resumed."""

    classifier: Classifier
    name: str = ""  # distinguishes the snapshots of one fit ("30 epochs")
    epochs: float = float("nan")  # passes over the fit images so far; NaN for a method that makes none
    network: nn.Module | None = None  # the fitted target without a head, for suites that study parameters


@dataclass(frozen=True)
class TargetSpec:
    """The network whose parameters are wanted: its name, the image shape (c, h, w) it takes, and its options."""

    name: str
    image_shape: tuple[int, int, int]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class ImagePasses:
    """Numbers of images that pass through the target: `trained` forward and backward, `predicted` forward only."""

    trained: int = 0
    predicted: int = 0


class Method(ABC):
    """Base class of all methods: set `name`, implement `fit`, and the method gets a row in every suite.

    Attributes:
        name: of the method's rows, and for `--methods`; letters, digits and `._+-`.
        label: optional heading of its rows in tables and figures, any text; by default the name. Not declared here, as it
            shapes no number and this module's code is part of the key of every artifact.
        iterative: `fit` trains for minutes rather than predicts; profiles then measure fewer groups.
        paper_clock: options under which the method takes the time of a plain script (`run --clock paper`).
        takes_weights: `run --weights FILE` sets this method's options `weights` and `weights_sha256`.
        autocast: opens the precision chosen for forward passes, the same for every method. The harness sets it on the
            instance; a method that ignores it computes in float32.
    """

    name: ClassVar[str]
    iterative: ClassVar[bool] = False
    paper_clock: ClassVar[Mapping[str, Any]] = {}
    takes_weights: ClassVar[bool] = False
    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(self, target: TargetSpec, n_training_classes: int) -> None:
        """Build the method on the CPU, drawing initial parameters from torch's global generator.

        A subclass adds its options as keyword arguments with defaults, and raises MethodError for a target or an option
        that it does not support.
        """
        self.target, self.n_training_classes = target, n_training_classes

    def to(self, device: torch.device) -> None:  # noqa: B027 - a method without parameters has nothing to move
        """Move all parameters and buffers to `device`."""

    def meta_train(self, groups: GroupStream, session: Session) -> None:  # noqa: B027 - optional by contract
        """Learn from the training classes, before any unseen group; `state_dict` holds the outcome.

        Random numbers must come from torch's global generator, so that a seed determines the result.
        """

    @abstractmethod
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        """Yield one or more classifiers for `dataset`.

        The clock runs inside this generator and stops at every `yield`, while the harness evaluates the snapshot.
        Fitting must leave the method, the dataset and torch's global settings as they were, so that a group's result
        does not depend on the groups before it. Random numbers must come from torch's global generator, which the
        harness seeds by the group before each call.

        Raises:
            MethodError: for a dataset that the method cannot take; the message names the group's size or classes.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return what meta-training learned as tensors by name, stored as safetensors; empty without meta-training."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; raise MethodError for a state that is not this method's."""
        if state:
            raise MethodError(f"{self.name} has no state, but an artifact with {len(state)} tensors was given to it")

    @classmethod
    def paper_options(cls, family: str, target: str) -> Mapping[str, Any]:
        """Return the paper's options for `family` and `target` where the defaults differ; a suite's own override them."""
        return {}

    def fit_passes(self, images: int, support: int) -> ImagePasses:
        """Estimate the target's work in one `fit`, for `run --dry-run`; by default the support passes through it once.

        `images` is the number of fit images of the group, `support` that of support images, at most.
        """
        return ImagePasses(predicted=min(images, support))

    def meta_training_images(self, support: int, episode: int) -> int:
        """Estimate how many images pass through the target, forward and backward, in one meta-training step.

        `support` is the number of support images of an episode, `episode` that of support and query images together.
        """
        return episode

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Return the name and options of the method that this one, with `options`, builds on, or None.

        The harness meta-trains that method first and shares its artifact with that method's own rows.
        """
        return None

    def start_from(self, base: Method) -> None:
        """Start from `base`, the meta-trained method that `starts_from` names, on the device.

        Called before `meta_train`, or before `fit` for a method without meta-training.
        """
        raise MethodError(f"{self.name} builds on {base.name} but does not implement start_from")

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        """Return a feature extractor for `dataset`, images [n, c, h, w] -> [n, d], as a starting point for fine-tuning.

        It is a new module on the device, in any mode, whose parameters the caller may change. A method without such a
        network raises MethodError.
        """
        raise MethodError(f"{self.name} has no network that could be fine-tuned; it does not implement fitted_network")

    @classmethod
    def meta_trains(cls) -> bool:
        """Return whether the class has a meta-training of its own."""
        return cls.meta_train is not Method.meta_train
