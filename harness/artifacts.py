"""Artifacts: what meta-training leaves, found by the hash of everything that shaped it and shared by all suites.

``<cache>/artifacts/<key>/`` holds weights.safetensors, meta.json (every input of the hash in clear) and curve.parquet.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from harness.clock import Clock, Elapsed
from harness.compute import Compute
from methods.base import Budget, Method, Session
from suites.groups import FamilyImages
from suites.learn2learn_episodes import training_stream

SAFETENSORS, META, CURVE = "weights.safetensors", "meta.json", "curve.parquet"
SEARCH = "search.safetensors"  # the state that has not seen the validation classes, for methods that start from it


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

    ``search_state`` is what was learned without the validation classes, while the number of groups was chosen.
    """

    key: str
    state: dict[str, Tensor]
    search_state: dict[str, Tensor]
    meta: dict[str, Any]

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

    def has(self, spec: ArtifactSpec) -> bool:
        return (self.folder(spec) / META).exists()

    def load(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact, or None when it is not there. A damaged one is set aside with a warning, and counts as not there."""
        folder = self.folder(spec)
        if not folder.exists():
            return None
        try:
            meta = json.loads((folder / META).read_text())
            state, search_state = (_checked_state(folder, name, meta["sha256"][name]) for name in (SAFETENSORS, SEARCH))
            return Artifact(spec.key, state, search_state, meta)
        except (OSError, ValueError, KeyError, TypeError) as error:
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
            for name, state in ((SAFETENSORS, trained.state), (SEARCH, trained.search_state))
        }
        checksums = {name: sha256(weights).hexdigest() for name, weights in files.items()}
        meta = {"inputs": spec.inputs, "sha256": checksums, **trained.told}
        buffer = io.BytesIO()
        trained.curve.to_parquet(buffer)
        files |= {CURVE: buffer.getvalue(), META: json.dumps(meta, indent=1).encode()}
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
        return Artifact(spec.key, trained.state, trained.search_state, meta)


@dataclass(frozen=True)
class Trained:
    """What a meta-training leaves: states after both phases, the curve (one row per report), timings and counts."""

    state: dict[str, Tensor]
    search_state: dict[str, Tensor]
    curve: pd.DataFrame
    told: dict[str, Any]


def meta_train(
    make_method: Callable[[], Method],
    images: FamilyImages,
    seed: int,
    budget: Budget,
    validation_groups: int,
    compute: Compute,
    watch: Callable[[str, int, int, dict[str, float]], None],
    base: Artifact | None = None,
    episodes: str = "own",
) -> Trained:
    """Meta-train twice: first to choose the number of groups on held-out training classes, then on all training classes.

    The paper trains on all training classes "until convergence" and names no validation. Held-out classes decide when
    that is, and the second training, from the same initial state, gives every training class to the method for that many
    groups. ``watch(phase, groups_seen, groups_at_most, metrics)`` is called as training reports. ``base`` is the artifact
    that the method starts from: its search state in the search, so that nothing has seen the held-out classes.
    ``episodes`` says who draws them (``training_stream``).
    """
    clock = Clock(compute.device)
    told: dict[str, Any] = {"base_seconds": base.seconds if base else 0.0}
    curve: list[dict[str, Any]] = []
    states: dict[str, dict[str, Tensor]] = {}
    for phase in ("search", "final"):
        if phase == "final":
            budget = Budget(told["groups"], budget.check_every, budget.patience)
        stream = training_stream(episodes, images, seed, validation_groups if phase == "search" else 0)
        torch.manual_seed(seed)
        method = make_method()
        if base is not None:
            begin = base.search_state if phase == "search" else base.state
            method.start_from({name: tensor.to(compute.device) for name, tensor in begin.items()})
        session = Session(budget, _watcher(watch, phase, budget.max_groups))
        clock.start()
        method.meta_train(stream, session)
        elapsed: Elapsed = clock.stop()
        told[f"{phase}_seconds"] = elapsed.seconds
        curve += [{"phase": phase, **row} for row in session.curve]
        if phase == "search":
            told["groups"] = session.chosen_groups or budget.max_groups
            checks = [row["validation_accuracy"] for row in session.curve if "validation_accuracy" in row]
            told["validation_accuracy"] = max(checks, default=None)
        states[phase] = method.state_dict()
    return Trained(states["final"], states["search"], pd.DataFrame(curve), told)


def _checked_state(folder: Path, name: str, checksum: str) -> dict[str, Tensor]:
    weights = (folder / name).read_bytes()
    if sha256(weights).hexdigest() != checksum:
        raise ValueError(f"the checksum of {name} does not match")
    return safetensors.torch.load(weights)


def _watcher(
    watch: Callable[[str, int, int, dict[str, float]], None], phase: str, at_most: int
) -> Callable[[int, dict[str, float]], None]:
    return lambda seen, metrics: watch(phase, seen, at_most, metrics)
