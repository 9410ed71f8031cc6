"""Metric classification against plain loops in float64, and against learn2learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pudnet_bench.methods.feature_learner import prototypical_classifier
from pudnet_bench.methods.metric import cosine_logits, euclidean_logits, prototypes, support_indices


@st.composite
def features_and_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Float64 features [n, d] of at least one image per class, in any order."""
    n_classes, d = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    labels = draw(st.permutations([*range(n_classes), *draw(st.lists(st.integers(0, n_classes - 1), max_size=12))]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    features = torch.randn(len(labels), d, dtype=torch.float64, generator=generator)
    return features, torch.tensor(labels), n_classes


def loop_prototypes(features: Tensor, labels: Tensor, n_classes: int) -> list[list[float]]:
    means = []
    for c in range(n_classes):
        rows = [row for row, label in zip(features.tolist(), labels.tolist(), strict=True) if label == c]
        means.append([math.fsum(column) / len(rows) for column in zip(*rows, strict=True)])
    return means


def random_pair(seed: int = 0, n: int = 7, k: int = 3, d: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, dtype=torch.float64, generator=generator),
        torch.randn(k, d, dtype=torch.float64, generator=generator),
    )


@given(features_and_labels())
@settings(deadline=None)
def test_prototypes_are_class_means(case: tuple[Tensor, Tensor, int]) -> None:
    features, labels, n_classes = case
    expected = torch.tensor(loop_prototypes(features, labels, n_classes), dtype=torch.float64)
    torch.testing.assert_close(prototypes(features, labels, n_classes), expected, rtol=1e-12, atol=1e-14)


@given(features_and_labels(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_prototypes_ignore_the_order_of_images_and_follow_the_order_of_classes(case, random) -> None:
    features, labels, n_classes = case
    images = random.sample(range(len(labels)), len(labels))
    renamed = torch.tensor(random.sample(range(n_classes), n_classes))  # class c is now called renamed[c]
    expected = prototypes(features, labels, n_classes)
    torch.testing.assert_close(prototypes(features[images], labels[images], n_classes), expected)
    torch.testing.assert_close(prototypes(features, renamed[labels], n_classes)[renamed], expected)


@pytest.mark.parametrize("temperature", [10.0, torch.tensor(0.5, dtype=torch.float64)])
def test_cosine_logits_against_a_loop(temperature: float | Tensor) -> None:
    query, centres = random_pair()
    logits = cosine_logits(query, centres, temperature)
    for i, x in enumerate(query.tolist()):
        for j, u in enumerate(centres.tolist()):
            cosine = sum(a * b for a, b in zip(x, u, strict=True)) / (math.hypot(*x) * math.hypot(*u))
            assert float(logits[i, j]) == pytest.approx(float(temperature) * cosine, rel=1e-12)
    assert logits.shape == (7, 3)


def test_cosine_logits_ignore_the_length_of_either_side() -> None:
    query, centres = random_pair()
    torch.testing.assert_close(
        cosine_logits(3 * query, centres / 7, 10.0), cosine_logits(query, centres, 10.0), rtol=1e-12, atol=1e-13
    )


def test_cosine_logits_of_a_zero_feature_are_zero_and_not_nan() -> None:
    _, centres = random_pair()
    assert torch.equal(cosine_logits(torch.zeros(2, 5, dtype=torch.float64), centres, 10.0), torch.zeros(2, 3).double())


def test_euclidean_logits_against_a_loop() -> None:
    query, centres = random_pair()
    logits = euclidean_logits(query, centres)
    for i, x in enumerate(query.tolist()):
        for j, u in enumerate(centres.tolist()):
            assert float(logits[i, j]) == pytest.approx(-(math.dist(x, u) ** 2), rel=1e-11)
    assert logits.shape == (7, 3)


@pytest.mark.parametrize("logits", [lambda q, c: cosine_logits(q, c, 10.0), euclidean_logits])
def test_logits_follow_permutations_of_images_and_classes(logits) -> None:
    query, centres = random_pair()
    rows, columns = torch.tensor([3, 0, 6, 1, 5, 2, 4]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        logits(query[rows], centres[columns]), logits(query, centres)[rows][:, columns], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_logits_are_those_of_learn2learns_prototypical_classifier(distance: str) -> None:
    generator = torch.Generator().manual_seed(1)
    support, labels = torch.randn(20, 6, dtype=torch.float64, generator=generator), torch.arange(20) % 4
    query = torch.randn(9, 6, dtype=torch.float64, generator=generator)
    theirs = prototypical_classifier(distance)
    theirs.fit_(support, labels)
    centres = prototypes(support, labels, 4)
    ours = euclidean_logits(query, centres) if distance == "euclidean" else cosine_logits(query, centres, 1.0)
    torch.testing.assert_close(ours, theirs(query), rtol=1e-7, atol=1e-8)  # they add 1e-8 to norms


def test_gradients_are_the_numerical_ones() -> None:
    query, support = (t.requires_grad_() for t in random_pair(k=6))
    labels, temperature = torch.tensor([0, 1, 0, 2, 1, 2]), torch.tensor(10.0, dtype=torch.float64, requires_grad=True)

    def cosine(q: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return cosine_logits(q, prototypes(s, labels, 3), t)

    def euclidean(q: Tensor, s: Tensor) -> Tensor:
        return euclidean_logits(q, prototypes(s, labels, 3))

    assert torch.autograd.gradcheck(cosine, (query, support, temperature))
    assert torch.autograd.gradcheck(euclidean, (query, support))


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 8))
@settings(deadline=None)
def test_support_is_the_first_images_of_each_class(labels: list[int], per_class: int) -> None:
    expected = [i for c in range(5) for i in [i for i, label in enumerate(labels) if label == c][:per_class]]
    assert support_indices(torch.tensor(labels, dtype=torch.int64), 5, per_class).tolist() == expected
