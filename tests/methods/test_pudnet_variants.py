"""PudNet's ablations and alternatives (sections 4.4 and A.3): each does what its name says, and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pudnet_bench.methods import targets
from pudnet_bench.methods.base import Budget, MethodError, Session, TargetSpec
from pudnet_bench.methods.pudnet.losses import Losses
from pudnet_bench.methods.pudnet.method import LOSS_TERMS, PudNet
from pudnet_bench.methods.pudnet.sketch import EMBEDDINGS, DatasetSketch, SketchNorm
from pudnet_bench.suites.groups import TrainingStream

SHAPE = (1, 8, 8)
VARIANTS: list[dict[str, Any]] = [
    {"use_context": False},
    {"initial_hidden": "random"},
    {"eta": 0.0},
    {"eta": 0.9},
    *({"loss_terms": terms} for terms in LOSS_TERMS),
    *({"embedding": embedding} for embedding in EMBEDDINGS),
    *({"gru_layers": layers} for layers in (1, 2, 4, 6, 8)),
    *({"extractor": f"{n}conv"} for n in (2, 3, 4)),
    *({"extractor": f"{n}conv-1linear"} for n in (1, 2, 3)),
    {"extractor": "2conv", "embedding": "mean+variance"},
    {"learnable_temperature": True},
    {"steps_per_group": 2},
    {"kernel_norm": False},
    {"embedding": "class-variance"},
    {"sketch_norm": True},
    {"predict_norms": True},
    {"sketch_norm": True, "predict_norms": True, "gru_layers": 2, "bn_mode": "fit"},
]


def pudnet(**options: Any) -> PudNet:
    torch.manual_seed(0)
    return PudNet(TargetSpec("convnet3", SHAPE), 6, **options)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_trains_keeps_its_state_and_predicts(options: dict[str, Any], digits) -> None:
    method = pudnet(**options)
    before = {name: value.clone() for name, value in method.hypernetwork.generators.state_dict().items()}
    method.meta_train(TrainingStream(digits, 0), Session(Budget(3, 3, 1)))
    after = method.hypernetwork.generators.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    again = pudnet(**options)
    again.load_state_dict(method.state_dict())
    group = digits.group("unseen", 0, 0)
    logits = []
    for one in (method, again):
        torch.manual_seed(1)
        (snapshot,) = one.fit(group.fit)
        logits.append(snapshot.classifier(group.test.images))
    assert torch.equal(*logits)
    assert logits[0].isfinite().all()


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_embeddings_are_what_table_9_names(embedding: str, make_dataset) -> None:
    torch.manual_seed(0)
    sketch = DatasetSketch(SHAPE, "2conv-1linear", 2, 5, embedding).double().eval()
    images = make_dataset(0, SHAPE).images.double()
    rows = torch.stack([sketch.extractor(image[None])[0] for image in images])
    vectors = {
        "mean": rows.mean(0),
        "sum": sum(rows),
        "geometric-mean": (rows.abs() + 1e-6).prod(0) ** (1 / len(rows)),
        "mean+variance": torch.cat((rows.mean(0), rows.var(0, correction=0))),
    }
    expected = sketch.project(vectors[embedding]).view(2, 5)
    # The sum over images is kept in float32.
    sketch.project = sketch.project.float()
    torch.testing.assert_close(sketch(images), expected.float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sketch.stream(images, chunk=7), sketch(images), rtol=1e-4, atol=1e-5)


def test_class_variance_is_the_mean_and_the_variance_of_class_means(make_dataset) -> None:
    torch.manual_seed(0)
    sketch = DatasetSketch(SHAPE, "2conv-1linear", 2, 5, "class-variance").eval()
    dataset = make_dataset(0, SHAPE, ways=3)
    rows = sketch.extractor(dataset.images)
    means = torch.stack([rows[dataset.labels == c].mean(0) for c in range(3)])
    expected = sketch.project(torch.cat((means.mean(0), means.var(0, correction=0)))).view(2, 5)
    torch.testing.assert_close(sketch(dataset.images, dataset.labels), expected, rtol=1e-3, atol=1e-4)
    streamed = sketch.stream(dataset.images, dataset.labels, chunk=7)
    torch.testing.assert_close(streamed, expected, rtol=1e-3, atol=1e-4)
    renamed = sketch(dataset.images, 2 - dataset.labels)  # which class has which number plays no part
    torch.testing.assert_close(renamed, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="needs the labels"):
        sketch(dataset.images)


def test_normed_sketches_of_the_datasets_trained_on_are_centred_and_scaled() -> None:
    torch.manual_seed(0)
    norm = SketchNorm((2, 4))
    deviations = torch.tensor([0.1, 1.0, 10.0, 100.0])
    sketches = 7 + torch.randn(3000, 2, 4) * deviations
    for sketch in sketches:
        norm(sketch)
    norm.eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    normed = torch.stack([norm(sketch) for sketch in sketches])
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    assert normed.mean(0).abs().max() < 0.5  # running statistics are of the last fifty
    assert ((normed.std(0) > 0.6) & (normed.std(0) < 1.6)).all()
    assert torch.isfinite(SketchNorm((1, 2))(torch.ones(1, 2))).all()  # the first of all has no deviation yet


def test_predicted_norms_begin_as_those_of_batchnorm_and_then_depend_on_the_dataset(digits) -> None:
    method = pudnet(predict_norms=True)
    names = {name for name, module in method.network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    one, two = (digits.group("training", 0, index).fit for index in range(2))
    kernels = method.predicted(one)
    assert {name.rpartition(".")[0] for name in kernels if name.endswith("bias")} == names
    for name in names:
        assert torch.equal(kernels[f"{name}.weight"], torch.ones(64))
        assert torch.equal(kernels[f"{name}.bias"], torch.zeros(64))
    method.meta_train(TrainingStream(digits, 0), Session(Budget(5, 5, 1)))
    first, second = method.predicted(one), method.predicted(two)
    assert all(not torch.equal(first[f"{name}.weight"], second[f"{name}.weight"]) for name in names)
    network = method.fitted_network(one)
    assert all(torch.equal(network.state_dict()[f"{name}.bias"], first[f"{name}.bias"]) for name in names)


@pytest.mark.parametrize("target", ["convnet3", "resnet18"])
def test_every_convolution_has_the_norm_that_follows_it(target: str) -> None:
    network = targets.build(TargetSpec(target, (3, 32, 32)))
    found = targets.norms(network)
    assert list(found) == [name for name, _ in targets.convolutions(network)]
    for (_, convolution), (_, norm) in zip(targets.convolutions(network), found.values(), strict=True):
        assert norm.num_features == convolution.out_channels


def test_without_context_all_layers_get_the_sketch_and_the_gru_does_nothing(make_dataset) -> None:
    method = pudnet(use_context=False, gru_layers=2)
    seen: list[torch.Tensor] = []
    for generator in method.hypernetwork.generators:
        generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = make_dataset(0, SHAPE).images
    kernels = method.hypernetwork(images)
    assert len(seen) == 3
    expected = method.hypernetwork.norm(method.hypernetwork.sketch(images).mean(0))
    for context in seen:
        torch.testing.assert_close(context, expected)
    sum(kernel.sum() for kernel in kernels.values()).backward()
    assert all(parameter.grad is None for parameter in method.hypernetwork.context.parameters())


def test_a_random_hidden_state_knows_nothing_of_the_dataset(make_dataset) -> None:
    """With no residual either, two datasets get the same kernels from the same draw, and two draws give two sets."""
    method = pudnet(initial_hidden="random", eta=0.0)

    def first_kernel(dataset_seed: int, draw: int) -> torch.Tensor:
        images = make_dataset(dataset_seed, SHAPE).images
        torch.manual_seed(draw)
        return method.hypernetwork(images)["0.weight"]

    torch.testing.assert_close(first_kernel(0, 0), first_kernel(1, 0))
    assert not torch.allclose(first_kernel(0, 0), first_kernel(0, 1))


def test_loss_terms_add_up_what_they_name() -> None:
    parts = Losses(*(torch.tensor(value) for value in (1.0, 10.0, 100.0)))
    assert {name: float(terms(parts)) for name, terms in LOSS_TERMS.items()} == {"all": 111, "no-kl": 11, "metric": 1}


def test_with_the_metric_loss_alone_the_full_head_stays_as_it_was(digits) -> None:
    method = pudnet(loss_terms="metric")
    before = method.head.weight.detach().clone()
    method.meta_train(TrainingStream(digits, 0), Session(Budget(3, 3, 1)))
    assert torch.equal(method.head.weight, before)


@pytest.mark.parametrize(
    ("extractor", "blocks", "linear"), [("2conv", 2, False), ("4conv", 4, False), ("3conv-1linear", 3, True)]
)
def test_extractors_are_what_table_12_names(extractor: str, blocks: int, linear: bool) -> None:
    sketch = DatasetSketch((3, 32, 32), extractor, 2, 128)
    assert sum(isinstance(module, nn.Conv2d) for module in sketch.modules()) == blocks
    assert isinstance(sketch.project, nn.Linear) == linear
    assert sketch(torch.randn(3, 3, 32, 32)).shape == (2, 128)


@pytest.mark.parametrize(
    "options",
    [{"extractor": "conv"}, {"extractor": "0conv"}, {"embedding": "median"}, {"initial_hidden": "zero"}, {"loss_terms": "kl"},
     {"extractor": "2conv", "dim": 100, "embedding": "mean+variance"}],
    ids=str,
)  # fmt: skip
def test_what_is_not_an_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"pudnet's|divide"):
        pudnet(**options)
