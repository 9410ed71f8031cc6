"""ImageNet weights from a local file: the same features as timm's, and one sentence where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from pudnet_bench.methods.base import MethodError, TargetSpec
from pudnet_bench.methods.pretrained_imagenet import PretrainedImageNet

RESNET = TargetSpec("resnet18", (3, 16, 16))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), path)
    return path


def test_features_are_those_of_the_file_on_enlarged_images(weights: Path) -> None:
    method = PretrainedImageNet(RESNET, 6, weights=str(weights), image_size=32)
    method.modules.eval()
    reference = timm.create_model("resnet18", num_classes=0)
    reference.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    images = torch.randn(2, 3, 16, 16)
    enlarged = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(method.features(images), reference.eval()(enlarged), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_fits_without_meta_training(channels: int, weights: Path, make_dataset) -> None:
    shape = (channels, 16, 16)
    method = PretrainedImageNet(TargetSpec("resnet18", shape), 6, weights=str(weights), image_size=32)
    assert not method.meta_trains()
    (snapshot,) = method.fit(make_dataset(0, shape))
    assert snapshot.classifier(make_dataset(1, shape).images).shape == (30, 2)


def test_a_target_without_imagenet_weights_is_refused(weights: Path) -> None:
    with pytest.raises(MethodError, match="resnet18, resnet34"):
        PretrainedImageNet(TargetSpec("convnet3", (3, 16, 16)), 6, weights=str(weights))


def test_weights_that_cannot_be_loaded_are_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not weights")
    with pytest.raises(MethodError, match=r"damaged\.safetensors.*--weights FILE\.safetensors"):
        PretrainedImageNet(RESNET, 6, weights=str(damaged))
    with pytest.raises(MethodError, match=r"takes a \.safetensors file"):
        PretrainedImageNet(RESNET, 6, weights=str(tmp_path / "weights.pth"))
    with pytest.raises(MethodError, match="has changed"):
        PretrainedImageNet(RESNET, 6, weights=str(damaged), weights_sha256="0")


def test_without_a_hub_the_message_says_how_to_get_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MethodError, match=r"from the hub.*timm/resnet18.*--weights FILE\.safetensors"):
        PretrainedImageNet(RESNET, 6)
