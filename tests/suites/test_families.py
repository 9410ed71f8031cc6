"""Families: the paper's numbers, and families made from a user's image folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.methods import registry
from pudnet_bench.methods.pudnet.method import PudNet
from pudnet_bench.methods.targets import TARGETS
from pudnet_bench.suites.declaration import SuiteError
from pudnet_bench.suites.families import FAMILIES, family, family_of_folder
from pudnet_bench.suites.family import FamilyError
from pudnet_bench.suites.sources.catalog import SOURCES


@pytest.mark.parametrize(
    ("name", "source", "training", "unseen", "images", "ways", "meta_groups"),
    [
        ("fashion", "fashion-mnist", 6, 4, 600, 2, 2_000),
        ("cifar100", "cifar-100", 80, 20, 500, 5, 100_000),
        ("imagenet", "mini-imagenet", 80, 20, 500, 5, 50_000),
    ],
)
def test_the_papers_families(name, source, training, unseen, images, ways, meta_groups) -> None:
    """Section 4.1."""
    found = family(name)
    assert (found.source, found.training_classes, found.unseen_classes) == (source, training, unseen)
    assert (found.images, found.ways, found.images_per_class) == (images, ways, images // ways)
    assert found.meta_groups == meta_groups


PUDNET_SETTINGS = {  # (eta, GRU layers) for convnet3, resnet18, resnet34. Section 4.3; Table 11; 0.2 and 1 elsewhere
    "fashion": ((0.2, 1), (0.2, 2), (0.2, 2)),
    "cifar100": ((0.1, 1), (0.5, 2), (0.5, 2)),
    "imagenet": ((0.3, 1), (0.5, 4), (0.5, 4)),
    "digits": ((0.2, 1), (0.2, 2), (0.2, 2)),
    "cifar100-20": ((0.1, 1), (0.5, 2), (0.5, 2)),
    "digits-4": ((0.2, 1), (0.2, 2), (0.2, 2)),
    "animals10": ((0.1, 1), (0.5, 2), (0.5, 2)),
    "cifar10": ((0.1, 1), (0.5, 2), (0.5, 2)),
    "animals10-84": ((0.3, 1), (0.5, 4), (0.5, 4)),
    "cifar10-84": ((0.3, 1), (0.5, 4), (0.5, 4)),
    "digits-halves": ((0.2, 1), (0.2, 2), (0.2, 2)),
    "cifar100-c20": ((0.1, 1), (0.5, 2), (0.5, 2)),
    "digits-c4": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "fashion-3000": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "cifar100-3000": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "imagenet-3000": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "digits-400": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "mine": ((0.2, 1), (0.2, 1), (0.2, 1)),
    "mixed": ((0.2, 1), (0.2, 1), (0.2, 1)),
}


def test_the_papers_settings_of_every_method_on_every_family() -> None:
    found = [*FAMILIES.values(), family_of_folder("mine", sizes(10))]
    assert {one.name for one in found} == set(PUDNET_SETTINGS)
    for one in found:
        for target, (eta, layers) in zip(TARGETS, PUDNET_SETTINGS[one.name], strict=True):
            for name in registry.entries():
                options = registry.find(name).paper_options(one.trained_on or one.name, target)
                like_pudnet = name in ("pudnet", "pudnet-control", "pudnet-constant")
                assert options == ({"eta": eta, "gru_layers": layers} if like_pudnet else {})


def test_a_method_derived_from_pudnet_starts_from_its_own_defaults() -> None:
    class Mine(PudNet):
        name = "mine"

    assert Mine.paper_options("cifar100", "resnet18") == {}


@pytest.mark.parametrize("found", FAMILIES.values(), ids=lambda f: f.name)
def test_every_family_fits_its_source_and_itself(found) -> None:
    assert found.classes == sum(SOURCES[source].classes for source in found.source.split("+"))
    assert found.images % found.ways == 0
    assert found.unseen_classes >= found.ways
    assert not (found.trained_on and FAMILIES[found.trained_on].trained_on)
    if found.trained_on and FAMILIES[found.trained_on].source == found.source:
        assert FAMILIES[found.trained_on].unseen_classes == found.unseen_classes  # of the same permutation of classes
    if found.trained_on or not found.training_classes:
        return
    assert found.validation_classes >= found.ways
    assert found.validation_folds * found.validation_classes <= found.training_classes
    assert found.training_classes - found.validation_classes >= found.ways


def test_an_unknown_family_gets_the_nearest_name() -> None:
    with pytest.raises(SuiteError, match="unknown family 'cifar1000'; did you mean 'cifar100'"):
        family("cifar1000")


def sizes(n: int, each: int = 500) -> dict[str, int]:
    return {f"class {i}": each for i in range(n)}


@given(st.integers(6, 300), st.integers(40, 1000), st.data())
def test_a_folders_family_always_has_enough_classes_and_images(n: int, each: int, data: st.DataObject) -> None:
    class_sizes = sizes(n, each)
    class_sizes[data.draw(st.sampled_from(sorted(class_sizes)))] += 100
    made = family_of_folder("mine", class_sizes)
    assert made.classes == n
    assert made.ways == (5 if n >= 20 else 2)
    for classes in (made.training_classes - made.validation_classes, made.validation_classes, made.unseen_classes):
        assert classes >= made.ways
    assert made.images_per_class * made.ways == made.images
    assert made.images_per_class == min(100, each // 2)
    assert (made.name, made.source) == ("mine", "mine")


@pytest.mark.parametrize(
    ("n", "training", "unseen"), [(6, 4, 2), (10, 6, 4), (19, 11, 8), (20, 15, 5), (25, 20, 5), (100, 80, 20)]
)
def test_a_folders_classes_are_split_like_the_papers(n: int, training: int, unseen: int) -> None:
    """10 classes as Fashion-set, 100 as CIFAR100-set; never fewer unseen classes than ways."""
    made = family_of_folder("mine", sizes(n))
    assert (made.training_classes, made.unseen_classes) == (training, unseen)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_folder_with_too_few_classes_is_refused(n: int) -> None:
    with pytest.raises(FamilyError, match=f"source 'mine' has {n} classes.*at least 6"):
        family_of_folder("mine", sizes(n))


def test_a_folder_with_a_class_too_small_is_refused_and_the_class_named() -> None:
    with pytest.raises(FamilyError, match=r"class 'rare' of source 'mine' has 39 images.*at least 40"):
        family_of_folder("mine", {**sizes(10), "rare": 39})
    assert family_of_folder("mine", {**sizes(10), "rare": 40}).images_per_class == 20
