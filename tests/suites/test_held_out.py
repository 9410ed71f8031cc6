"""Held-out families: training classes of the whole family only, and never one of its unseen classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.families import FAMILIES, family, measured_for, sources_of
from pudnet_bench.suites.family import FamilyError
from pudnet_bench.suites.groups import ClassSplit, TrainingStream
from pudnet_bench.suites.held_out_family import HeldOutFamily, held_out
from pudnet_bench.suites.held_out_images import HeldOutImages, split_images, split_of
from pudnet_bench.suites.sources.loading import Source, load

HAVE_ONE = ("fashion", "cifar100", "imagenet", "digits", "cifar100-c20")


@pytest.fixture(scope="module")
def source(cache_dir: Path) -> Source:
    return load("digits", data_dir=None, cache_dir=cache_dir)


@given(name=st.sampled_from(HAVE_ONE), seed=st.integers(0, 1000), fold=st.integers(0, 2))
def test_no_unseen_class_of_the_whole_family_is_looked_at(name: str, seed: int, fold: int) -> None:
    found = family(f"{name}.held-out")
    assert isinstance(found, HeldOutFamily)
    whole, inner = ClassSplit.of(FAMILIES[name], seed), split_of(found, seed, fold % found.validation_folds)
    assert inner.unseen == whole.validation
    assert set(inner.training) == set(whole.search)
    assert len(inner.training) == found.training_classes
    assert len(inner.validation) == found.validation_classes
    assert set(inner.search).isdisjoint(inner.validation)
    assert set(whole.unseen).isdisjoint({*inner.training, *inner.unseen})
    assert found.classes == FAMILIES[name].classes


def test_its_images_are_drawn_and_normalised_by_that_split(source: Source) -> None:
    found = held_out(FAMILIES["digits"])
    images = split_images(found, source, torch.device("cpu"))
    assert isinstance(images, HeldOutImages)
    for split in (images, images.of_split(3, source)):
        seed = split.split_seed
        whole = SplitImages(FAMILIES["digits"], source, torch.device("cpu")).of_split(seed, source)
        for index in range(6):
            assert set(split.unseen(0, index).classes) <= set(whole.split.validation)
        stream = TrainingStream(split, 0)
        assert set(stream.classes) == set(whole.split.search)
        chosen = source.images[np.isin(source.labels, stream.classes)]
        torch.testing.assert_close(float(split.mean), float(chosen.mean()), rtol=1e-3, atol=1e-3)
        assert set(split.fold(0).split.validation) <= set(whole.split.search)


def test_families_are_named_by_their_whole() -> None:
    assert [part.name for part in measured_for("mixed.held-out")] == [
        f"{name}.held-out.mixed.held-out" for name in ("fashion", "cifar100", "imagenet")
    ]
    assert sources_of("cifar100.held-out") == {"cifar-100"}
    assert sources_of("mixed.held-out") == {"fashion-mnist", "cifar-100", "mini-imagenet"}
    assert family("mixed.held-out").training_classes == 4 + 64 + 64
    for name in ("cifar10", "cifar100-3000"):
        with pytest.raises(FamilyError, match=f"family '{name}' has too few training classes"):
            family(f"{name}.held-out")
