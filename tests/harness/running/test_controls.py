"""Controls and mixtures as they run: what a control is shown, and every family of a mixture measured from one training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from pudnet_bench.harness.planning.plan import Plan
from pudnet_bench.harness.training.artifacts import ArtifactStore
from pudnet_bench.methods.pudnet.controls import PudNetControl
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.class_splits import SplitImages
from pudnet_bench.suites.family import FamilyError
from pudnet_bench.suites.other_groups import other_group

CommandLine = Callable[..., Result]
PlanOf = Callable[..., Plan]


def frame(folder: Path) -> pd.DataFrame:
    return Run.open(folder).planned_frame()


def test_controls_are_shown_other_groups_and_use_the_trained_pudnet(
    command_line: CommandLine, digits_images: SplitImages, plan_of: PlanOf, tmp_path: Path, cache_dir: Path
) -> None:
    asked = ("run", "controls", "--targets", "convnet3", "--training-groups", "4", "--groups", "4", "--out", "out")
    done = command_line(*asked, "--device", "cpu", "--precision", "fp32")
    assert done.exit_code == 0, done.output
    assert "Effect of the dataset (PudNet minus PudNet, kernels of another group): " in done.stdout
    assert "*Controls*" in done.stdout
    assert "another source" not in done.stdout  # digits are one source
    rows = frame(tmp_path / "out")
    (artifact,) = set(rows[rows["method"].isin(["pudnet", "pudnet-other", "pudnet-noise"])]["artifact"])
    assert rows[rows["method"] == "untrained"]["artifact"].eq("").all()
    (cell,) = plan_of("controls", methods=("pudnet",), targets=("convnet3",), training_groups=(4,)).cells
    assert cell.artifact is not None
    assert cell.artifact.key == artifact
    stored = ArtifactStore(cache_dir).load(cell.artifact)
    assert stored is not None
    control = PudNetControl(cell.target, 6)
    control.load_state_dict(stored.state)
    for index in range(4):
        group = digits_images.unseen(0, index)
        control.show_other(other_group(digits_images, 0, group).fit)
        (snapshot,) = control.fit(group.fit)
        accuracy = float((snapshot.classifier(group.test.images).argmax(1) == group.test.labels).double().mean())
        measured = rows[(rows["method"] == "pudnet-other") & (rows["group"] == index)]["accuracy"].item()
        assert measured == pytest.approx(accuracy)
    table = pd.read_csv(tmp_path / "out/tables/controls-controls.csv")
    assert set(table["method"]) == {"pudnet"}
    difference = rows.pivot_table(index="group", columns="method", values="accuracy")
    expected = 100 * (difference["pudnet"] - difference["pudnet-other"]).mean()
    assert table.set_index("control").loc["pudnet-other", "difference"] == pytest.approx(expected)


def folder_of_images(root: Path, classes: int, colour: bool) -> Path:
    rng = np.random.default_rng(classes)
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        base = rng.integers(0, 200, 3 if colour else 1)
        for i in range(40):
            pixels = base + rng.integers(0, 55, (9, 9, len(base)))
            Image.fromarray(pixels.astype(np.uint8).squeeze()).save(root / f"class{c}" / f"{i}.png")
    return root


def test_a_mixture_of_the_users_folders_is_trained_once_and_measured_part_by_part(
    command_line: CommandLine, tmp_path: Path
) -> None:
    sources = [f"--source={name}={folder_of_images(tmp_path / name, n, name != 'a')}" for name, n in
               (("a", 6), ("b", 7), ("c", 8))]  # fmt: skip
    asked = ["run", "controls", "--families", "a+b@c", "--targets", "convnet3", *sources, "--training-groups", "4"]
    done = command_line(*asked, "--groups", "4", "--out", "out")
    assert done.exit_code == 0, done.output
    rows = frame(tmp_path / "out")
    assert set(rows["family"]) == {"a.a+b@c", "b.a+b@c", "c.a+b@c"}
    assert rows.groupby("method")["artifact"].nunique().max() == 1
    assert "pudnet-other-source" in set(rows["method"])
    assert "Effect of the source (PudNet minus PudNet, kernels of another source): " in done.stdout
    assert "also here" not in done.output
    unseen = {family: {c for text in part["classes"] for c in text.split()} for family, part in rows.groupby("family")}
    a, b, c = (len(unseen[family]) for family in sorted(unseen))
    assert (a, b) == (2, 3)
    assert c > 3  # every class of a source that is left out is unseen, and not the last three of eight
    again = command_line(*asked, "--groups", "4", "--out", "out")
    assert frame(tmp_path / "out").equals(rows)
    assert again.exit_code == 0


def test_rows_of_a_suite_are_chosen_by_their_names(command_line: CommandLine) -> None:
    done = command_line(
        "run", "table4", "--methods", "pudnet-random,pudnet-other", "--targets", "convnet3", "--dry-run"
    )
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines() if " digits " in line] == [
        "pudnet-random",
        "pudnet-other",
    ]
    refused = command_line("run", "table4", "--methods", "pretrained-ridge", "--dry-run")
    assert refused.exit_code == 2
    assert "unknown method 'pretrained-ridge'" in refused.output


def test_what_cannot_be_mixed_is_one_sentence(command_line: CommandLine, plan_of: PlanOf) -> None:
    for family, sentence in (
        ("digits+cifar10", "family 'cifar10' cannot be trained on in the mixture"),
        ("digits+digitz", "unknown family 'digitz'; did you mean 'digits'?"),
    ):
        done = command_line("run", "controls", "--families", family)
        assert done.exit_code == 2
        assert sentence in done.output
    with pytest.raises(FamilyError, match="--episodes own"):
        plan_of("controls", families=("digits+digits-c4",), episodes="learn2learn")


def test_what_is_left_out_changes_no_training(plan_of: PlanOf) -> None:
    choice = {"methods": ("pudnet",), "targets": ("convnet3",)}
    alone = plan_of("controls", families=("digits+digits-c4",), **choice)
    cells = {cell.family.name: cell for cell in alone.cells}
    assert set(cells) == {"digits.digits+digits-c4", "digits-c4.digits+digits-c4"}
    assert len(alone.artifacts) == 1
    assert len({cell.key for cell in alone.cells}) == 2
    assert alone.cells[0].target.image_shape == (3, 32, 32)
    assert alone.artifacts.keys().isdisjoint(plan_of("controls", families=("digits",), **choice).artifacts)
