"""Controls differ from PudNet, or from a trained network, in the one thing that they are denied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Budget, Dataset, Method, MethodError, Session, TargetSpec
from pudnet_bench.methods.metric import cosine_logits, prototypes, support_indices
from pudnet_bench.methods.pudnet.controls import KERNELS, ConstantSketch, PudNetControl
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.untrained import Untrained
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

TARGET = TargetSpec("convnet3", (1, 8, 8))


def trained(kind: type[PudNet], digits: FamilyImages, **options: Any) -> PudNet:
    torch.manual_seed(0)
    method = kind(TARGET, 6, **options)
    method.meta_train(TrainingStream(digits, 0), Session(Budget(6, 6, 1)))
    return method


def control(kernels: str, pudnet: PudNet, **options: Any) -> PudNetControl:
    method = PudNetControl(TARGET, 6, kernels=kernels, **options)
    method.start_from(pudnet)
    return method


def logits(method: Method, fit: Dataset, images: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    (snapshot,) = method.fit(fit)
    return snapshot.classifier(images)


@pytest.mark.parametrize("options", [{}, {"bn_mode": "fit"}, {"gru_layers": 2}, {"eta": 0.7}], ids=str)
def test_kernels_of_the_dataset_itself_make_it_pudnet(options: dict[str, Any], digits: FamilyImages) -> None:
    pudnet = trained(PudNet, digits, **options)
    own, other = digits.group("unseen", 0, 0), digits.group("unseen", 0, 3)
    method = control("other", pudnet, **options)
    method.show_other(own.fit)
    assert torch.equal(logits(method, own.fit, own.test.images), logits(pudnet, own.fit, own.test.images))
    method.show_other(other.fit)
    assert not torch.equal(logits(method, own.fit, own.test.images), logits(pudnet, own.fit, own.test.images))
    # Centroids and BatchNorm are the dataset's own: only the kernels come from elsewhere.
    kernels = pudnet.predicted(other.fit)
    assert all(torch.equal(method.predicted(own.fit)[name], kernels[name]) for name in pudnet.hypernetwork.names)


def test_mean_kernels_and_the_mean_sketch_are_over_the_training_groups(digits: FamilyImages) -> None:
    pudnet = trained(PudNet, digits)
    groups = [digits.group("training", 0, index).fit for index in range(3)]
    own = digits.group("unseen", 0, 0)
    each = [pudnet.predicted(group) for group in groups]
    sketch = torch.stack([pudnet.hypernetwork.sketch(group.images) for group in groups]).mean(0)
    expected = {
        "mean-kernels": {name: sum(kernels[name] for kernels in each) / 3 for name in each[0]},
        "mean-sketch": pudnet.hypernetwork.kernels(sketch),
    }
    for kernels, values in expected.items():
        method = control(kernels, pudnet)
        with pytest.raises(MethodError, match="observe"):
            next(method.fit(own.fit))
        method.observe(iter(groups))
        found = method.predicted(own.fit)
        for name, value in values.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_noise_is_drawn_for_each_fit_and_repeats_with_its_seed(digits: FamilyImages) -> None:
    method, own = control("noise", trained(PudNet, digits)), digits.group("unseen", 0, 0)
    first, again, other = (logits(method, own.fit, own.test.images, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_control_of_which_nothing_was_shown_says_what_is_missing(digits: FamilyImages) -> None:
    with pytest.raises(MethodError, match="show_other"):
        next(control("other", trained(PudNet, digits)).fit(digits.group("unseen", 0, 0).fit))
    with pytest.raises(MethodError, match="'another'"):
        PudNetControl(TARGET, 6, kernels="another")


def test_controls_use_pudnets_artifact_with_the_papers_options() -> None:
    for family, target in (("cifar100", "convnet3"), ("imagenet", "resnet18"), ("digits", "convnet3")):
        settings = dict(PudNet.paper_options(family, target))
        assert dict(PudNetControl.paper_options(family, target)) == settings
        assert dict(ConstantSketch.paper_options(family, target)) == settings
        for kernels in KERNELS:
            assert PudNetControl.starts_from({**settings, "kernels": kernels}) == ("pudnet", settings)
    assert not PudNetControl.meta_trains()
    assert ConstantSketch.meta_trains()


def test_a_constant_sketch_gives_every_dataset_the_same_kernels_and_is_learned(digits: FamilyImages) -> None:
    torch.manual_seed(0)
    before = ConstantSketch(TARGET, 6)
    torch.manual_seed(0)
    pudnet = PudNet(TARGET, 6)
    ours, theirs = before.hypernetwork.generators.state_dict(), pudnet.hypernetwork.generators.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    method = trained(ConstantSketch, digits)
    value = "hypernetwork.sketch.value"
    assert not torch.equal(before.state_dict()[value], method.state_dict()[value])
    one, two = (method.predicted(digits.group("unseen", 0, index).fit) for index in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    again = ConstantSketch(TARGET, 6)
    again.load_state_dict(method.state_dict())
    own = digits.group("unseen", 0, 0)
    assert torch.equal(logits(again, own.fit, own.test.images), logits(method, own.fit, own.test.images))


def test_the_untrained_target_is_a_fresh_one_with_centroids(digits: FamilyImages) -> None:
    method, own = Untrained(TARGET, 6), digits.group("unseen", 0, 0)
    assert not Untrained.meta_trains()
    torch.manual_seed(3)
    network = targets.build(TARGET).eval()
    support = support_indices(own.fit.labels, 2, 10)
    with torch.no_grad():
        centroids = prototypes(network(own.fit.images[support]), own.fit.labels[support], 2)
        expected = cosine_logits(network(own.test.images), centroids, 10.0)
    torch.testing.assert_close(logits(method, own.fit, own.test.images, 3), expected)
    assert not torch.equal(logits(method, own.fit, own.test.images, 4), expected)
