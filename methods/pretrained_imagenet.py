"""Pretrained on ImageNet: timm's published weights of the target network, frozen, with class centroids.

Departures from common use: images have the family's normalisation (zero mean, unit deviation over the training classes)
instead of ImageNet's, and are enlarged to 224 pixels, the size at which the weights were trained.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pudnet_bench.methods.base import MethodError, TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner
from pudnet_bench.methods.metric import SUPPORT_PER_CLASS


class PretrainedImageNet(FeatureLearner):
    """timm's ResNet with ImageNet weights; there is no meta-training.

    Args:
        weights: safetensors file with timm's parameter names; by default timm downloads the weights.
        weights_sha256: expected checksum of that file.
        image_size: side in pixels to which images are resized.

    Raises:
        MethodError: for a target without published weights, if the download fails, and for a file that is damaged or
            belongs to another network.
    """

    name: ClassVar[str] = "pretrained-imagenet"
    takes_weights: ClassVar[bool] = True

    def __init__(
        self,
        target: TargetSpec,
        n_training_classes: int,
        *,
        weights: str | None = None,
        weights_sha256: str | None = None,
        image_size: int = 224,
        support_per_class: int = SUPPORT_PER_CLASS,
    ) -> None:
        if not target.name.startswith("resnet"):
            raise MethodError(
                f"pretrained-imagenet needs a target that timm has weights for (resnet18, resnet34), not {target.name}"
            )
        super().__init__(target, n_training_classes, support_per_class=support_per_class)
        self.image_size = image_size
        self.modules["network"] = _timm_network(target, weights, weights_sha256)

    @classmethod
    def meta_trains(cls) -> bool:
        return False

    def features(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        return super().features(F.interpolate(images, size, mode="bilinear", antialias=True))


def _timm_network(target: TargetSpec, weights: str | None, checksum: str | None) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": 0, "in_chans": target.image_shape[0], "pretrained": True}
    if weights is not None:
        path = Path(weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise MethodError(f"--weights takes a .safetensors file, and '{weights}' is not one")
        if checksum is not None and sha256(path.read_bytes()).hexdigest() != checksum:
            raise MethodError(
                f"the weights file '{weights}' has changed since the run was planned; start the run again"
            )
        options["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        network: nn.Module = timm.create_model(target.name, **options)
    except Exception as error:  # download, file and timm can fail in many ways; the message names the cause
        where = f"from '{weights}'" if weights else "from the hub"
        raise MethodError(
            f"ImageNet weights of {target.name} cannot be loaded {where} ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"download timm/{target.name}.a1_in1k's model.safetensors elsewhere and give it with --weights FILE.safetensors"
        ) from error
    return network.to(memory_format=torch.channels_last)
