"""Every suite of the catalog, from its declaration to its files: planned at the paper's names, run at the smallest scale."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Plan, make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running import cell as execution
from pudnet_bench.harness.running.run import run_plan
from pudnet_bench.methods import registry
from pudnet_bench.results import paper
from pudnet_bench.results.rendering.run_figures import FEWEST_GROUPS
from pudnet_bench.results.rendering.run_report import write_report
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.declaration import Profile, Suite, scaled
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.groups import FamilyImages
from pudnet_bench.suites.sources.loading import Source, load

TINY = Profile("tiny", "for this test", True, 1, 1, 1, 1, 1, 1, 1)
TABLES = [name for name in SUITES if name.startswith("table")]


def row_ids(suite: Suite, family: str) -> list[str]:
    """Ids of a suite's rows in the paper's counts, as `results.rendering.run_tables.layouts` makes them."""
    ids = []
    for variant in suite.variants:
        if suite.milestones:
            most = FAMILIES[family].meta_groups
            ids += [f"{variant.name}-{groups}-groups" for groups in scaled(suite.milestones, most)]
        elif len(variant.snapshots) > 1:
            ids += [f"{variant.name}@{snapshot.split()[0]}" for snapshot, _ in variant.snapshots]
        else:
            ids.append(variant.name)
    return ids


@pytest.mark.parametrize("name", TABLES)
def test_every_number_the_paper_prints_has_its_place_in_the_suite(name: str) -> None:
    suite, numbers = SUITES[name], paper.load(name)
    for target in suite.targets:
        for family in suite.families:
            here = numbers[(numbers["target"] == target) & (numbers["column"] == family)]
            ids = row_ids(replace(suite, variants=tuple(v for v in suite.variants if not v.section)), family)
            assert set(here["row"]) <= set(ids)
            more = set(ids) - set(here["row"])  # Table 10 ends at 50,000 groups, CIFAR100-set's training at 100,000
            assert more == ({"pudnet-100000-groups"} if (name, family) == ("table10", "cifar100") else set())
    assert set(numbers["column"]) == set(suite.families)
    assert set(numbers["target"]) == set(suite.targets)


@pytest.mark.parametrize("name", ["figure6", "figure7", "figure8"])
def test_every_point_the_paper_prints_has_its_place_in_the_figure(name: str) -> None:
    suite, points = SUITES[name], paper.load_points(name)
    for point in points.itertuples():
        xs = (
            scaled(suite.milestones, FAMILIES[point.column].meta_groups)
            if suite.milestones
            else [variant.curve_x for variant in suite.variants]
        )
        assert point.x in xs
    assert set(points["column"]) == set(suite.families)
    assert set(points["target"]) == set(suite.targets)


@pytest.mark.slow
def test_variants_name_methods_and_options_that_there_are(plan_of: Callable[..., Plan]) -> None:
    for name, suite in SUITES.items():
        assert {variant.method for variant in suite.variants} <= set(registry.entries())
        if "resnet34" not in suite.targets:
            for cell in plan_of(name).cells:
                cell.make_method()


def test_the_default_pudnet_is_one_artifact_of_all_suites(plan_of: Callable[..., Plan]) -> None:
    def pudnet(suite: str, variant: str = "pudnet") -> str:
        (cell,) = plan_of(suite, methods=(variant,), families=("digits",), targets=("convnet3",)).cells
        assert cell.artifact is not None
        return cell.artifact.key

    same = {"table4": "pudnet", "table9": "pudnet", "table12": "pudnet-1conv-1linear", "figure8": "pudnet-eta-0.2",
            "figure9": "pudnet"}  # fmt: skip
    assert {pudnet("table1")} == {pudnet(suite, variant) for suite, variant in same.items()}
    assert pudnet("table4", "pudnet-wo-initres") == pudnet("figure8", "pudnet-eta-0.0")


def test_no_training_is_done_twice_and_families_of_one_training_share_it(plan_of: Callable[..., Plan]) -> None:
    plans = {name: plan_of(name) for name in SUITES}
    trainings: Counter[str] = Counter()
    for plan in plans.values():
        trainings.update({cell.training_key for cell in plan.cells if cell.artifact})
    distinct = {key for plan in plans.values() for key in plan.artifacts}
    assert sum(len(plan.artifacts) for plan in plans.values()) > 1.4 * len(distinct)
    assert trainings.keys() >= {cell.training_key for cell in plans["table3"].cells if cell.artifact}
    for shared in ("table3", "table6", "table7"):  # nothing of their own is trained
        assert set(plans[shared].artifacts) <= set(plans["table1"].artifacts) | set(plans["table2"].artifacts)


@pytest.mark.real_data
def test_animals_are_split_in_halves_and_normalised_as_the_images_trained_on(
    real_data: Path, cache_dir: Path, compute: Compute
) -> None:
    def source(name: str, size: int | None = None) -> Source:
        return load(name, data_dir=real_data, cache_dir=cache_dir, size=size)

    trained_on = FamilyImages(FAMILIES["cifar100"], source("cifar-100"), compute.device)
    animals = FamilyImages(FAMILIES["animals10"], source("animals-10", 32), compute.device, trained_on)
    first, second = (animals.group("unseen", 0, index) for index in range(2))
    assert len(first.fit) == len(first.test) == 10 * 200
    assert first.fit.images.shape[1:] == trained_on.image_shape
    assert torch.bincount(first.fit.labels).tolist() == [200] * 10
    assert torch.equal(animals.mean, trained_on.mean)
    assert not torch.equal(first.fit.images, second.fit.images)


def small(suite: Suite) -> Suite:
    """The suite as it is, or where a ResNet is a target without what takes minutes: MUSML, whose 12 ResNets fill gigabytes
    (tests/methods has it), all epochs but one, and most of the ten values of eta."""
    if suite.targets == ("convnet3",):
        return suite
    variants = tuple(
        replace(v, options=(*v.options, ("epochs", (1,))), snapshots=(("1 epochs", "1 epoch"),))
        if registry.find(v.method).iterative
        else v
        for v in suite.variants
        if v.method != "musml"
    )
    return replace(suite, variants=variants[::4] if suite.figure == "eta" else variants)


FAST = ("table1", "figure7", "figure9")  # a table, learning curves and losses; the others are marked slow


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SUITES]
)
def test_a_suite_runs_from_end_to_end(
    name: str, compute: Compute, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "WARM_UPS", 1)
    suite = small(SUITES[name])
    groups = FEWEST_GROUPS if suite.figure == "correlation" else None
    monkeypatch.setitem(SUITES, name, suite)
    monkeypatch.setitem(PROFILES, TINY.name, TINY)
    request = RunRequest(suite=name, profile=TINY.name, groups=groups, cache=cache_dir)
    plan = make_plan(request, compute)
    folder = tmp_path / name
    assert run_plan(plan, request, folder, compute, command="a test", with_paper=True) == 0
    run = Run.open(folder)
    frame = run.frame()
    assert frame["finished"].all()
    assert set(frame["method"]) == {cell.variant.name for cell in plan.cells}
    assert frame["accuracy"].between(0, 1).all()
    assert {path.suffix for path in (folder / "tables").glob(f"{name}.*")} == {".tex", ".md", ".csv"}
    text = (folder / "tables" / f"{name}.md").read_text()
    for variant in plan.variants:
        assert variant.label in text
    drawn = {path.name for path in (folder / "figures").glob("*")}
    assert drawn == ({f"{name}.pdf", f"{name}.png", f"{name}.csv"} if suite.figure else set())
    if suite.figure == "correlation":
        shutil.rmtree(folder / "parameters")  # what was computed of them is kept
    page = write_report([run], None).read_text()
    told = {"losses": "L1 metric at 1 groups:", "correlation": "random, held out, pair 1:"}
    told |= dict.fromkeys(("groups", "eta"), "PudNet at ")
    for kind, text in told.items():
        assert (text in page) == (text == told.get(suite.figure)), kind
