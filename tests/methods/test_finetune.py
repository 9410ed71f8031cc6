"""Fine-tuning begins with the network of any method, trains all of it, and leaves the method as it was."""

from __future__ import annotations

import pytest
import torch

from pudnet_bench.methods import registry
from pudnet_bench.methods.base import Budget, Method, MethodError, Session, Snapshot, TargetSpec
from pudnet_bench.methods.finetune import Finetune
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

TARGET = TargetSpec("convnet3", (1, 8, 8))
BASES = ("pudnet", "pretrained", "protonet", "matchnet", "meta-baseline", "meta-deepbdc", "musml", "adam")


def learned(name: str, digits: FamilyImages, target: TargetSpec = TARGET) -> Method:
    torch.manual_seed(0)
    method = registry.find(name)(target, 6)
    method.meta_train(TrainingStream(digits, 0), Session(Budget(6, 6, 1)))
    return method


def finetune(base: Method, epochs: tuple[int, ...] = (0, 5)) -> Finetune:
    method = Finetune(base.target, 6, epochs=epochs)
    method.start_from(base)
    return method


@pytest.mark.parametrize("name", BASES)
def test_it_learns_from_where_the_base_is_and_leaves_the_base_alone(name: str, digits: FamilyImages) -> None:
    base = learned(name, digits)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    group = digits.group("unseen", 0, 0)
    torch.manual_seed(1)
    for snapshot in finetune(base, (5,)).fit(group.fit):
        accuracy = (snapshot.classifier(group.test.images).argmax(1) == group.test.labels).float().mean()
        assert accuracy > 0.9
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())


@pytest.mark.parametrize(
    "target", ["convnet3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet34"))]
)
@pytest.mark.parametrize("name", BASES)
def test_the_network_of_a_method_computes_the_methods_own_features(name: str, target: str, make_dataset) -> None:
    """A fitted network classifies by its own prototypes as the method does; where the method has a head of its own, it is
    only required to be trainable in every parameter."""
    shape = (3, 16, 16)
    torch.manual_seed(0)
    base = registry.find(name)(TargetSpec(target, shape), 6)
    dataset, test = make_dataset(0, shape), make_dataset(1, shape)
    if name == "musml":
        base._subspaces_for(dataset.n_classes)  # type: ignore[attr-defined]
    network = base.fitted_network(dataset)
    network.eval()
    features = network(test.images)
    if name in ("pretrained", "pudnet", "meta-baseline"):
        support = torch.cat([torch.where(dataset.labels == c)[0][:10] for c in range(2)])
        means = torch.stack([network(dataset.images[support][i * 10 : i * 10 + 10]).mean(0) for i in range(2)])
        cosines = torch.nn.functional.cosine_similarity(features[:, None], means[None], dim=2)
        (snapshot,) = base.fit(dataset)
        torch.testing.assert_close(10 * cosines, snapshot.classifier(test.images), rtol=1e-3, atol=1e-3)
    network.train()
    network(dataset.images).square().mean().backward()
    without = [key for key, value in network.named_parameters() if value.grad is None]
    assert without == []


def test_the_head_fits_the_groups_classes_whatever_the_base_was_trained_for(digits: FamilyImages, make_dataset) -> None:
    base = learned("musml", digits)
    dataset = make_dataset(0, (1, 8, 8), ways=4)
    (snapshot,) = finetune(base, (1,)).fit(dataset)
    assert snapshot.classifier(dataset.images).shape == (len(dataset), 4)


def test_a_base_without_a_network_says_so(make_dataset) -> None:
    class Bare(Method):
        name = "bare"

        def fit(self, dataset):  # type: ignore[no-untyped-def]
            yield Snapshot(lambda images: images)

    method = Finetune(TARGET, 6)
    with pytest.raises(MethodError, match="start_from"):
        next(method.fit(make_dataset(0, (1, 8, 8))))
    method.start_from(Bare(TARGET, 6))
    with pytest.raises(MethodError, match="bare has no network"):
        next(method.fit(make_dataset(0, (1, 8, 8))))


def test_what_it_builds_on_is_an_option() -> None:
    assert Finetune.starts_from({}) == ("pudnet", {})
    options = {"base": "pudnet", "base_options": {"eta": 0.5}}
    assert Finetune.starts_from(options) == ("pudnet", {"eta": 0.5})
    assert not Finetune.meta_trains()
