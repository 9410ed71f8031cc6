"""Feature methods fitted to all images: the base's own classifier, or ridge regression as scikit-learn has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV

from pudnet_bench.methods import registry
from pudnet_bench.methods.all_images import PENALTIES, AllImages, ridge
from pudnet_bench.methods.base import Budget, Dataset, Method, MethodError, Session, TargetSpec
from pudnet_bench.suites.catalog import EQUAL_LABELS
from pudnet_bench.suites.groups import FamilyImages, TrainingStream

TARGET = TargetSpec("convnet3", (1, 8, 8))


def learned(name: str, digits: FamilyImages, **options: Any) -> Method:
    torch.manual_seed(0)
    method = registry.find(name)(TARGET, 6, **options)
    method.meta_train(TrainingStream(digits, 0), Session(Budget(4, 4, 1)))
    return method


@pytest.mark.parametrize("variant", EQUAL_LABELS, ids=lambda variant: variant.name)
def test_every_row_of_equal_labels_is_its_base_with_all_images(variant: Any, digits: FamilyImages) -> None:
    options = dict(variant.options)
    base = learned(options["base"], digits)
    method = AllImages(TARGET, 6, **options)
    assert AllImages.starts_from(options) == (options["base"], {})
    method.start_from(base)
    fit, test = digits.group("unseen", 0, 0).fit, digits.group("unseen", 0, 0).test
    (snapshot,) = method.fit(fit)
    found = snapshot.classifier(test.images)
    assert found.shape == (len(test), 2)
    if options["head"] == "own":
        direct = learned(options["base"], digits, support_per_class=len(fit))
        direct.load_state_dict(base.state_dict())
        (snapshot,) = direct.fit(fit)
        assert torch.equal(found, snapshot.classifier(test.images))
    reordered = torch.randperm(len(fit))  # every image counts, wherever it stands
    (snapshot,) = method.fit(Dataset(fit.images[reordered], fit.labels[reordered], 2))
    torch.testing.assert_close(found, snapshot.classifier(test.images), rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 60), st.integers(2, 90), st.integers(2, 5))
def test_ridge_is_scikit_learns(seed: int, n: int, d: int, classes: int) -> None:
    """The same penalty by leave-one-out, and the same predictions, with more features than images or fewer."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
    x = generator.normal(size=(n, d)) + generator.normal(size=(classes, d))[labels] / 2
    query = generator.normal(size=(7, d))
    scale = np.square(x - x.mean(0)).sum(1).mean()
    reference = RidgeCV(alphas=PENALTIES.numpy() * scale).fit(x, np.eye(classes)[labels])
    logits = ridge(torch.from_numpy(x), torch.from_numpy(labels), classes)(torch.from_numpy(query))
    np.testing.assert_allclose(logits.numpy(), reference.predict(query), rtol=1e-4, atol=1e-4)


def test_equal_features_give_the_shares_of_the_classes() -> None:
    logits = ridge(torch.ones(6, 3), torch.tensor([0, 0, 0, 0, 1, 1]), 2)(torch.ones(1, 3))
    torch.testing.assert_close(logits, torch.tensor([[4 / 6, 2 / 6]]))


def test_a_base_that_does_not_fit_is_refused(digits: FamilyImages) -> None:
    with pytest.raises(MethodError, match="support_per_class, and adam has none"):
        AllImages(TARGET, 6, base="adam").start_from(registry.find("adam")(TARGET, 6))
    with pytest.raises(MethodError, match="unlike musml"):
        AllImages(TARGET, 6, base="musml", head="ridge").start_from(registry.find("musml")(TARGET, 6))
    with pytest.raises(MethodError, match="'svm'"):
        AllImages(TARGET, 6, head="svm")
    with pytest.raises(MethodError, match="start_from"):
        next(AllImages(TARGET, 6).fit(digits.group("unseen", 0, 0).fit))
