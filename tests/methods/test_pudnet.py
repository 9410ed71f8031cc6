"""PudNet as a whole: what its kernels depend on, where gradients reach, and what a prediction must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import Classifier, Dataset, Episode, TargetSpec
from pudnet_bench.methods.metric import cosine_logits, prototypes, support_indices
from pudnet_bench.methods.pudnet.method import PudNet

SMALL = {"dim": 24, "hidden": 4}
TARGETS = {
    "convnet3": TargetSpec("convnet3", (1, 16, 16), (("width", 16),)),
    "convnet3-colour": TargetSpec("convnet3", (3, 8, 8), (("width", 16),)),
    "resnet18": TargetSpec("resnet18", (1, 8, 8)),
    "resnet18-colour": TargetSpec("resnet18", (3, 8, 8)),
}
TRAINING_CLASSES = 6


def pudnet(target: str = "convnet3", seed: int = 0, **options: Any) -> PudNet:
    torch.manual_seed(seed)
    return PudNet(TARGETS[target], TRAINING_CLASSES, **{**SMALL, **options})


def fitted(method: PudNet, dataset: Dataset) -> Classifier:
    (snapshot,) = method.fit(dataset)
    return snapshot.classifier


def episode(dataset: Dataset, per_class: int = 5) -> Episode:
    """The first `per_class` images of each class as support, all others as queries; classes 4 and 1."""
    rank = torch.arange(len(dataset)) % (len(dataset) // dataset.n_classes)
    cut = [
        Dataset(dataset.images[where], dataset.labels[where], dataset.n_classes)
        for where in (rank < per_class, rank >= per_class)
    ]
    return Episode(0, cut[0], cut[1], torch.tensor([4, 1]), lambda: dataset)


def trained_a_little(method: PudNet, make_dataset, steps: int = 3) -> PudNet:
    """After a few steps the running statistics and all weights are other than the initial ones."""
    parameters = [p for p in method.modules.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    method.modules.train()
    for seed in range(steps):
        optimizer.zero_grad()
        method.episode_losses(episode(make_dataset(1000 + seed, method.target.image_shape))).total.backward()
        optimizer.step()
    return method


def relative_difference(one: Tensor, two: Tensor) -> float:
    return float((one - two).detach().norm() / max(float(one.detach().norm()), float(two.detach().norm())))


# --- the kernels come from the dataset ---


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("target", ["convnet3", "resnet18"])
def test_two_datasets_get_two_sets_of_kernels(target: str, training: bool, make_dataset) -> None:
    method = trained_a_little(pudnet(target), make_dataset, steps=1)
    for seed in range(30):  # settles the extractor's running statistics, where it has any
        method.hypernetwork.sketch(make_dataset(seed, method.target.image_shape, per_class=4).images)
    method.modules.train(training)
    one, two = (make_dataset(seed, method.target.image_shape).images for seed in (100, 101))
    sketches = [method.hypernetwork.sketch(images).detach() for images in (one, two)]
    assert relative_difference(*sketches) > 0.1
    kernels, others = method.hypernetwork(one), method.hypernetwork(two)
    assert list(kernels) == list(others)
    for name in kernels:
        assert relative_difference(kernels[name], others[name]) > 1e-3, name


@pytest.mark.parametrize(("target", "n_kernels"), [("convnet3", 3), ("convnet3-colour", 3), ("resnet18-colour", 20)])
def test_every_convolution_of_the_target_gets_its_kernel(target: str, n_kernels: int, make_dataset) -> None:
    method = pudnet(target)
    kernels = method.hypernetwork(make_dataset(0, method.target.image_shape).images)
    shapes = {
        f"{name}.weight": (m.out_channels, m.in_channels, *m.kernel_size)
        for name, m in method.network.named_modules()
        if isinstance(m, nn.Conv2d)
    }
    assert {name: tuple(kernel.shape) for name, kernel in kernels.items()} == shapes
    assert len(kernels) == n_kernels


def test_eta_one_gives_every_layer_the_sketch_alone_and_zero_the_context_alone(make_dataset) -> None:
    """Equation 4 at its ends: with eta 1 the recurrent weights do not matter; with eta 0 they do."""
    images = make_dataset(0, (1, 16, 16)).images
    for eta, same in ((1.0, True), (0.0, False)):
        method = pudnet(eta=eta)
        before = method.hypernetwork(images)
        with torch.no_grad():
            for parameter in method.hypernetwork.context.parameters():
                parameter.mul_(-3)
        after = method.hypernetwork(images)
        assert all(torch.equal(before[name], after[name]) == same for name in before)


def test_one_network_in_float64_follows_the_documented_steps(make_dataset) -> None:
    """Equations 4 and 5 with two stacked layers, written out: the residual is the mean of the sketch's rows."""
    method = pudnet(gru_layers=2, eta=0.3)
    h = method.hypernetwork.double()
    sketch = torch.randn(2, SMALL["dim"]).double()
    hidden, a = sketch, h.first_context
    kernels = h.kernels(sketch)
    for name, generator in zip(kernels, h.generators, strict=True):
        hidden, a = h.context(hidden, a)
        mixed = 0.7 * a + 0.3 * (sketch[0] + sketch[1]) / 2
        centred = mixed - mixed.mean()
        normal = centred / (centred.square().mean() + 1e-5).sqrt()
        torch.testing.assert_close(kernels[name], generator(normal), rtol=1e-9, atol=1e-12)


# --- gradients ---


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("convnet3", {}),
        ("convnet3-colour", {"gru_layers": 2, "eta": 0.5}),
        ("resnet18", {"gru_layers": 2}),
        ("convnet3", {"kernel_norm": False, "learnable_temperature": True}),
    ],
)
def test_gradient_reaches_every_kernel_and_every_parameter(target: str, options: dict, make_dataset) -> None:
    # Two steps first: timm starts the last BatchNorm scale of every residual block at zero, which cuts off the block.
    method = trained_a_little(pudnet(target, **options), make_dataset, steps=2)
    method.modules.zero_grad()
    method.temperature.grad = None
    predicted, original = {}, method.hypernetwork.kernels

    def keep(sketch: Tensor) -> dict[str, Tensor]:
        predicted.update(original(sketch))
        for kernel in predicted.values():
            kernel.retain_grad()
        return predicted

    method.hypernetwork.kernels = keep  # type: ignore[method-assign]
    method.episode_losses(episode(make_dataset(0, method.target.image_shape, per_class=10))).total.backward()
    for name, kernel in predicted.items():
        assert kernel.grad is not None, name
        assert kernel.grad.norm() > 1e-6, name
    for name, parameter in method.modules.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert (method.temperature.grad is not None) == bool(options.get("learnable_temperature"))


def test_the_losses_are_those_of_features_and_centroids_computed_by_hand(make_dataset) -> None:
    method = pudnet()
    method.modules.eval()  # so that support and queries can be passed through the target one by one
    e = episode(make_dataset(0, (1, 16, 16)))
    kernels = method.hypernetwork(e.fit.images)

    def features(images: Tensor) -> Tensor:
        return torch.cat([method.features(kernels, image[None]) for image in images]).double()

    support, query = features(e.support.images), features(e.query.images)
    centroids = torch.stack([support[e.support.labels == c].mean(0) for c in range(2)])
    cosines = torch.stack([torch.cosine_similarity(query, u[None]) for u in centroids], 1)
    metric_p = torch.softmax(10 * cosines, 1)
    scaled = query / query.shape[1] ** 0.5  # as the head reads them
    full_p = torch.softmax(scaled @ method.head.weight.double().T + method.head.bias.double(), 1)
    ids = [[4, 1][label] for label in e.query.labels]
    parts = method.episode_losses(e)
    rows = torch.arange(len(ids))
    torch.testing.assert_close(
        parts.metric.double(), -metric_p[rows, e.query.labels].log().mean(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(parts.full.double(), -full_p[rows, ids].log().mean(), rtol=1e-4, atol=1e-5)


# --- what a prediction must not depend on ---


@pytest.mark.parametrize("bn_mode", ["running", "fit"])
@pytest.mark.parametrize("target", ["convnet3", "resnet18-colour"])
def test_an_images_logits_do_not_depend_on_the_images_it_is_tested_with(target, bn_mode, make_dataset) -> None:
    method = trained_a_little(pudnet(target, bn_mode=bn_mode), make_dataset)
    classify = fitted(method, make_dataset(0, method.target.image_shape))
    test = make_dataset(1, method.target.image_shape).images
    together = classify(test)
    alone = torch.cat([classify(image[None]) for image in test[:6]])
    torch.testing.assert_close(together[:6], alone, rtol=1e-4, atol=1e-4)
    among_outliers = classify(torch.cat((test[:6], 100 * torch.randn_like(test))))[:6]
    torch.testing.assert_close(among_outliers, alone, rtol=1e-4, atol=1e-4)
    assert together.shape == (len(test), 2)
    assert relative_difference(together[0], together[-1]) > 1e-3  # the images do differ


def test_the_order_of_images_after_the_support_does_not_matter(make_dataset) -> None:
    method = trained_a_little(pudnet(support_per_class=5), make_dataset)
    dataset, test = make_dataset(0, (1, 16, 16)), make_dataset(1, (1, 16, 16)).images
    order = torch.cat([c * 15 + torch.cat((torch.arange(5), 5 + torch.randperm(10))) for c in range(2)])
    shuffled = Dataset(dataset.images[order], dataset.labels[order], 2)
    logits = fitted(method, dataset)(test)
    torch.testing.assert_close(fitted(method, shuffled)(test), logits, rtol=1e-3, atol=1e-3)
    # Other images in the support do matter: the test above is not about constant logits.
    turned = torch.cat([c * 15 + torch.arange(15).flip(0) for c in range(2)])
    other = fitted(method, Dataset(dataset.images[turned], dataset.labels[turned], 2))(test)
    assert (other - logits).abs().max() > 1e-2


def test_fitting_another_dataset_does_not_change_what_the_first_one_gets(make_dataset) -> None:
    for bn_mode in ("running", "fit"):
        method = trained_a_little(pudnet(bn_mode=bn_mode), make_dataset)
        one, two, test = (make_dataset(seed, (1, 16, 16)) for seed in (0, 1, 2))
        first = fitted(method, one)(test.images)
        fitted(method, two)
        torch.testing.assert_close(fitted(method, one)(test.images), first, rtol=1e-5, atol=1e-5)


def test_fit_keeps_no_graph_and_moves_no_parameter(make_dataset) -> None:
    method = pudnet()
    before = {name: p.clone() for name, p in method.modules.named_parameters()}
    logits = fitted(method, make_dataset(0, (1, 16, 16)))(make_dataset(1, (1, 16, 16)).images)
    assert not logits.requires_grad
    assert all(torch.equal(before[name], p) for name, p in method.modules.named_parameters())


# --- options ---


@pytest.mark.parametrize("support", [1, 4, "all"])
def test_centroids_come_from_the_stated_number_of_images(support: int | str, make_dataset) -> None:
    method = trained_a_little(pudnet(support_per_class=support), make_dataset)
    dataset, test = make_dataset(0, (1, 16, 16)), make_dataset(1, (1, 16, 16)).images
    logits = fitted(method, dataset)(test)
    with torch.no_grad():
        kernels = method.hypernetwork(dataset.images)
        features = method.features(kernels, dataset.images)
        count = 15 if support == "all" else support
        centroids = torch.stack([features[c * 15 : c * 15 + count].mean(0) for c in range(2)])
        expected = 10 * torch.cosine_similarity(method.features(kernels, test)[:, None], centroids[None], dim=-1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_bn_mode_fit_normalises_by_the_groups_own_images(make_dataset) -> None:
    method = trained_a_little(pudnet(bn_mode="fit"), make_dataset)
    dataset = make_dataset(0, (1, 16, 16))
    shifted = Dataset(5 * dataset.images, dataset.labels, 2)
    method.modules.eval()
    with torch.no_grad():
        kernels = method.hypernetwork(shifted.images)
        statistics = method._statistics(kernels, shifted.images)
        maps = nn.functional.conv2d(shifted.images, kernels["0.weight"], padding=1)
        torch.testing.assert_close(statistics["1.running_mean"], maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(statistics["1.running_var"], maps.var((0, 2, 3)), rtol=1e-3, atol=1e-3)
        support = support_indices(shifted.labels, 2, 10)
        features = method.features(kernels | statistics, shifted.images)
        centroids = prototypes(features[support], shifted.labels[support], 2)
        torch.testing.assert_close(fitted(method, shifted)(shifted.images), cosine_logits(features, centroids, 10.0))


@pytest.mark.parametrize("bn_mode", ["running", "fit"])
def test_the_networks_own_statistics_are_untouched_by_fit(bn_mode: str, make_dataset) -> None:
    method = trained_a_little(pudnet(bn_mode=bn_mode), make_dataset)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fitted(method, make_dataset(0, (1, 16, 16)))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(m.momentum == 0.1 and not m.training for m in method.network.modules() if isinstance(m, nn.BatchNorm2d))


# --- state ---


@pytest.mark.parametrize("target", ["convnet3", "resnet18-colour"])
@pytest.mark.parametrize("options", [{}, {"gru_layers": 2, "learnable_temperature": True}])
def test_a_saved_state_gives_identical_logits(target: str, options: dict, make_dataset) -> None:
    method = trained_a_little(pudnet(target, **options), make_dataset)
    method.temperature.data.fill_(7.5)
    dataset, test = (make_dataset(seed, method.target.image_shape) for seed in (0, 1))
    logits = fitted(method, dataset)(test.images)
    saved = safetensors.torch.save({name: value.contiguous() for name, value in method.state_dict().items()})
    other = pudnet(target, seed=1, **options)
    assert not torch.equal(fitted(other, dataset)(test.images), logits)
    other.load_state_dict(safetensors.torch.load(saved))
    assert torch.equal(fitted(other, dataset)(test.images), logits)


def test_a_state_survives_further_training_of_the_method_it_was_cloned_from(make_dataset) -> None:
    method = trained_a_little(pudnet(), make_dataset)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    dataset, test = (make_dataset(seed, (1, 16, 16)) for seed in (0, 1))
    logits = fitted(method, dataset)(test.images)
    trained_a_little(method, make_dataset, steps=5)
    assert not torch.equal(fitted(method, dataset)(test.images), logits)
    method.load_state_dict(state)
    assert torch.equal(fitted(method, dataset)(test.images), logits)


@pytest.mark.parametrize("target", ["convnet3", "resnet18"])
def test_the_target_keeps_no_kernel_of_its_own(target: str) -> None:
    method = pudnet(target)
    kept = {name: value for name, value in method.state_dict().items() if name.startswith("network.")}
    assert kept, "BatchNorm's parameters and statistics belong to the state"
    assert {value.dim() for value in kept.values()} <= {0, 1}
    assert all(parameter.dim() == 1 for parameter in method.network.parameters())


def test_logit_k_belongs_to_class_k(make_dataset) -> None:
    """Images of the fit set are recognised far above chance, labels reversed far below."""
    method = trained_a_little(pudnet(), make_dataset)
    dataset = make_dataset(0, (1, 16, 16))
    right = (fitted(method, dataset)(dataset.images).argmax(1) == dataset.labels).float().mean()
    assert right > 0.8
    reversed_labels = Dataset(dataset.images, 1 - dataset.labels, 2)
    predicted = fitted(method, reversed_labels)(dataset.images).argmax(1)
    assert (predicted == dataset.labels).float().mean() < 0.2
