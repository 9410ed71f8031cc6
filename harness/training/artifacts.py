"""The artifact store: results of meta-training, addressed by the hash of all their inputs and shared by all suites.

`<cache>/artifacts/<key>/` holds weights.safetensors, meta.json (every input of the hash in clear) and curve.parquet.
"""

from __future__ import annotations

import errno
import io
import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from torch import Tensor

from pudnet_bench.harness.training.checkpoint import CheckpointFolder
from pudnet_bench.results.store.files import checksummed_json, naming, quarantine, read_checksummed_json, reading

WEIGHTS, META, CURVE = "weights.safetensors", "meta.json", "curve.parquet"


@dataclass(frozen=True)
class ArtifactSpec:
    """The identity of one meta-training: `inputs` is everything that shapes its outcome, as JSON values."""

    inputs: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Readable and unique: method, family, target and 16 hex digits of the hash of all inputs."""
        method, family, target = (str(self.inputs[part]) for part in ("method", "family_name", "target"))
        digest = sha256(json.dumps(self.inputs, sort_keys=True).encode()).hexdigest()
        return f"{method}-{family}-{target}-{digest[:16]}"


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """Counts and device seconds of a meta-training, written to `meta.json`.

    Attributes:
        groups: that the weights were trained on.
        chosen_by_fold: number of groups that validated best, for each fold of the search; empty without a search.
        validation_accuracy_by_fold: the best (0..1), or None if none was reported.
        base_seconds: of the whole meta-training of the method that this one starts from.
        search_seconds: of the choice of the number of groups.
        final_seconds: of the training on all training classes.
        processes: that shared the training.
    """

    groups: int
    chosen_by_fold: list[int]
    validation_accuracy_by_fold: list[float | None]
    base_seconds: float
    search_seconds: float
    final_seconds: float
    processes: int


@dataclass(frozen=True)
class Trained:
    """The outcome of a meta-training before it is stored.

    `search_states` has what each fold of the search learned without its validation classes, and is empty without a search.
    `curve` has a row per report: `phase`, `groups` and the metrics.
    """

    state: dict[str, Tensor]
    search_states: tuple[dict[str, Tensor], ...]
    curve: pd.DataFrame
    summary: TrainingSummary


@dataclass(frozen=True)
class Artifact:
    """A stored `Trained`; tensors loaded from disk are on the CPU. `meta` is the content of `meta.json`."""

    key: str
    state: dict[str, Tensor]
    search_states: tuple[dict[str, Tensor], ...]
    curve: pd.DataFrame
    meta: dict[str, Any]

    @property
    def groups(self) -> int:
        return int(self.meta["groups"])

    @property
    def seconds(self) -> float:
        """Device seconds of the whole meta-training, including the search and the method it starts from."""
        return float(self.meta["search_seconds"] + self.meta["final_seconds"] + self.meta["base_seconds"])


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts and checkpoints in a cache folder."""

    cache_dir: Path

    def folder(self, spec: ArtifactSpec) -> Path:
        """The artifact's folder, existing or not."""
        return self.cache_dir / "artifacts" / spec.key

    def checkpoints(self, training_key: str) -> CheckpointFolder:
        """Return the checkpoints of a meta-training (`Cell.training_key`)."""
        return CheckpointFolder(self.cache_dir / "checkpoints" / training_key)

    def has(self, spec: ArtifactSpec) -> bool:
        """Return whether the artifact is stored, without verifying it."""
        return (self.folder(spec) / META).exists()

    def load(self, spec: ArtifactSpec) -> Artifact | None:
        """Return the artifact, or None if it is not stored. A damaged one is quarantined and counts as not stored."""
        folder = self.folder(spec)
        if not folder.exists():
            return None
        try:
            with reading(folder):
                meta = read_checksummed_json((folder / META).read_bytes())
                files = {name: _verified_bytes(folder / name, checksum) for name, checksum in meta["sha256"].items()}
            curve = pd.read_parquet(io.BytesIO(files.pop(CURVE)))
            state, *search = (safetensors.torch.load(weights) for weights in files.values())
            return Artifact(spec.key, state, tuple(search), curve, meta)
        except OSError as error:
            if error.errno not in (
                None,
                errno.ENOENT,
                errno.ENOTDIR,
            ):  # the disk or network may be back, a training is dear
                raise
            quarantine(folder, str(error), "it is trained again")
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            quarantine(folder, str(error), "it is trained again")
            return None

    def save(self, spec: ArtifactSpec, trained: Trained) -> Artifact:
        """Store the artifact atomically: readers see all of it or nothing. An existing one stays as it is."""
        states = {WEIGHTS: trained.state}
        states |= {f"search-{fold}.safetensors": state for fold, state in enumerate(trained.search_states)}
        files = {
            name: safetensors.torch.save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()})
            for name, state in states.items()
        }
        buffer = io.BytesIO()
        trained.curve.to_parquet(buffer)
        files[CURVE] = buffer.getvalue()
        checksums = {name: sha256(content).hexdigest() for name, content in files.items()}
        meta = {"inputs": spec.inputs, "sha256": checksums, **asdict(trained.summary)}
        files[META] = checksummed_json(meta)
        folder = self.folder(spec)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with naming(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as temporary:
            complete = Path(temporary) / "artifact"
            complete.mkdir()
            for name, content in files.items():
                (complete / name).write_bytes(content)
            if not folder.exists():  # another process may have stored the same artifact: equal by construction
                complete.rename(folder)
        return Artifact(spec.key, trained.state, trained.search_states, trained.curve, meta)


def _verified_bytes(path: Path, checksum: str) -> bytes:
    if sha256(content := path.read_bytes()).hexdigest() != checksum:
        raise ValueError(f"the checksum of {path.name} does not match")
    return content
