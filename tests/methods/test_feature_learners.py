"""MatchNet and Meta-Baseline: their computations against loops in float64, and what every feature learner must keep."""

from __future__ import annotations

import math
import sys

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pudnet_bench.methods.base import Budget, Session, TargetSpec
from pudnet_bench.methods.feature_learner import FeatureLearner, prototype_classifier_name, prototypical_classifier
from pudnet_bench.methods.matchnet import FullContext, MatchNet, attention_log_probs
from pudnet_bench.methods.meta_baseline import MetaBaseline
from pudnet_bench.methods.metric import cosine_logits, prototypes
from pudnet_bench.methods.pretrained import Pretrained
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.suites.groups import TrainingStream

LEARNERS = [MatchNet, MetaBaseline, Pretrained, ProtoNet]


def reference_attention(
    query: Tensor, support: Tensor, labels: Tensor, n_classes: int, scale: float
) -> list[list[float]]:
    rows = []
    for q in query.tolist():
        weights = []
        for s in support.tolist():
            dot = sum(a * b for a, b in zip(q, s, strict=True))
            length = math.sqrt(sum(a * a for a in q)) * math.sqrt(sum(b * b for b in s))
            weights.append(math.exp(scale * dot / length))
        total = sum(weights)
        sums = [sum(w for w, y in zip(weights, labels.tolist(), strict=True) if y == k) for k in range(n_classes)]
        rows.append([math.log(value / total) for value in sums])
    return rows


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_attention_is_summed_per_class(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, support = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (4, 9))
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2, 0])
    found = attention_log_probs(query, support, labels, 3, scale)
    torch.testing.assert_close(
        found, torch.tensor(reference_attention(query, support, labels, 3, scale), dtype=torch.float64)
    )
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(4, dtype=torch.float64))


def test_attention_stays_finite_where_one_class_has_all_of_it() -> None:
    query = torch.tensor([[1.0, 0.0]])
    support = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = attention_log_probs(query, support, torch.tensor([0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([[0.0, -200.0]]))


def test_attention_has_the_gradient_it_should() -> None:
    generator = torch.Generator().manual_seed(1)
    query, support = (torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (2, 4))
    labels = torch.tensor([0, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda q, s: attention_log_probs(q, s, labels, 2, 5.0), (query, support))


def test_attention_does_not_care_about_the_order_of_the_support() -> None:
    generator = torch.Generator().manual_seed(2)
    query, support = (torch.randn(n, 6, generator=generator) for n in (3, 8))
    labels, order = torch.arange(8) % 2, torch.randperm(8, generator=generator)
    torch.testing.assert_close(
        attention_log_probs(query, support, labels, 2), attention_log_probs(query, support[order], labels[order], 2)
    )


def test_full_context_embeds_each_query_by_itself_and_follows_the_appendix() -> None:
    torch.manual_seed(0)
    context = FullContext(4, reads=3).double()
    features, queries = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    support = context.support(features)
    together = context.query(queries, support)
    torch.testing.assert_close(torch.cat([context.query(q[None], support) for q in queries]), together)
    hidden, read, cell = torch.zeros(1, 4).double(), torch.zeros(1, 4).double(), torch.zeros(1, 8).double()
    for _ in range(3):  # equations 3 to 6 for the first query
        state, cell = context.query_lstm(queries[:1], (torch.cat((hidden, read), -1), cell))
        hidden = state[:, :4] + queries[:1]
        weights = [math.exp(float((hidden[0] @ s).detach())) for s in support]
        read = sum(w * s for w, s in zip(weights, support, strict=True))[None] / sum(weights)
    torch.testing.assert_close(together[:1], hidden)


def test_meta_baseline_is_temperature_times_cosine_to_the_means_of_raw_features() -> None:
    method = MetaBaseline(TargetSpec("convnet3", (1, 8, 8)), 6)
    generator = torch.Generator().manual_seed(3)
    features, query = (torch.randn(n, 7, generator=generator) for n in (6, 4))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = cosine_logits(query, prototypes(features, labels, 3), 10.0)
    torch.testing.assert_close(method.classifier(features, labels, 3)(query), expected)
    nearest = prototypical_classifier("cosine")
    nearest.fit_(features, labels)
    torch.testing.assert_close(10.0 * nearest(query), expected)


@pytest.mark.parametrize("learner", [ProtoNet, MetaBaseline])
def test_without_learn2learn_the_logits_are_equal_to_rounding(
    learner: type[FeatureLearner], make_dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier alone in float64, to 1e-7 (learn2learn adds 1e-8 to norms); a fit, and its gradient, in float32."""
    torch.manual_seed(0)
    method = learner(TargetSpec("convnet3", (1, 8, 8)), 6)
    generator = torch.Generator().manual_seed(3)
    features, query = (torch.randn(n, 7, dtype=torch.float64, generator=generator, requires_grad=True) for n in (6, 4))
    labels, dataset, test = torch.tensor([0, 0, 1, 1, 2, 2]), make_dataset(0, (1, 8, 8)), make_dataset(1, (1, 8, 8))

    def outcome() -> tuple[torch.Tensor, ...]:
        logits = method.classifier(features, labels, 3)(query)
        (snapshot,) = method.fit(dataset)
        return (
            logits,
            *torch.autograd.grad(logits.square().sum(), (features, query)),
            snapshot.classifier(test.images),
        )

    assert prototype_classifier_name() == "learn2learn"
    with_it = outcome()
    prototype_classifier_name.cache_clear()
    monkeypatch.setitem(sys.modules, "learn2learn", None)  # as where it is not installed
    without = outcome()
    assert prototype_classifier_name() == "methods.metric"
    prototype_classifier_name.cache_clear()
    for ours, theirs in zip(without[:-1], with_it[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(without[-1], with_it[-1], rtol=1e-5, atol=1e-4)


def test_meta_baseline_starts_from_the_pretrained_network_and_learns_its_temperature(digits) -> None:
    torch.manual_seed(0)
    pretrained = Pretrained(TargetSpec("convnet3", (1, 8, 8)), 6)
    method = MetaBaseline(TargetSpec("convnet3", (1, 8, 8)), 6)
    method.start_from(pretrained)
    for name, value in pretrained.modules["network"].state_dict().items():
        assert torch.equal(value, method.modules["network"].state_dict()[name])
    method.meta_train(TrainingStream(digits, 0), Session(Budget(5, 5, 1)))
    assert float(method.temperature) != 10.0
    assert "temperature.0" in method.state_dict()


@pytest.mark.parametrize("target", ["convnet3", "resnet18", "resnet34"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_saved_state_gives_the_same_logits_and_test_images_stand_alone(
    learner: type[FeatureLearner], target: str, make_dataset
) -> None:
    shape = (3, 16, 16)
    torch.manual_seed(0)
    method, other = (learner(TargetSpec(target, shape), 6) for _ in range(2))
    dataset, test = make_dataset(0, shape), make_dataset(1, shape)
    (snapshot,) = method.fit(dataset)
    logits = snapshot.classifier(test.images)
    alone = torch.cat([snapshot.classifier(image[None]) for image in test.images[:3]])
    torch.testing.assert_close(alone, logits[:3], rtol=1e-3, atol=1e-3)
    saved = safetensors.torch.save({name: value.contiguous() for name, value in method.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(saved))
    (again,) = other.fit(dataset)
    assert torch.equal(again.classifier(test.images), logits)


def test_matchnet_with_full_context_trains_and_keeps_its_state(digits) -> None:
    torch.manual_seed(0)
    method = MatchNet(TargetSpec("convnet3", (1, 8, 8)), 6, full_context=True)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.meta_train(TrainingStream(digits, 0), Session(Budget(3, 3, 1)))
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {"context.support_lstm.weight_ih_l0", "context.query_lstm.weight_hh"} <= moved
    assert isinstance(method.context, nn.Module)
