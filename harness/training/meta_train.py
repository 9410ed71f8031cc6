"""Meta-training as the harness runs it: choose a length on held-out classes, train on all, resume after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pudnet_bench.harness.measuring.clock import Clock
from pudnet_bench.harness.measuring.contract import unstorable
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.training.artifacts import Artifact, Trained, TrainingSummary
from pudnet_bench.harness.training.checkpoint import CheckpointFolder, CheckpointSchedule
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import (
    SINGLE_PROCESS,
    Budget,
    Checkpoint,
    DivergenceError,
    Method,
    MethodError,
    Ranks,
    Session,
)
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.learn2learn_episodes import training_stream
from pudnet_bench.suites.mixed_images import MixedImages, MixedStream

OnMilestone = Callable[[int, dict[str, Tensor], float], None]
OnReport = Callable[[str, int, int, dict[str, float]], None]
"""Called with the phase ("search 1", "final"), the groups seen, the groups at most, and the metrics."""


@dataclass(frozen=True)
class Training:
    """The settings of a meta-training.

    Attributes:
        seed: of the method's initial state and of the stream of groups.
        budget: of the search, or with `validation_groups` = 0 of the training, which takes `budget.max_groups`.
        validation_groups: groups of held-out training classes on which the number of groups is chosen.
        milestones: numbers of groups after which the state is stored on the way.
        episodes: who draws the episodes (`training_stream`).
    """

    seed: int
    budget: Budget
    validation_groups: int
    milestones: tuple[int, ...] = ()
    episodes: str = "own"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that `meta_train` needs.

    Attributes:
        make_method: builds an untrained method on the device.
        base: artifact of the method that this one starts from, if any.
        make_base: builds that method, untrained, on the device.
        on_milestone: called at each milestone with the groups seen and what the training leaves if it ends there.
        checkpoints: where checkpoints are saved and resumed from, if anywhere.
        stop_signal: ends the process after a checkpoint.
        ranks: the processes that share the training. All run the same job; the first saves.
    """

    make_method: Callable[[], Method]
    images: FamilyImages
    training: Training
    compute: Compute
    base: Artifact | None = None
    make_base: Callable[[], Method] | None = None
    on_report: OnReport = lambda phase, seen, at_most, metrics: None
    on_milestone: Callable[[int, Trained], None] = lambda groups_seen, trained: None
    checkpoints: CheckpointFolder | None = None
    stop_signal: StopSignal = field(default_factory=StopSignal)
    ranks: Ranks = SINGLE_PROCESS


def meta_train(job: TrainingJob) -> Trained:
    """Choose the number of groups on held-out training classes, then train on all training classes for that many.

    The paper trains on all training classes "until convergence" and names no validation. Here each fold of the family
    holds some training classes out and finds the number of groups that validates best; the final training starts from
    the same initial state and takes the (lower) median of these numbers. A search that builds on `job.base` starts from
    the state that the base had in the same fold, so that nothing has seen the held-out classes.

    An interrupted training resumes from `job.checkpoints` and ends bit for bit like one that was not interrupted. Raises
    DivergenceError if a loss becomes infinite or NaN; with checkpoints, the best state before is saved and named.
    """
    training, base = job.training, job.base
    searches = []
    for fold in range(job.images.family.validation_folds if training.validation_groups else 0):
        stream = _stream(training, job.images.fold(fold), training.validation_groups)
        start = base.search_states[fold] if base else None
        searches.append(_Phase(job, f"search {fold + 1}", training.budget).run(stream, start))
    chosen = [search.chosen_groups or training.budget.max_groups for search in searches]
    curve = [row for search in searches for row in search.curve]
    groups = median_low(chosen) if chosen else training.budget.max_groups

    def summary(groups: int, seconds: float) -> TrainingSummary:
        accuracies = [search.best_accuracy for search in searches]
        search_seconds = sum((search.seconds for search in searches), 0.0)
        return TrainingSummary(
            groups=groups, chosen_by_fold=chosen, validation_accuracy_by_fold=accuracies, processes=job.ranks.world_size,
            base_seconds=base.seconds if base else 0.0, search_seconds=search_seconds, final_seconds=seconds,
        )  # fmt: skip

    def on_milestone(groups_seen: int, state: dict[str, Tensor], seconds: float) -> None:
        job.on_milestone(groups_seen, Trained(state, (), pd.DataFrame(curve), summary(groups_seen, seconds)))

    stream = _stream(training, job.images, 0)
    final_phase = _Phase(job, "final", replace(training.budget, max_groups=groups), on_milestone)
    final = final_phase.run(stream, base.state if base else None)
    search_states = tuple(search.state for search in searches)
    return Trained(final.state, search_states, pd.DataFrame(curve + final.curve), summary(groups, final.seconds))


def _stream(training: Training, images: FamilyImages, validation: int) -> TrainingStream:
    if isinstance(images, MixedImages):
        return MixedStream(images, training.seed, validation)
    return training_stream(training.episodes, images, training.seed, validation)


@dataclass(frozen=True)
class _Outcome:
    """What a phase leaves: the learned state, the curve's rows, the best number of groups, device seconds."""

    state: dict[str, Tensor]
    curve: list[dict[str, Any]]
    chosen_groups: int
    seconds: float

    @property
    def best_accuracy(self) -> float | None:
        return max((row["validation_accuracy"] for row in self.curve if "validation_accuracy" in row), default=None)


class _Phase:
    """One run of `Method.meta_train`. Without `on_milestone` it is a search, whose outcome is saved as a checkpoint too."""

    def __init__(self, job: TrainingJob, name: str, budget: Budget, on_milestone: OnMilestone | None = None) -> None:
        self.job, self.name, self.on_milestone = job, name, on_milestone
        self.clock, self.schedule, self.seconds = Clock(job.compute.device), CheckpointSchedule(), 0.0
        self.session = Session(
            budget, seed=job.training.seed, ranks=job.ranks,
            on_report=lambda seen, metrics: job.on_report(name, seen, budget.max_groups, metrics),
            milestones=job.training.milestones if on_milestone else (), save_milestone=self._save_milestone,
            save_checkpoint=self._save_checkpoint, checkpoint_due=self._checkpoint_due,
        )  # fmt: skip

    def run(self, stream: TrainingStream, start: dict[str, Tensor] | None) -> _Outcome:
        """Train on `stream`, from the base's state `start` if there is a base; or return the outcome from before."""
        job, session = self.job, self.session
        if (done := self._load(f"{self.name} done")) is not None:
            return _Outcome(done.tensors, **done.numbers)
        torch.manual_seed(job.training.seed)
        method = job.make_method()
        if job.make_base is not None and start is not None:
            base = job.make_base()
            base.load_state_dict({name: tensor.to(job.compute.device) for name, tensor in start.items()})
            method.start_from(base)
        _refuse_unstorable(method)
        if (checkpoint := self._load(self.name)) is not None:
            session.checkpoint = Checkpoint(checkpoint.numbers["method"], checkpoint.tensors)
            session.curve, self.seconds = checkpoint.numbers["curve"], checkpoint.numbers["seconds"]
        self.clock.start()
        try:
            method.meta_train(stream, session)
        except DivergenceError as error:
            self._save_best(error)
            raise
        self._stop_clock()
        _refuse_unstorable(method)
        curve = [{"phase": self.name, **row} for row in session.curve]
        state, chosen = method.state_dict(), session.chosen_groups
        numbers: dict[str, Any] = {"chosen_groups": chosen, "seconds": self.seconds, "curve": curve}
        if self.on_milestone is None and self._checkpoints is not None:
            self._checkpoints.save(f"{self.name} done", Checkpoint(numbers, state))
            self._checkpoints.delete(self.name)
        return _Outcome(state, **numbers)

    def _stop_clock(self) -> None:
        self.seconds += self.clock.stop().seconds

    def _save_milestone(self, groups_seen: int, state: dict[str, Tensor]) -> None:
        self._stop_clock()
        if self.on_milestone is not None:
            self.on_milestone(groups_seen, state, self.seconds)
        self.clock.start()

    def _checkpoint_due(self) -> bool:
        ranks = self.job.ranks
        return ranks.any(ranks.rank == 0 and (self.schedule.due() or self.job.stop_signal.requested))

    def _save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._stop_clock()
        if self._checkpoints is not None:
            began = time.monotonic()
            numbers = {"method": checkpoint.numbers, "seconds": self.seconds, "curve": self.session.curve}
            self._checkpoints.save(self.name, Checkpoint(numbers, checkpoint.tensors))
            self.schedule.saved(time.monotonic() - began)
            self.job.stop_signal.exit_if_requested()
        self.clock.start()

    def _save_best(self, error: DivergenceError) -> None:
        """Save the best state before the divergence; raises `error` again with the file's name."""
        if self.session.best_state is not None and self._checkpoints is not None:
            groups, state = self.session.best_state
            path = self._checkpoints.save(f"{self.name} best", Checkpoint({"groups": groups}, state))
            raise DivergenceError(f"{error}; the best state before, after {groups} groups, is in {path}") from error

    @property
    def _checkpoints(self) -> CheckpointFolder | None:
        """Where this process saves: nowhere, unless it is the first."""
        return self.job.checkpoints if self.job.ranks.rank == 0 else None

    def _load(self, part: str) -> Checkpoint | None:
        """Load a checkpoint; the first rank before the others, since it may quarantine a damaged file."""
        checkpoints, ranks = self.job.checkpoints, self.job.ranks
        if checkpoints is None:
            return None
        checkpoint = checkpoints.load(part) if ranks.rank == 0 else None
        ranks.barrier()
        return checkpoint if ranks.rank == 0 else checkpoints.load(part)


def _refuse_unstorable(method: Method) -> None:
    """Raise MethodError where the method's state cannot be stored: before the training too, which may take hours."""
    if fault := unstorable(method.state_dict()):
        raise MethodError(f"method '{method.name}': {fault}")
