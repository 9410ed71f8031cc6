"""The target networks: feature extractors without a final layer, the same for every method.

ConvNet-3 follows the paper's Figure 5: three blocks of 3x3 convolution (64 channels, our choice), BatchNorm, ReLU and 2x2
max-pooling, flattened. ResNet-18 and ResNet-34 are timm's without their final layer; for images up to 64 pixels they have
the usual CIFAR stem (3x3, stride 1, no max-pooling).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Size, Tensor, nn

from pudnet_bench.methods.base import MethodError, TargetSpec

TARGETS = {
    "convnet3": "ConvNet-3: three 3x3 convolutions of 64 channels",
    "resnet18": "ResNet-18 (timm), 3x3 stem for images up to 64 px",
    "resnet34": "ResNet-34 (timm), 3x3 stem for images up to 64 px",
}

STATISTICS_IMAGES = 2_000  # that estimate BatchNorm statistics, in one pass
SMALL_IMAGE = 64  # pixels; larger images get the ImageNet stem


class ConvNet3(nn.Sequential):
    """Images [n, c, h, w] -> [n, width * (h // 8) * (w // 8)]; convolutions have no bias, since BatchNorm follows."""

    def __init__(self, channels: int, width: int = 64) -> None:
        layers: list[nn.Module] = []
        for fan_in in (channels, width, width):
            # Pooling commutes with the ReLU, which then has a quarter of the values.
            layers += [nn.Conv2d(fan_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2), nn.ReLU()]
        super().__init__(*layers, nn.Flatten())


def resnet(name: str, channels: int, small_stem: bool) -> nn.Module:
    """Return timm's ResNet without its final layer: images [n, c, h, w] -> [n, 512].

    The last BatchNorm of a block starts at one, as in He et al. 2016, instead of timm's zero, which switches the residual
    branches off: predicted kernels inside them would have neither effect nor gradient.
    """
    import timm

    network: nn.Module = timm.create_model(name, num_classes=0, in_chans=channels, zero_init_last=False)
    if small_stem:
        network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def build(spec: TargetSpec) -> nn.Module:
    """Return a freshly initialised target network, its kernels in channels-last memory.

    Options are `width` (ConvNet-3) and `stem`, "imagenet" or "cifar" (ResNets).

    Raises:
        MethodError: for an unknown name or option, and for images smaller than 8 pixels.
    """
    channels, height, width = spec.image_shape
    options = dict(spec.options)
    if spec.name not in TARGETS:
        raise MethodError(f"unknown target '{spec.name}'; known: {', '.join(TARGETS)}")
    allowed = "width" if spec.name == "convnet3" else "stem"
    if set(options) - {allowed} or options.get("stem", "cifar") not in ("cifar", "imagenet"):
        raise MethodError(f"target '{spec.name}' does not take the options {options}; it takes {allowed}")
    if min(height, width) < 8:
        raise MethodError(f"{spec.name} halves the image three times: {height}x{width} is too small, use 8x8 or more")
    if spec.name == "convnet3":
        return ConvNet3(channels, **options).to(memory_format=torch.channels_last)
    stem = options.get("stem", "cifar" if max(height, width) <= SMALL_IMAGE else "imagenet")
    return resnet(spec.name, channels, stem == "cifar").to(memory_format=torch.channels_last)


def output_shape(network: nn.Module, forward: Callable[[Tensor], Tensor], image_shape: tuple[int, int, int]) -> Size:
    """Return the shape of what `forward`, a pass through `network`, makes of an image; no state changes."""
    training = network.training
    network.eval()
    with torch.no_grad():
        output = forward(torch.zeros(1, *image_shape, device=next(network.parameters()).device))
    network.train(training)
    return output.shape[1:]


def feature_count(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the length of an image's feature vector; the network's state is left as it was."""
    return output_shape(network, network, image_shape)[0]


def convolutions(network: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """Return every convolution, including stem and downsampling, with its dotted name, in forward order.

    A ResNet block's downsampling convolution follows its two others; kernels are predicted in that order, too.
    """
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


def norms(network: nn.Module) -> dict[str, tuple[str, nn.BatchNorm2d]]:
    """Return the BatchNorm that follows each convolution, with its dotted name, by the convolution's name."""
    found, convolution = {}, ""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            convolution = name
        elif isinstance(module, nn.BatchNorm2d):
            found[convolution] = (name, module)
    return found
