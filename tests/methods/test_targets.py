"""The target networks: which kernels there are to predict, feature counts, stems, and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import MethodError, TargetSpec

RESNET18 = [  # (out, in, kernel side, stride) in forward order, each downsampling after its block's other two
    *[(64, 64, 3, 1)] * 4,
    (128, 64, 3, 2), (128, 128, 3, 1), (128, 64, 1, 2), *[(128, 128, 3, 1)] * 2,
    (256, 128, 3, 2), (256, 256, 3, 1), (256, 128, 1, 2), *[(256, 256, 3, 1)] * 2,
    (512, 256, 3, 2), (512, 512, 3, 1), (512, 256, 1, 2), *[(512, 512, 3, 1)] * 2,
]  # fmt: skip


def kernels(spec: TargetSpec) -> list[tuple[int, int, int, int]]:
    convolutions = [conv for _, conv in targets.convolutions(targets.build(spec))]
    assert all(conv.kernel_size[0] == conv.kernel_size[1] for conv in convolutions)
    return [(c.out_channels, c.in_channels, c.kernel_size[0], c.stride[0]) for c in convolutions]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 84])
def test_convnet3_has_three_kernels_and_halves_three_times(channels: int, size: int) -> None:
    spec = TargetSpec("convnet3", (channels, size, size))
    assert kernels(spec) == [(64, channels, 3, 1), (64, 64, 3, 1), (64, 64, 3, 1)]
    network = targets.build(spec)
    assert targets.feature_count(network, spec.image_shape) == 64 * (size // 8) ** 2
    assert network(torch.zeros(2, channels, size, size)).shape == (2, 64 * (size // 8) ** 2)


def test_convnet3_width_is_an_option() -> None:
    spec = TargetSpec("convnet3", (1, 16, 24), (("width", 5),))
    assert kernels(spec) == [(5, 1, 3, 1), (5, 5, 3, 1), (5, 5, 3, 1)]
    assert targets.feature_count(targets.build(spec), spec.image_shape) == 5 * 2 * 3


@pytest.mark.parametrize(
    ("channels", "size", "options", "stem"),
    [
        (1, 28, (), (64, 1, 3, 1)),
        (3, 32, (), (64, 3, 3, 1)),
        (3, 64, (), (64, 3, 3, 1)),
        (3, 65, (), (64, 3, 7, 2)),
        (1, 84, (), (64, 1, 7, 2)),
        (3, 32, (("stem", "imagenet"),), (64, 3, 7, 2)),
        (3, 84, (("stem", "cifar"),), (64, 3, 3, 1)),
    ],
)
def test_resnet18_has_twenty_kernels_and_the_stem_for_its_images(channels, size, options, stem) -> None:
    spec = TargetSpec("resnet18", (channels, size, size), options)
    assert kernels(spec) == [stem, *RESNET18]
    network = targets.build(spec)
    has_max_pool = any(isinstance(module, nn.MaxPool2d) for module in network.modules())
    assert has_max_pool == (stem[2] == 7)
    assert targets.feature_count(network, spec.image_shape) == 512


@pytest.mark.parametrize("name", ["convnet3", "resnet18"])
def test_every_parameter_is_a_kernel_or_batchnorms(name: str) -> None:
    """No convolution bias and no final layer: what PudNet does not predict is BatchNorm alone."""
    network = targets.build(TargetSpec(name, (3, 16, 16)))
    predicted = {f"{conv}.weight" for conv, _ in targets.convolutions(network)}
    rest = {parameter for parameter, _ in network.named_parameters()} - predicted
    norms = {m for m, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert rest == {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    assert all(network.get_parameter(p).is_contiguous(memory_format=torch.channels_last) for p in predicted)


@pytest.mark.parametrize("name", ["convnet3", "resnet18"])
def test_convolutions_are_listed_in_the_order_in_which_they_run(name: str) -> None:
    network, ran = targets.build(TargetSpec(name, (1, 16, 16))).eval(), []
    for conv_name, conv in targets.convolutions(network):
        conv.register_forward_hook(lambda *_, conv_name=conv_name: ran.append(conv_name))
    network(torch.zeros(1, 1, 16, 16))
    assert ran == [conv_name for conv_name, _ in targets.convolutions(network)]


@pytest.mark.parametrize("training", [True, False])
def test_counting_features_leaves_the_network_as_it_was(training: bool) -> None:
    network = targets.build(TargetSpec("convnet3", (1, 8, 8))).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    targets.feature_count(network, (1, 8, 8))
    assert all(module.training == training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_an_unknown_target_is_named_with_those_there_are() -> None:
    with pytest.raises(MethodError, match=r"'convnet4'.*convnet3"):
        targets.build(TargetSpec("convnet4", (1, 8, 8)))


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 8, 7), (1, 4, 4)])
def test_images_too_small_for_convnet3_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(MethodError, match=f"{shape[1]}x{shape[2]} is too small.*8x8"):
        targets.build(TargetSpec("convnet3", shape))
