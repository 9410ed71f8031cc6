"""Checkpoints of a running meta-training, from which the next process resumes.

`<cache>/checkpoints/<key>/` holds a file for each completed phase of the training and one for the phase in progress:
checksummed safetensors, with the checkpoint's numbers as JSON in their header.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

from pudnet_bench.methods.base import Checkpoint
from pudnet_bench.results.store.files import checksummed, locked, quarantine, read_checksummed, write_atomically

SECONDS_BETWEEN = 30.0  # of training that a kill loses at most, where saving is quick
SAVING_SHARE = 20  # a save is followed by at least so many times its own duration of training


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one meta-training, by part: "search 1", "search 1 done", "final"."""

    folder: Path

    def load(self, part: str) -> Checkpoint | None:
        """Return the checkpoint, on the CPU, or None if there is none. A damaged file is quarantined with a warning."""
        path = self._path(part)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            body = read_checksummed(data)
            return Checkpoint(json.loads(_metadata(body)["numbers"]), safetensors.torch.load(body))
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            quarantine(path, str(error), "that part is trained again")
            return None

    def save(self, part: str, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint atomically and return its file. Raises OSError if the cache cannot be written."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        body = safetensors.torch.save(tensors, {"numbers": json.dumps(checkpoint.numbers)})
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(part)
        write_atomically(path, checksummed(body))
        return path

    def delete(self, part: str) -> None:
        """Delete the checkpoint of one part, if there is one."""
        self._path(part).unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Delete the folder, once the artifact is stored."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def locked(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the training for this process, calling `on_wait` once if another process holds it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f"{self.folder.name}.lock"), on_wait):
            yield

    def _path(self, part: str) -> Path:
        return self.folder / f"{part.replace(' ', '-')}.checkpoint"


class CheckpointSchedule:
    """Decides when to save: every `SECONDS_BETWEEN` seconds, or less often where saving takes long."""

    def __init__(self) -> None:
        self.next = time.monotonic() + SECONDS_BETWEEN

    def due(self) -> bool:
        """Return whether it is time to save."""
        return time.monotonic() >= self.next

    def saved(self, duration: float) -> None:
        """Schedule the next save after one that took `duration` seconds."""
        self.next = time.monotonic() + max(SECONDS_BETWEEN, SAVING_SHARE * duration)


def _metadata(body: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, whose first 8 bytes are the length of its JSON header."""
    return dict(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"])
