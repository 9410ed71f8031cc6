"""What a meta-training that was stopped leaves, so that the next process goes on from there.

``<cache>/unfinished/<key>/`` holds one file for each finished part of a training and one for the part that was running:
safetensors with the numbers as JSON in their header, checksummed (``results.store.files.checksummed``).
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

from pudnet_bench.methods.base import Checkpoint
from pudnet_bench.results.store.files import checksummed, locked, read_checksummed, write_atomically

SECONDS_BETWEEN = 30.0  # of training that a kill loses at most, where saving is quick
SAVING_SHARE = 20  # a save is followed by at least so many times its own duration of training


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder of one meta-training. Parts have names such as "search 1" and "search 1, done"."""

    folder: Path

    def load(self, part: str) -> Checkpoint | None:
        """What was saved of ``part``, on the CPU; None if nothing. A damaged file is set aside with a warning."""
        path = self._path(part)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            body = read_checksummed(data)
            numbers = json.loads(_header(body)["numbers"])
            return Checkpoint(numbers, safetensors.torch.load(body))
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            aside = path.with_name(f"{path.name}.corrupt")
            path.replace(aside)
            warnings.warn(
                f"{path} is damaged ({error}); set aside as {aside.name}, that part is trained again", stacklevel=2
            )
            return None

    def save(self, part: str, progress: Checkpoint) -> Path:
        """Keep ``progress`` in the file returned; it survives a crash. Raises OSError where the cache cannot be written."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in progress.tensors.items()}
        body = safetensors.torch.save(tensors, {"numbers": json.dumps(progress.numbers)})
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(part)
        write_atomically(path, checksummed(body))
        return path

    def forget(self, part: str) -> None:
        self._path(part).unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing: the training is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def alone(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold this training for this process. ``waiting()`` is called once where another has it and is waited for."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f"{self.folder.name}.lock"), waiting):
            yield

    def _path(self, part: str) -> Path:
        return self.folder / f"{part.replace(',', '').replace(' ', '-')}.progress"


class CheckpointSchedule:
    """When progress is saved: at the latest after ``SECONDS_BETWEEN``, and no more often than saving is worth."""

    def __init__(self) -> None:
        self.next = time.monotonic() + SECONDS_BETWEEN

    def due(self) -> bool:
        return time.monotonic() >= self.next

    def saved(self, duration: float) -> None:
        """``duration``: seconds that the save took."""
        self.next = time.monotonic() + max(SECONDS_BETWEEN, SAVING_SHARE * duration)


def _header(body: bytes) -> dict[str, str]:
    """The metadata of safetensors: the first 8 bytes are the length of a JSON header."""
    length = int.from_bytes(body[:8], "little")
    metadata: dict[str, str] = json.loads(body[8 : 8 + length])["__metadata__"]
    return metadata
