"""learn2learn's episodes and the project's own: the same distribution of classes, shots and images, drawn two ways."""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from pudnet_bench.methods.base import Budget, MethodError, Session, TargetSpec
from pudnet_bench.methods.protonet import ProtoNet
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages, TrainingStream
from pudnet_bench.suites.learn2learn_episodes import Learn2LearnStream, training_stream
from pudnet_bench.suites.sources.loading import load

EPISODES = 300


@pytest.fixture(scope="module")
def digits(cache_dir: Path) -> FamilyImages:
    return FamilyImages(FAMILIES["digits"], load("digits", data_dir=None, cache_dir=cache_dir), torch.device("cpu"))


def drawn_positions(stream: TrainingStream, monkeypatch: pytest.MonkeyPatch, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes int64 [n, ways] and fit positions int64 [n, ways, images] of the first `n` episodes."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    real = stream.episode

    def noted(index: int, classes: np.ndarray, fit: np.ndarray):
        seen.append((classes, fit))
        return real(index, classes, fit)

    monkeypatch.setattr(stream, "episode", noted)
    list(islice(stream.episodes(), n))
    return np.stack([classes for classes, _ in seen]), np.stack([fit for _, fit in seen])


@pytest.mark.parametrize("validation", [0, 5])
@pytest.mark.parametrize("kind", ["own", "learn2learn"])
def test_classes_shots_and_images_are_uniform(
    kind: str, validation: int, digits: FamilyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = training_stream(kind, digits, 3, validation)
    classes, fit = drawn_positions(stream, monkeypatch, EPISODES)
    assert fit.shape == (EPISODES, 2, 50)
    assert all(len(set(row)) == 2 for row in classes.tolist())
    assert all(len(np.unique(positions)) == 100 for positions in fit)
    places = np.bincount(classes.reshape(-1), minlength=len(stream.classes))
    assert len(places) == len(stream.classes)
    assert stats.chisquare(places).pvalue > 1e-4
    counts = np.bincount(fit.reshape(-1), minlength=len(digits.images))
    for place, source_class in enumerate(stream.classes):
        first, size = digits.ranges.starts[source_class], digits.ranges.sizes[source_class]
        # A draw without replacement varies less than Poisson: chi-square can only err to the safe side.
        assert stats.chisquare(counts[first : first + size]).pvalue > 1e-4
        assert counts[first : first + size].sum() == 50 * places[place]
    first_half, second_half = fit[:, :, :25].mean(), fit[:, :, 25:].mean()  # no order within a class
    assert abs(first_half - second_half) < 0.1 * fit.std()


def test_labels_support_and_queries_belong_together(digits: FamilyImages) -> None:
    stream = Learn2LearnStream(digits, 0)
    for episode in islice(stream.episodes(), 5):
        rows = episode.fit.images.flatten(1).tolist()
        assert len(episode.support) + len(episode.query) <= len(episode.fit)
        for part in (episode.support, episode.query):
            for image, label in zip(part.images.flatten(1).tolist(), part.labels.tolist(), strict=True):
                assert label in {int(episode.fit.labels[i]) for i, row in enumerate(rows) if row == image}
        assert episode.global_labels.tolist() == [int(episode.classes[y]) for y in episode.query.labels]


def test_an_episode_is_a_function_of_its_index_and_leaves_pythons_generator_alone(digits: FamilyImages) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = [e.fit.images.sum().item() for e in islice(Learn2LearnStream(digits, 1).episodes(), 4)]
    assert random.random() == expected
    random.seed(99)
    assert [e.fit.images.sum().item() for e in islice(Learn2LearnStream(digits, 1).episodes(), 4)] == first
    assert [e.fit.images.sum().item() for e in islice(Learn2LearnStream(digits, 2).episodes(), 4)] != first


def test_a_method_trains_on_them_and_the_same_twice(digits: FamilyImages) -> None:
    def trained(groups: int) -> torch.Tensor:
        torch.manual_seed(0)
        method = ProtoNet(TargetSpec("convnet3", digits.image_shape), 6)
        if groups:
            method.meta_train(Learn2LearnStream(digits, 0), Session(Budget(groups, groups, 1)))
        return method.state_dict()["network.0.weight"].detach().clone()

    assert torch.equal(trained(5), trained(5))
    assert not torch.equal(trained(5), trained(0))


def test_without_learn2learn_the_error_names_the_extra(digits: FamilyImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "learn2learn.data", None)
    with pytest.raises(MethodError, match=r"install the extra pudnet-bench\[learn2learn\], or use --episodes own"):
        next(Learn2LearnStream(digits, 0).episodes())
