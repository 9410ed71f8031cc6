"""Suites and profiles refuse what is not consistent, and scale down in one known way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.suites.catalog import MILESTONES, PROFILES, SUITES
from pudnet_bench.suites.declaration import FIGURES, Suite, SuiteError, Variant, scaled
from pudnet_bench.suites.families import family

ADAM = Variant("adam", "adam", "Adam")


@pytest.mark.parametrize(
    ("most", "found"),
    [
        (100_000, MILESTONES),
        (50_000, (50, 100, 500, 1_000, 5_000, 10_000, 50_000)),
        (2_000, (50, 100, 500, 1_000, 2_000)),
        (40, (1, 2, 4, 20, 40)),
        (1, (1,)),
    ],
)
def test_the_papers_milestones_at_every_scale(most: int, found: tuple[int, ...]) -> None:
    assert scaled(MILESTONES, most) == found


@given(st.lists(st.integers(1, 10**5), min_size=1, unique=True).map(sorted).map(tuple), st.integers(1, 10**5))
def test_milestones_rise_to_the_end_of_the_training(milestones: tuple[int, ...], most: int) -> None:
    found = scaled(milestones, most)
    assert found[-1] == most
    assert all(a < b for a, b in pairwise(found))
    assert scaled((), most) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "../out"}, "a suite's name consists of letters, digits, - and _, unlike '../out'"),
        ({"name": ""}, "a suite's name"),
        ({"figure": "pie"}, f"figure is one of {', '.join(FIGURES[1:])}, not 'pie'"),
        ({"variants": (ADAM, ADAM)}, "two variants named 'adam'"),
    ],
)
def test_an_inconsistent_suite_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        Suite(**{"name": "s", "title": "S", "targets": (), "families": (), "variants": (ADAM,), **changed})


def test_resnets_get_smaller_counts_in_the_quick_profile_only() -> None:
    quick = PROFILES["quick"]
    assert quick.for_target("convnet3") == quick
    small = quick.for_target("resnet18")
    assert (small.groups, small.max_meta_groups, small.iterative_groups) == (12, 10, 2)
    for name in ("standard", "paper"):
        assert PROFILES[name].for_target("resnet34") == PROFILES[name]


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_a_suite_has_families_of_both_kinds(suite: Suite) -> None:
    for name in suite.families + suite.embedded:
        found = family(name)
        assert (found.source == "digits") == (name in suite.embedded)
        assert found.training_classes or found.trained_on or suite.figure == "correlation"
