"""Artifacts: what meta-training leaves, found by the hash of everything that shaped it and shared by all suites.

``<cache>/artifacts/<key>/`` holds weights.safetensors, meta.json (every input of the hash in clear) and curve.parquet.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import median_low
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from pudnet_bench.harness.measuring.clock import Clock
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.training.checkpoint import CheckpointFolder, CheckpointSchedule
from pudnet_bench.harness.training.stop_signal import StopSignal
from pudnet_bench.methods.base import ALONE, Budget, Checkpoint, DivergenceError, Method, Ranks, Session
from pudnet_bench.results.store.files import checksummed_json, read_checksummed_json
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.learn2learn_episodes import training_stream

SAFETENSORS, META, CURVE = "weights.safetensors", "meta.json", "curve.parquet"

SaveState = Callable[[int, dict[str, Tensor], float], None]  # groups seen, state, seconds of training so far
Watch = Callable[[str, int, int, dict[str, float]], None]  # phase, groups seen, groups at most, metrics


@dataclass(frozen=True)
class ArtifactSpec:
    """One meta-training: ``inputs`` is everything that shapes its outcome, as JSON values."""

    inputs: dict[str, Any]

    @cached_property
    def key(self) -> str:
        method, family, target = (str(self.inputs[part]) for part in ("method", "family_name", "target"))
        digest = sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()
        return f"{method}-{family}-{target}-{digest[:16]}"


@dataclass(frozen=True)
class Artifact:
    """The learned tensors, on the CPU, and what is told of their making (``meta.json``).

    ``curve`` has a row for every report of a training: ``phase``, ``groups`` and what was reported.
    ``search_states`` are what was learned while the number of groups was chosen, one of each fold, without that fold's
    validation classes; none where the number was given.
    """

    key: str
    state: dict[str, Tensor]
    search_states: tuple[dict[str, Tensor], ...]
    curve: pd.DataFrame
    meta: dict[str, Any]

    @property
    def groups(self) -> int:
        """How many groups the weights were trained on."""
        return int(self.meta["groups"])

    @property
    def seconds(self) -> float:
        """Device seconds of the whole meta-training, the choice of its length and what it starts from included."""
        return float(self.meta["search_seconds"] + self.meta["final_seconds"] + self.meta["base_seconds"])


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts under one cache folder."""

    cache_dir: Path

    def folder(self, spec: ArtifactSpec) -> Path:
        return self.cache_dir / "artifacts" / spec.key

    def unfinished(self, training_key: str) -> CheckpointFolder:
        """Where a meta-training keeps how far it has come (``Cell.training_key``)."""
        return CheckpointFolder(self.cache_dir / "unfinished" / training_key)

    def has(self, spec: ArtifactSpec) -> bool:
        return (self.folder(spec) / META).exists()

    def load(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside with a warning, and counts as not there."""
        folder = self.folder(spec)
        if not folder.exists():
            return None
        try:
            meta = read_checksummed_json((folder / META).read_bytes())
            files = {name: _checked_bytes(folder / name, checksum) for name, checksum in meta["sha256"].items()}
            curve = pd.read_parquet(io.BytesIO(files.pop(CURVE)))
            state, *search = (safetensors.torch.load(weights) for weights in files.values())
            return Artifact(spec.key, state, tuple(search), curve, meta)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            aside = folder.with_name(f"{folder.name}.corrupt")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            warnings.warn(
                f"artifact {folder} is damaged ({error}); set aside as {aside.name}, it is trained again", stacklevel=2
            )
            return None

    def save(self, spec: ArtifactSpec, trained: Trained) -> Artifact:
        """Write the artifact in one step: a reader sees all of it or nothing."""
        files = {
            name: safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()})
            for name, state in (
                (SAFETENSORS, trained.state),
                *((f"search-{fold}.safetensors", state) for fold, state in enumerate(trained.search_states)),
            )
        }
        buffer = io.BytesIO()
        trained.curve.to_parquet(buffer)
        files[CURVE] = buffer.getvalue()
        checksums = {name: sha256(content).hexdigest() for name, content in files.items()}
        meta = {"inputs": spec.inputs, "sha256": checksums, **trained.told}
        files[META] = checksummed_json(meta)
        folder = self.folder(spec)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as unfinished:
            made = Path(unfinished) / "artifact"
            made.mkdir()
            for name, content in files.items():
                (made / name).write_bytes(content)
            if (
                not folder.exists()
            ):  # another process may have trained the same artifact meanwhile: equal by construction
                made.rename(folder)
        return Artifact(spec.key, trained.state, trained.search_states, trained.curve, meta)


@dataclass(frozen=True)
class Trained:
    """What a meta-training leaves: the learned state and those of the search, the curve (one row per report), timings and
    counts."""

    state: dict[str, Tensor]
    search_states: tuple[dict[str, Tensor], ...]
    curve: pd.DataFrame
    told: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """How a meta-training goes.

    With ``validation_groups`` > 0, its length is chosen on held-out training classes, within ``budget``; with 0, it is
    ``budget.max_groups``. ``milestones`` are numbers of groups whose states are kept on the way. ``episodes`` says who
    draws them (``training_stream``).
    """

    seed: int
    budget: Budget
    validation_groups: int
    milestones: tuple[int, ...] = ()
    episodes: str = "own"


def meta_train(
    make_method: Callable[[], Method],
    images: FamilyImages,
    training: Training,
    compute: Compute,
    watch: Watch,
    base: Artifact | None = None,
    make_base: Callable[[], Method] | None = None,
    keep: Callable[[int, Trained], None] = lambda groups_seen, trained: None,
    unfinished: CheckpointFolder | None = None,
    stop_signal: StopSignal | None = None,
    ranks: Ranks = ALONE,
) -> Trained:
    """Meta-train, first to choose the number of groups on held-out training classes, then on all training classes.

    The paper trains on all training classes "until convergence" and names no validation. Held-out classes decide when
    that is: one training per fold of the family, and of the numbers of groups that were best the (lower) median. The last
    training, from the same initial state, gives every training class to the method for that many groups. ``base`` is the
    artifact of the method, made by ``make_base``, that this one starts from: the state of the same fold in the search, so
    that nothing has seen the held-out classes. ``watch(phase, groups_seen, groups_at_most, metrics)`` is called as training
    reports, ``keep`` at each milestone with what the training leaves if it ends there. With ``unfinished``, progress is
    saved there now and then, and before ``stop_signal`` leaves; a training that was stopped goes on from what is there,
    with the same outcome. Of several ``ranks`` all call this and the first saves and keeps.
    """
    clock = Clock(compute.device)
    base_seconds = base.seconds if base else 0.0
    curve: list[dict[str, Any]] = []

    def train(
        phase: str, stream: TrainingStream, budget: Budget, begin: dict[str, Tensor] | None, save: SaveState | None
    ) -> tuple[Method, Session, float]:
        torch.manual_seed(training.seed)
        method = make_method()
        done = _load(unfinished, f"{phase}, done", ranks)
        if done is not None:
            method.load_state_dict({name: tensor.to(compute.device) for name, tensor in done.tensors.items()})
            curve.extend(done.numbers["curve"])
            session = Session(budget, chosen_groups=done.numbers["chosen_groups"], curve=done.numbers["curve"])
            return method, session, done.numbers["seconds"]
        if make_base is not None and begin is not None:
            begun = make_base()
            begun.load_state_dict({name: tensor.to(compute.device) for name, tensor in begin.items()})
            method.start_from(begun)
        saved = _load(unfinished, phase, ranks)
        seconds = saved.numbers["seconds"] if saved else 0.0
        schedule = CheckpointSchedule()

        def pause(groups_seen: int, state: dict[str, Tensor]) -> None:
            nonlocal seconds
            seconds += clock.stop().seconds
            if save is not None:
                save(groups_seen, state, seconds)
            clock.start()

        def save_progress(progress: Checkpoint) -> None:
            nonlocal seconds
            seconds += clock.stop().seconds
            if unfinished is not None and ranks.rank == 0:
                began = time.monotonic()
                numbers = {"method": progress.numbers, "seconds": seconds, "curve": session.curve}
                unfinished.save(phase, Checkpoint(numbers, progress.tensors))
                schedule.saved(time.monotonic() - began)
                if stop_signal is not None:
                    stop_signal.exit_if_requested()
            clock.start()

        session = Session(
            budget,
            _watcher(watch, phase, budget.max_groups),
            training.milestones if save else (),
            pause,
            Checkpoint(saved.numbers["method"], saved.tensors) if saved else None,
            save_progress,
            lambda: ranks.any(
                ranks.rank == 0 and (schedule.due() or (stop_signal is not None and stop_signal.requested))
            ),
            ranks,
            training.seed,
            saved.numbers["curve"] if saved else [],
        )
        clock.start()
        try:
            method.meta_train(stream, session)
        except DivergenceError as error:
            if not session.good or unfinished is None or ranks.rank > 0:
                raise
            groups_seen, state = session.good
            path = unfinished.save(f"{phase}, before it diverged", Checkpoint({"groups": groups_seen}, state))
            raise DivergenceError(f"{error}; what was best before, after {groups_seen} groups, is in {path}") from error
        seconds += clock.stop().seconds
        rows = [{"phase": phase, **row} for row in session.curve]
        curve.extend(rows)
        if unfinished is not None and save is None and ranks.rank == 0:
            told = {"chosen_groups": session.chosen_groups, "seconds": seconds, "curve": rows}
            unfinished.save(f"{phase}, done", Checkpoint(told, method.state_dict()))
            unfinished.forget(phase)
        return method, session, seconds

    chosen, best, search_states, search_seconds = [], [], [], 0.0
    for fold in range(images.family.validation_folds if training.validation_groups else 0):
        stream = training_stream(training.episodes, images.fold(fold), training.seed, training.validation_groups)
        begin = base.search_states[fold] if base else None
        method, session, seconds = train(f"search {fold + 1}", stream, training.budget, begin, None)
        chosen.append(session.chosen_groups or training.budget.max_groups)
        best += [
            max((row["validation_accuracy"] for row in session.curve if "validation_accuracy" in row), default=None)
        ]
        search_states.append(method.state_dict())
        search_seconds += seconds

    def told(groups: int, seconds: float) -> dict[str, Any]:
        return {
            "groups": groups,
            "chosen_by_fold": chosen,
            "validation_accuracy_by_fold": best,
            "base_seconds": base_seconds,
            "search_seconds": search_seconds,
            "final_seconds": seconds,
            "processes": ranks.count,
        }

    def save(groups_seen: int, state: dict[str, Tensor], seconds: float) -> None:
        keep(groups_seen, Trained(state, (), pd.DataFrame(curve), told(groups_seen, seconds)))

    groups = median_low(chosen) if chosen else training.budget.max_groups
    budget = replace(training.budget, max_groups=groups)
    stream = training_stream(training.episodes, images, training.seed, 0)
    method, _, seconds = train("final", stream, budget, base.state if base else None, save)
    return Trained(method.state_dict(), tuple(search_states), pd.DataFrame(curve), told(groups, seconds))


def _load(unfinished: CheckpointFolder | None, part: str, ranks: Ranks) -> Checkpoint | None:
    """What was saved of ``part``; read by the first rank first, which may set a damaged file aside."""
    if unfinished is None:
        return None
    progress = unfinished.load(part) if ranks.rank == 0 else None
    ranks.any(False)
    return progress if ranks.rank == 0 else unfinished.load(part)


def _checked_bytes(path: Path, checksum: str) -> bytes:
    content = path.read_bytes()
    if sha256(content).hexdigest() != checksum:
        raise ValueError(f"the checksum of {path.name} does not match")
    return content


def _watcher(watch: Watch, phase: str, at_most: int) -> Callable[[int, dict[str, float]], None]:
    return lambda seen, metrics: watch(phase, seen, at_most, metrics)
