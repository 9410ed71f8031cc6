from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import Cell, Plan
from pudnet_bench.methods.base import MethodError
from pudnet_bench.methods.registry import UnknownMethodError
from pudnet_bench.suites.catalog import CONTROLS, PROFILES, SUITES
from pudnet_bench.suites.declaration import Suite, SuiteError, Variant

PlanOf = Callable[..., Plan]
METHODS = ["pretrained", "matchnet", "protonet", "meta-baseline", "meta-deepbdc", "musml", "adam", "gc", "pudnet"]
EQUAL = [*(f"{name}-all" for name in METHODS if name not in ("adam", "gc")), "pretrained-ridge"]
CONTROL_NAMES = [control.name for control in CONTROLS if control.name != "pudnet-other-source"]  # digits are one source


def only(plan: Plan) -> Cell:
    (cell,) = plan.cells
    return cell


@pytest.mark.parametrize(("suite", "target"), [("table1", "convnet3"), ("table2", "resnet18")])
def test_cells_of_the_quick_profile(plan_of: PlanOf, suite: str, target: str) -> None:
    plan = plan_of(suite)
    found = [(c.suite, c.variant.name, c.family.name, c.target.name, c.seed, c.groups) for c in plan.cells]
    small = target == "resnet18"  # a quarter for a ResNet, but two at least
    counts, others = dict.fromkeys(("adam", "gc"), 2 if small else 3), 12 if small else 50
    assert found == [(suite, name, "digits", target, 0, counts.get(name, others)) for name in METHODS + EQUAL]
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert {cell.target.image_shape for cell in plan.cells} == {(1, 8, 8)}


@pytest.mark.parametrize(
    ("profile", "groups", "iterative_groups", "meta_groups"),
    [("quick", 50, 3, 40), ("standard", 100, 20, 2_000), ("paper", 500, 500, 2_000)],
)
def test_a_profile_changes_counts(
    plan_of: PlanOf, profile: str, groups: int, iterative_groups: int, meta_groups: int
) -> None:
    plan = plan_of(profile=profile, families=("digits",))
    assert {cell.groups for cell in plan.cells if cell.method.iterative} == {iterative_groups}
    assert {cell.groups for cell in plan.cells if not cell.method.iterative} == {groups}
    assert {cell.training.budget.max_groups for cell in plan.cells} == {meta_groups}


def test_choices_replace_what_suite_and_profile_say(plan_of: PlanOf) -> None:
    plan = plan_of(
        methods=("gc", "adam"), families=("digits",), targets=("convnet3", "resnet18"), seeds=(3, 4), groups=7
    )
    assert {cell.split for cell in plan.cells} == {0}
    found = [(c.target.name, c.seed, c.variant.name) for c in plan.cells]
    assert found == [(t, s, m) for t in ("convnet3", "resnet18") for s in (3, 4) for m in ("gc", "adam")]
    assert {cell.groups for cell in plan.cells} == {7}
    assert len({cell.key for cell in plan.cells}) == 8


def test_a_class_split_trains_with_its_own_seed_unless_seeds_are_given(plan_of: PlanOf) -> None:
    def pairs(**options: Any) -> list[tuple[int, int]]:
        return [(c.split, c.seed) for c in plan_of(methods=("protonet",), families=("digits",), **options).cells]

    assert pairs() == [(0, 0)]
    assert pairs(profile="standard") == [(k, k) for k in range(5)]
    assert pairs(profile="paper") == [(k, k) for k in range(10)]
    assert pairs(splits=(7, 2)) == [(7, 7), (2, 2)]
    assert pairs(splits=(0, 1), seeds=(3, 4)) == [(0, 3), (0, 4), (1, 3), (1, 4)]
    assert pairs(seeds=(3,)) == [(0, 3)]


def test_a_family_without_training_classes_has_one_class_split(plan_of: PlanOf) -> None:
    plan = plan_of("figure1", families=("digits-400",), splits=(3, 1))
    assert {cell.split for cell in plan.cells} == {3}


def test_unknown_names_say_the_nearest(plan_of: PlanOf) -> None:
    with pytest.raises(UnknownMethodError, match="unknown method 'adm'; did you mean 'adam'"):
        plan_of(methods=("adm",))
    with pytest.raises(SuiteError, match="unknown family 'digit'; did you mean 'digits'"):
        plan_of(families=("digit",))
    with pytest.raises(SuiteError, match="unknown target 'resnet81'; did you mean 'resnet18'"):
        plan_of(targets=("resnet81",))


def test_keys_are_the_same_on_every_call(plan_of: PlanOf) -> None:
    """And in every process: tests/reliability compares the cells of two."""
    assert [cell.key for cell in plan_of().cells] == [cell.key for cell in plan_of().cells]


def test_keys_do_not_depend_on_the_number_of_groups(plan_of: PlanOf) -> None:
    few, many = plan_of(groups=2), plan_of(groups=100_000)
    assert [cell.key for cell in few.cells] == [cell.key for cell in many.cells]
    assert few.artifacts.keys() == many.artifacts.keys()


@pytest.mark.parametrize("method", ["adam", "protonet"])
def test_keys_change_with_all_that_shapes_a_number(plan_of: PlanOf, compute: Compute, method: str) -> None:
    base = only(plan_of(methods=(method,)))
    bf16 = Compute(compute.device, compute.name, "bf16")
    smaller, other = replace(base.family, images=50), replace(base.source, fingerprint="0")
    others = {
        "seed": only(plan_of(methods=(method,), seeds=(1,))),
        "class split": only(plan_of(methods=(method,), splits=(1,), seeds=(0,))),
        "target": only(plan_of("table2", methods=(method,))),
        "precision": only(plan_of(methods=(method,), on=bf16)),
        "options": replace(base, options={"lr": 0.5}),
        "code": replace(base, code="1"),
        "content of the images": replace(base, source=other, training_source=other),
        "images per group": replace(base, family=smaller, trained_on=smaller),
    }
    keys = {base.key, *(cell.key for cell in others.values())}
    assert len(keys) == 1 + len(others)
    if method == "protonet":
        artifacts = {cell.artifact.key for cell in (base, *others.values()) if cell.artifact}
        assert len(artifacts) == 1 + len(others)


def test_the_length_of_meta_training_is_part_of_a_key_only_where_there_is_any(plan_of: PlanOf) -> None:
    def keys(profile: str) -> dict[str, str]:
        return {c.variant.name: c.key for c in plan_of(profile=profile, families=("digits",), splits=(0,)).cells}

    quick, standard = keys("quick"), keys("standard")
    assert {name for name in METHODS if quick[name] == standard[name]} == {"adam", "gc"}


def test_options_of_a_variant_reach_the_method_and_its_key(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = (
        Variant("adam", "adam", "Adam"),
        Variant("adam-fast", "adam", "Adam, 2 epochs", options=(("epochs", (1, 2)), ("lr", 0.01))),
        Variant("adam-wrong", "adam", "Adam", options=(("momentum", 0.9),)),
    )
    monkeypatch.setitem(SUITES, "mine", Suite("mine", "Mine", ("convnet3",), ("digits",), variants))
    plain, fast, wrong = plan_of("mine").cells
    assert len({cell.key for cell in (plain, fast, wrong)}) == 3
    assert (plain.make_method().lr, fast.make_method().lr, fast.make_method().epochs) == (1e-3, 0.01, (1, 2))
    with pytest.raises(MethodError, match=r"'adam-wrong' does not take the options.*momentum"):
        wrong.make_method()


def test_the_papers_clock_is_for_training_from_scratch_in_rows_of_their_own(plan_of: PlanOf) -> None:
    ours, theirs = plan_of(), plan_of(clock="paper")
    keys = {cell.variant.name: cell.key for cell in ours.cells}
    changed = [cell for cell in theirs.cells if keys.get(cell.variant.name) != cell.key]
    assert [cell.variant.name for cell in changed] == ["adam-plain-loop", "gc-plain-loop"]
    assert [variant.parent for variant in theirs.variants if variant.parent] == ["adam", "gc"]
    assert [variant.parent or variant.name for variant in theirs.variants] == [v.name for v in ours.variants]
    assert all(cell.make_method().plain for cell in changed)
    tuned = plan_of("table5", targets=("convnet3",), clock="paper").cells
    assert {cell.variant.name for cell in tuned if not cell.base} == {"scratch-plain-loop"}
    assert all(cell.make_method() for cell in tuned)


def test_artifacts_are_shared_between_suites_and_absent_without_meta_training(plan_of: PlanOf) -> None:
    first, second = plan_of("table1"), plan_of("table2", targets=("convnet3",))
    assert first.artifacts.keys() == second.artifacts.keys()
    assert {spec.inputs["method"] for spec in first.artifacts.values()} == set(METHODS) - {"adam", "gc"}
    assert {cell.variant.name for cell in first.cells if cell.artifact is None} == {"adam", "gc", *EQUAL}
    assert [cell.key for cell in first.cells] == [cell.key for cell in second.cells]


def test_the_papers_rows_alone_and_the_controls_beside_any_others(plan_of: PlanOf) -> None:
    def names(*suite: str, **options: Any) -> list[str]:
        return [variant.name for variant in plan_of(*suite, **options).variants]

    assert names(paper_rows=True) == METHODS
    assert names(paper_rows=True, methods=("pretrained-ridge",)) == ["pretrained-ridge"]  # it is asked for by name
    assert names(controls=True) == METHODS + EQUAL + CONTROL_NAMES
    assert names(methods=("pudnet",), controls=True) == ["pudnet", *CONTROL_NAMES]
    assert names("controls") == names("controls", controls=True) == ["pretrained", "protonet", "pudnet", *CONTROL_NAMES]
    assert names("controls", paper_rows=True) == ["pretrained", "protonet", "pudnet"]


def test_controls_and_equal_labels_train_nothing_but_the_constant_sketch(plan_of: PlanOf) -> None:
    plain, whole = plan_of(paper_rows=True), plan_of(controls=True)
    added = whole.artifacts.keys() - plain.artifacts.keys()
    assert {whole.artifacts[key].inputs["method"] for key in added} == {"pudnet-constant"}
    based = {cell.variant.name: cell.base.artifact for cell in whole.cells if cell.base and not cell.artifact}
    assert len(based) == len(EQUAL) + 4
    assert {spec.key for spec in based.values() if spec} <= plain.artifacts.keys()


def test_the_rule_for_the_other_group_is_part_of_a_controls_key_only(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {cell.variant.name: cell.key for cell in plan_of(controls=True).cells}
    monkeypatch.setattr("pudnet_bench.harness.planning.plan.module_digest", lambda module: module)
    whole = {cell.variant.name: cell.key for cell in plan_of(controls=True).cells}
    assert before.keys() == whole.keys()
    monkeypatch.setattr(
        "pudnet_bench.harness.planning.plan.module_digest",
        lambda module: module.replace("other_groups", "another_rule"),
    )
    after = {cell.variant.name: cell.key for cell in plan_of(controls=True).cells}
    changed = {name for name in whole if whole[name] != after[name]}
    assert changed == {name for name in CONTROL_NAMES if name not in ("pudnet-constant", "untrained")}


def test_two_variants_that_learn_the_same_share_one_artifact(plan_of: PlanOf) -> None:
    cell = only(plan_of(methods=("protonet",)))
    other = replace(cell, variant=Variant("protonet-again", "protonet", "again"))
    assert cell.artifact == other.artifact
    assert cell.key != other.key


def test_a_method_file_gets_a_cell_whose_key_follows_its_content(
    plan_of: PlanOf, method_file: Callable[..., str]
) -> None:
    reference = method_file()
    all_of_them = plan_of(method_files=(reference,))
    assert [cell.variant.name for cell in all_of_them.cells] == [*METHODS, *EQUAL, "own"]
    assert [cell.groups for cell in all_of_them.cells][-1] == PROFILES["quick"].groups

    named = plan_of(methods=("own", "adam"), method_files=(reference,))
    assert [cell.variant.name for cell in named.cells] == ["own", "adam"]
    before = named.cells[0].key
    path = Path(reference.rpartition(":")[0])
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    after = plan_of(methods=("own",), method_files=(reference,)).cells[0].key
    assert before != after


def test_a_method_file_may_not_take_the_name_of_another_method(
    plan_of: PlanOf, method_file: Callable[..., str]
) -> None:
    with pytest.raises(UnknownMethodError, match="is named 'adam', as another method"):
        plan_of(method_files=(method_file(name="adam"),))


def test_a_folder_of_the_users_own_gives_a_family(tmp_path: Path, plan_of: PlanOf) -> None:
    rng = np.random.default_rng(0)
    for name in "abcdefg":
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for i in range(46):
            Image.fromarray(rng.integers(0, 255, (10, 12), np.uint8)).save(tmp_path / "shapes" / name / f"{i}.png")
    sources = {"mine": tmp_path / "shapes"}
    mine, digits = plan_of(families=("mine", "digits"), methods=("adam",), sources=sources).cells
    assert (mine.family.name, digits.family.name) == ("mine", "digits")
    family = mine.family
    assert (family.ways, family.training_classes, family.unseen_classes) == (2, 4, 3)
    assert family.images_per_class == 23  # half of a class: the other half is tested
    assert mine.target.image_shape == (1, 10, 12)


def test_who_draws_the_episodes_is_part_of_a_meta_trained_key_only(plan_of: PlanOf) -> None:
    own, other = (only(plan_of(methods=("protonet",), episodes=kind)).key for kind in ("own", "learn2learn"))
    assert own != other
    own, other = (only(plan_of(methods=("adam",), episodes=kind)).key for kind in ("own", "learn2learn"))
    assert own == other


def test_a_family_trained_on_another_shares_its_artifacts_and_has_cells_of_its_own(plan_of: PlanOf) -> None:
    trained = {cell.variant.name: cell for cell in plan_of("table1").cells}
    tuned = {cell.variant.name: cell for cell in plan_of("table5", targets=("convnet3",)).cells}
    assert set(tuned) == {"scratch", "finetune-pretrained", "finetune-meta-deepbdc", "finetune-pudnet"}
    for name in ("pretrained", "meta-deepbdc", "pudnet"):
        cell = tuned[f"finetune-{name}"]
        assert cell.base is not None
        assert cell.base.artifact == trained[name].artifact
        assert cell.artifact is None
    assert {cell.family.name for cell in tuned.values()} == {"digits-4"}
    assert {cell.trained_on.name for cell in tuned.values()} == {"digits"}
    assert len({cell.key for cell in tuned.values()}) == 4
    pudnet = tuned["finetune-pudnet"]
    assert pudnet.base is not None
    longer = replace(pudnet, base=replace(pudnet.base, code="1"))
    assert longer.key != pudnet.key  # what the base learned shapes the number


def test_the_ablations_share_the_default_pudnet_with_table1(plan_of: PlanOf) -> None:
    (main,) = plan_of("table1", methods=("pudnet",)).cells
    cells = {cell.variant.name: cell for cell in plan_of("table4", targets=("convnet3",)).cells}
    assert len(cells) == 6
    assert len({cell.artifact.key for cell in cells.values() if cell.artifact}) == 6
    assert cells["pudnet"].artifact == main.artifact


def test_one_length_keeps_the_suite_as_it_is(plan_of: PlanOf) -> None:
    plan = plan_of("figure8", targets=("convnet3",), training_groups=(30,))
    assert plan.variants == plan_of("figure8").variants
    assert plan.figure == "eta"
    budgets = {(cell.training.budget.max_groups, cell.training.validation_groups) for cell in plan.cells}
    assert budgets == {(30, 0)}
    assert not any(cell.training.milestones or cell.training_groups for cell in plan.cells)
    (point,) = plan_of("figure6", training_groups=(30,)).cells
    assert (point.variant.label, point.variant.curve_x) == ("PudNet, 30 groups", 30)


def test_milestones_make_a_cell_each_and_build_on_the_last_of_the_base(plan_of: PlanOf) -> None:
    plan = plan_of(methods=("pretrained", "meta-baseline", "adam"), training_groups=(30, 10))
    found = [(cell.variant.name, cell.variant.label, cell.training_groups) for cell in plan.cells]
    assert found == [
        ("pretrained-10-groups", "Pretrained, 10 groups", 10),
        ("pretrained-30-groups", "Pretrained, 30 groups", 30),
        ("meta-baseline-10-groups", "Meta-Baseline, 10 groups", 10),
        ("meta-baseline-30-groups", "Meta-Baseline, 30 groups", 30),
        ("adam", "Adam scratch", 0),
    ]
    assert {cell.training.validation_groups for cell in plan.cells} == {0}
    bases = [cell.base.artifact for cell in plan.cells if cell.base]
    assert bases == [plan.cells[1].artifact] * 2
