"""Controls of PudNet's claim that it predicts parameters from the dataset.

`PudNetControl` uses a trained PudNet and takes the kernels from elsewhere; the centroids are always the dataset's own.
`ConstantSketch` is trained like PudNet, without ever seeing a dataset's sketch. If the prediction depends on the dataset
in a way that helps, PudNet is ahead of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import Dataset, Method, MethodError, TargetSpec
from pudnet_bench.methods.control import Control
from pudnet_bench.methods.pudnet.method import PudNet

KERNELS = ("other", "other-source", "mean-sketch", "mean-kernels", "noise")


class PudNetControl(PudNet, Control):
    """A trained PudNet whose kernels are not predicted from the dataset that it classifies.

    Args:
        kernels: Where they come from instead. "other": another unseen group of the same source. "other-source": an unseen
            group of another source. "mean-sketch": predicted from the mean sketch of `observed_groups` training groups.
            "mean-kernels": the mean of the kernels predicted for those. "noise": predicted from as many images of standard
            normal noise.
        **options: Those of the `PudNet` whose artifact it uses.

    Raises:
        MethodError: for unknown `kernels`.
    """

    name: ClassVar[str] = "pudnet-control"

    def __init__(self, target: TargetSpec, n_training_classes: int, *, kernels: str = "other", **options: Any) -> None:
        if kernels not in KERNELS:
            raise MethodError(f"pudnet-control's kernels is one of {', '.join(KERNELS)}, not '{kernels}'")
        super().__init__(target, n_training_classes, **options)
        self.source, self.other_source = kernels, kernels == "other-source"
        self.fixed: dict[str, Tensor] = {}
        self.other: Dataset | None = None

    @classmethod
    def paper_options(cls, family: str, target: str) -> Mapping[str, Any]:
        return PudNet.paper_options(family, target)

    @classmethod
    def meta_trains(cls) -> bool:
        return False

    @classmethod
    def starts_from(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        return PudNet.name, {name: value for name, value in options.items() if name != "kernels"}

    def start_from(self, base: Method) -> None:
        self.load_state_dict(base.state_dict())

    @torch.no_grad()
    def observe(self, training: Iterator[Dataset]) -> None:
        if not self.source.startswith("mean"):
            return
        self.modules.eval()
        sketches = [self.hypernetwork.sketch.stream(dataset.images, dataset.labels) for dataset in training]
        if self.source == "mean-sketch":
            self.fixed = self.hypernetwork.kernels(torch.stack(sketches).mean(0))
        else:
            each = [self.hypernetwork.kernels(sketch) for sketch in sketches]
            self.fixed = {name: torch.stack([kernels[name] for kernels in each]).mean(0) for name in each[0]}

    def show_other(self, other: Dataset) -> None:
        self.other = other

    def kernels(self, dataset: Dataset) -> dict[str, Tensor]:
        """Return the control's kernels for `dataset`. Raises MethodError where the harness has not shown what it needs."""
        if self.source == "noise":
            return super().kernels(replace(dataset, images=torch.randn_like(dataset.images)))
        if self.source.startswith("mean"):
            if not self.fixed:
                raise MethodError("pudnet-control was shown no training groups; call observe before fit")
            return self.fixed
        if self.other is None:
            raise MethodError("pudnet-control was shown no other group; call show_other before fit")
        return super().kernels(self.other)


class ConstantSketch(PudNet):
    """PudNet with a learned constant in place of the sketch: one set of kernels for every dataset.

    Trained on the same groups, from the same initial generators. It differs from an ordinary meta-trained network only in
    how its kernels are parametrised.
    """

    name: ClassVar[str] = "pudnet-constant"

    def __init__(self, target: TargetSpec, n_training_classes: int, **options: Any) -> None:
        super().__init__(target, n_training_classes, **options)
        # After the sketch, so that the generators begin as PudNet's do.
        shape = self.hypernetwork.sketch.shape
        del self.hypernetwork.sketch
        self.hypernetwork.add_module("sketch", _Constant(shape))

    @classmethod
    def paper_options(cls, family: str, target: str) -> Mapping[str, Any]:
        return PudNet.paper_options(family, target)


class _Constant(nn.Module):
    """Stands in for `DatasetSketch`: the same sketch float [layers, dim] for any images."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(shape))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.value

    def stream(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.value
