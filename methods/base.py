"""The contract between a method and everything else: what a method is given, and what it hands back.

A method sees tensors on one device, never files. It may meta-train once on a stream of groups; then, for each unseen
group, ``fit`` turns labelled images into one or more classifiers. The harness times ``fit`` and nothing else.
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
"""``classifier(images [n, c, h, w]) -> logits [n, n_classes]``, for images normalised like those it was fitted on."""


class MethodError(BenchError):
    """A method that cannot be found, imported or used; the message names it and the way out."""


class DivergenceError(Exception):
    """Meta-training met a loss that is not finite. Raised by ``Session.report``."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images on one device.

    ``images``: float32 [n, c, h, w] in channels-last memory, normalised by the family; ``labels``: int64 [n] in
    0..n_classes-1.
    """

    images: Tensor
    labels: Tensor
    n_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def at_most(self, images: int) -> Dataset:
        """This dataset, or where it has more than ``images`` every k-th of them: for what must pass through at once.

        Images of a class are neighbours in what the harness hands out, so each keeps its share.
        """
        stride = -(-len(self) // images)
        return self if stride <= 1 else Dataset(self.images[::stride], self.labels[::stride], self.n_classes)


@dataclass(frozen=True)
class Group:
    """One small dataset of a family and the images it is tested on, which have the same classes and are others.

    ``index`` is the group's place in its stream.
    """

    index: int
    fit: Dataset
    test: Dataset


@dataclass(frozen=True)
class Episode:
    """A training group cut up: ``support`` images per class make the centroids, ``query`` images carry the loss.

    Both are part of the group's ``fit`` images and share no image. ``classes`` int64 [n_classes] are the ids of the
    group's classes among all training classes, ``global_labels`` int64 [n_query] those of the query images. Every method
    that meta-trains sees the same episodes in the same order; ``fit`` is gathered only for a method that asks for it.
    """

    index: int
    support: Dataset
    query: Dataset
    classes: Tensor
    gather_fit: Callable[[], Dataset]

    @property
    def global_labels(self) -> Tensor:
        return self.classes[self.query.labels]

    @cached_property
    def fit(self) -> Dataset:
        """All fit images of the group."""
        return self.gather_fit()


class GroupStream(Protocol):
    """The training side of a family. Iterating yields group after group without end and without storing any."""

    n_training_classes: int
    image_shape: tuple[int, int, int]
    ways: int
    support_per_class: int
    queries_per_group: int

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        """Every ``stride``-th episode from number ``first`` on, endlessly; the same sequence on every call."""

    def batches(self, images: int, first: int = 0, stride: int = 1) -> Iterator[Dataset]:
        """Batches of ``images`` images drawn from all training classes, endlessly; labels are global class ids.

        The same sequence on every call: every ``stride``-th batch from number ``first`` on.
        """

    def validation_groups(self) -> Iterator[Group]:
        """A fixed, finite set of groups of held-out training classes, never seen by ``episodes`` or ``batches``.

        Empty when all training classes are trained on.
        """


@dataclass(frozen=True)
class Budget:
    """When meta-training ends: after ``max_groups``, or ``patience`` checks in a row without a better validation.

    A check comes after every ``check_every`` groups. Without validation groups there is none, and ``max_groups`` decides.
    An optimiser step takes the mean gradient of ``groups_per_step`` groups (1 in the paper), or of the fewer that are left
    before a check, a milestone or the end.
    """

    max_groups: int
    check_every: int
    patience: int
    groups_per_step: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """How far a training has come: all that it needs to go on from its last step as if it had never stopped.

    ``numbers`` are JSON values; ``tensors`` lie on any device.
    """

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Ranks:
    """The processes that share one meta-training: this one is number ``rank`` of ``count``.

    ``add`` replaces each tensor by its sum over all of them, in place and bit for bit the same in each. They must all call
    it, in the same order, with tensors of the same shapes.
    """

    rank: int = 0
    count: int = 1
    add: Callable[[Sequence[Tensor]], None] = lambda tensors: None

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in one of them; they must all ask."""
        if self.count == 1:
            return flag
        votes = torch.tensor(float(flag))
        self.add([votes])
        return bool(votes)


ALONE = Ranks()


@dataclass
class Session:
    """What a method may use while it meta-trains, and where it leaves what it learned about its own training.

    ``watch(groups_seen, metrics)`` shows numbers to the person waiting. ``chosen_groups`` is set by the method: after
    how many groups validation was best. ``keep(groups_seen, state)`` takes what has been learned after each number of
    groups in ``milestones``: the learning curve of one training. ``saved`` is the progress of a training that was stopped,
    to go on from; ``save`` takes progress whenever ``due()`` says so, which is asked after every step. ``ranks`` are the
    processes that share the training, each of which has a session and does the same but for its share of the groups;
    ``seed`` is the training's. ``good`` is set by the method: the number of groups and the state that were best so far.
    """

    budget: Budget
    watch: Callable[[int, dict[str, float]], None] = lambda groups_seen, metrics: None
    milestones: tuple[int, ...] = ()
    keep: Callable[[int, dict[str, Tensor]], None] = lambda groups_seen, state: None
    saved: Checkpoint | None = None
    save: Callable[[Checkpoint], None] = lambda progress: None
    due: Callable[[], bool] = lambda: False
    ranks: Ranks = ALONE
    seed: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    chosen_groups: int = 0
    good: tuple[int, dict[str, Tensor]] | None = None

    def report(self, groups_seen: int, metrics: dict[str, float]) -> None:
        """Record and show ``metrics`` (floats by name). Raises DivergenceError if one of them is not finite."""
        self.curve.append({"groups": groups_seen, **metrics})
        self.watch(groups_seen, metrics)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceError(f"meta-training diverged: {name} is {value} after {groups_seen} groups")


@dataclass(frozen=True)
class Snapshot:
    """A classifier handed over while fitting, valid until ``fit`` is resumed.

    ``name`` tells snapshots of one fit apart ("30 epochs"); "" if there is only one. ``epochs`` counts passes over the
    fit images, where a method makes any. ``network`` is the fitted target (features, without a head), for suites that
    study parameters; None where there is none to show.
    """

    classifier: Classifier
    name: str = ""
    epochs: float = float("nan")
    network: nn.Module | None = None


@dataclass(frozen=True)
class TargetSpec:
    """The network whose parameters are wanted, for one image shape: name, (c, h, w), and its options."""

    name: str
    image_shape: tuple[int, int, int]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class ImagePasses:
    """Numbers of images that pass through the target: `trained` forward and backward, `predicted` forward only."""

    trained: int = 0
    predicted: int = 0


class Method(ABC):
    """Subclass this, give it a ``name``, implement ``fit``: it then gets a row in every suite.

    ``__init__(target, n_training_classes, **options)`` receives the target's specification; options are keyword
    arguments with defaults. ``iterative`` says that ``fit`` trains for minutes rather than predicts, so that
    profiles give it fewer groups. ``autocast()`` is the precision that the harness chose for forward passes, the same
    for every method; one that ignores it computes in float32. ``paper_clock`` are options with which the method takes the
    time that a plain script takes, for ``run --clock paper``; none for most methods.
    """

    name: ClassVar[str]
    iterative: ClassVar[bool] = False
    paper_clock: ClassVar[Mapping[str, Any]] = {}
    takes_weights: ClassVar[bool] = False
    """Whether `run --weights FILE` sets this method's options `weights` and `weights_sha256`."""
    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(self, target: TargetSpec, n_training_classes: int) -> None:
        self.target = target
        self.n_training_classes = n_training_classes

    def to(self, device: torch.device) -> None:  # noqa: B027 - a method without parameters has nothing to move
        """Move what the method holds to ``device``."""

    def meta_train(self, groups: GroupStream, session: Session) -> None:  # noqa: B027 - optional by contract
        """Learn from the training classes before any unseen group is met. The outcome is what ``state_dict`` holds."""

    @abstractmethod
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        """Yield one or more classifiers for ``dataset``. The clock runs inside this generator and stops at each yield.

        ``dataset`` has float32 images [n, c, h, w] and int64 labels [n] on the device. Random draws must come from
        torch's global generator, which the harness seeds by the group before each call.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors only; saved as safetensors. Empty for a method without meta-training."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave."""
        if state:
            raise MethodError(f"{self.name} keeps no state, but an artifact with {len(state)} tensors was given to it")

    @classmethod
    def paper_options(cls, family: str, target: str) -> Mapping[str, Any]:
        """Return the options that the paper sets for this method when it is trained on `family` with `target`.

        A suite's own options override them. Empty where the constructor's defaults are the paper's for every family.
        """
        return {}

    def fit_passes(self, images: int, support: int) -> ImagePasses:
        """Estimate the target's work in one `fit`, for `run --dry-run`; by default the support passes through it once.

        Args:
            images: Fit images of the group.
            support: Those of them, at most, that a method takes as support.
        """
        return ImagePasses(predicted=min(images, support))

    def meta_training_images(self, support: int, episode: int) -> int:
        """Estimate how many images pass through the target, forward and backward, in one meta-training step.

        Args:
            support: Support images of an episode.
            episode: Its support and query images together.
        """
        return episode

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The method that this one, with ``options``, builds on: its name and the options to give it. None for most."""
        return None

    def start_from(self, base: Method) -> None:
        """Begin with ``base``, the method that ``starts_from`` names, meta-trained and on the device.

        Called before ``meta_train``; for a method without meta-training of its own, before ``fit``.
        """
        raise MethodError(f"{self.name} builds on {base.name}, and has no start_from")

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        """The features this method has for ``dataset`` as a network of its own, [n, c, h, w] -> [n, d]: to be fine-tuned.

        A new module on the device, in training or evaluation mode, whose parameters the caller may change. Raises
        MethodError for a method that has no network to give.
        """
        raise MethodError(f"{self.name} gives no network that could be trained further (fitted_network)")

    @classmethod
    def meta_trains(cls) -> bool:
        """Whether this class has a meta-training of its own."""
        return cls.meta_train is not Method.meta_train
