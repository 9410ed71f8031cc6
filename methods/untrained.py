"""An untrained target: the control of everything that is learned before a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Dataset, Snapshot
from pudnet_bench.methods.feature_learner import FeatureLearner


class Untrained(FeatureLearner):
    """The target with fresh initial parameters for each group, and centroids of its features.

    The draw is part of `fit` and of its time.
    """

    name: ClassVar[str] = "untrained"

    @classmethod
    def meta_trains(cls) -> bool:
        return False

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        self.modules["network"] = targets.build(self.target).to(dataset.images.device)
        yield from super().fit(dataset)
