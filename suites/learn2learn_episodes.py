"""Training episodes drawn by learn2learn's `TaskDataset`, for comparison with results obtained with that library.

`TrainingStream` samples the same distribution and is faster; a test compares the two.
"""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch

from pudnet_bench.methods.base import Episode, MethodError
from pudnet_bench.suites.groups import FamilyImages, TrainingStream


class _Positions(torch.utils.data.Dataset[tuple[int, int]]):
    """The training images as a dataset for learn2learn: item i is (position in the source, class)."""

    def __init__(self, positions: np.ndarray, labels: np.ndarray) -> None:
        self.positions, self.labels = positions, labels

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return int(self.positions[index]), int(self.labels[index])


class Learn2LearnStream(TrainingStream):
    """A `TrainingStream` whose episodes come from `TaskDataset` with the transforms NWays, KShots and LoadData.

    learn2learn draws from Python's global generator. It is seeded by (seed, split, index) for each task and restored
    afterwards, so that an episode is a pure function of its index here too. The first episode raises MethodError where
    learn2learn is not installed.
    """

    def episodes(self, first: int = 0, stride: int = 1) -> Iterator[Episode]:
        for index in count(first, stride):
            state = random.getstate()
            random.seed(f"{self.seed} {self.split} {index}")
            positions, labels = self._tasks.sample()
            random.setstate(state)
            order = torch.argsort(labels, stable=True)
            drawn = positions[order].view(self.ways, -1).numpy()
            places = [self.classes.index(int(c)) for c in labels[order].view(self.ways, -1)[:, 0]]
            yield self.episode(index, np.array(places), drawn)

    @cached_property
    def _tasks(self) -> Any:
        ranges, data = self.images.ranges, learn2learn_data()
        labels = np.repeat(self.classes, ranges.sizes[list(self.classes)])
        dataset = data.MetaDataset(_Positions(ranges.positions(self.classes), labels))
        ways = data.transforms.NWays(dataset, self.ways)
        shots = data.transforms.KShots(dataset, self.images.family.images_per_class)
        return data.TaskDataset(dataset, [ways, shots, data.transforms.LoadData(dataset)])


def learn2learn_data() -> Any:
    """Import the module `learn2learn.data`, late and quietly: it imports gym, which prints a notice to stderr.

    Raises MethodError where learn2learn is not installed.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            import learn2learn.data
        except ImportError as error:
            raise MethodError(
                "--episodes learn2learn needs learn2learn; install the extra pudnet-bench[learn2learn], or use "
                f"--episodes own ({error})"
            ) from error
    return learn2learn.data


def training_stream(kind: str, images: FamilyImages, seed: int, validation: int) -> TrainingStream:
    """Return the training stream of `kind` "own" or "learn2learn"."""
    return (Learn2LearnStream if kind == "learn2learn" else TrainingStream)(images, seed, validation)
