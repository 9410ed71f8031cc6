"""Fine-tuning of the network that another method provides for a group, with a linear head (paper, Table 5).

Section 4.4 of the PudNet paper adds a linear layer to a predicted, pretrained or meta-trained network and trains for 50
epochs on 10,000 images; "from scratch" is the same training of a freshly initialised target. The paper states neither the
trained parameters nor the learning rate. Here all are trained, with the schedule of training from scratch (Adam, 1e-3,
batches of 32), so that rows differ only in where training starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from pudnet_bench.methods.base import Dataset, Method, MethodError, TargetSpec
from pudnet_bench.methods.scratch import Adam


class Finetune(Adam):
    """Training that starts from the network of `base`, any method with a `fitted_network`.

    `base_options` are options of that method. The time of `fit` includes what it does for the group, such as PudNet's
    prediction.
    """

    name: ClassVar[str] = "finetune"
    paper_clock: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        base: str = "pudnet",
        base_options: Mapping[str, Any] | None = None,
        epochs: tuple[int, ...] = (50,),
        batch_size: int = 32,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(target, n_training_classes, epochs=epochs, batch_size=batch_size, lr=lr)
        self.base: Method | None = None

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return options.get("base", "pudnet"), dict(options.get("base_options") or {})

    def start_from(self, base: Method) -> None:
        self.base = base

    def to(self, device: torch.device) -> None:
        if self.base is not None:
            self.base.to(device)

    def fitted_network(self, dataset: Dataset) -> nn.Module:
        if self.base is None:
            raise MethodError("finetune has no base method to start from; call start_from before fit")
        return self.base.fitted_network(dataset)
