"""A repeated command measures what is missing and nothing else, and says the same again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.planning import plan
from pudnet_bench.results.store.run import Run

CALL = ("run", "table1", "--methods", "protonet", "--training-groups", "2", "--groups", "3", "--device", "cpu")


def call(*arguments: str | Path) -> Result:
    """`python -m harness`, as in a process of its own."""
    plan._load_source.cache_clear()
    environment = {"PUDNET_BENCH_DATA": None, "PUDNET_BENCH_CACHE": None}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `run`, and the `cache` it was made with."""
    folder = tmp_path_factory.mktemp("repeat")
    done = call(*CALL, "--cache", folder / "cache", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole`."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def again(whole: Path, place: Path) -> Callable[..., Result]:
    """The command that made `whole`, for the run in `place`; further options may follow."""
    return lambda *options: call(*CALL, "--cache", whole / "cache", "--out", place / "run", *options)


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def shapes(folder: Path, side: int) -> None:
    """An image folder of six classes, each image of one grey."""
    for c in range(6):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(40):
            Image.new("L", (side, side), 40 * c + i).save(folder / f"class{c}/{i}.png")


def test_a_finished_run_is_answered_alike_and_measures_nothing(whole: Path, again: Callable[..., Result]) -> None:
    place = whole / "run"
    repeats = [again(), again()]
    assert repeats[0].exit_code == 0
    assert "| ProtoNet | " in repeats[0].stdout
    assert (repeats[0].stdout, repeats[0].stderr) == (repeats[1].stdout, repeats[1].stderr)
    before = contents(place)
    here = call(*CALL, "--cache", whole / "cache", "--out", place)
    assert here.stdout == repeats[0].stdout
    after = contents(place)
    kept = {name for name in before if name.startswith(("cells/", "curves/", "tables/", "figures/"))}
    assert len(kept) >= 5
    assert after.keys() == before.keys()
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_what_is_on_disk_is_shown_without_torch(whole: Path) -> None:
    script = (
        "import sys\nfrom pudnet_bench.harness.cli.app import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print('imported', sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))\n"
    )
    run = str(whole / "run")
    for arguments in (["table", run], ["status", run], ["compare", run, run], ["report", run]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "imported []", arguments


def test_several_suites_are_answered_in_their_order(whole: Path, tmp_path: Path) -> None:
    several = ("run", "table1", "table12", *CALL[2:], "--cache", whole / "cache", "--out", tmp_path)
    first = call(*several)
    assert first.exit_code == 0, first.output
    assert call(*several).stdout == first.stdout
    alone = call("run", "table12", *CALL[2:], "--cache", whole / "cache", "--out", tmp_path / "table12")
    assert first.stdout.endswith(alone.stdout)


@pytest.mark.parametrize("part", ["cells", "curves"])
def test_what_is_lost_is_made_again(place: Path, again: Callable[..., Result], part: str) -> None:
    rows = Run.open(place / "run").frame()
    (path,) = (place / "run" / part).iterdir()
    path.unlink()
    assert again().exit_code == 0
    assert path.is_file()
    pd.testing.assert_series_equal(Run.open(place / "run").frame()["accuracy"], rows["accuracy"])


def test_a_damaged_cell_is_reported_and_measured_again(place: Path, again: Callable[..., Result]) -> None:
    (path,) = (place / "run/cells").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="is damaged"):
        assert again().exit_code == 0
    assert Run.open(place / "run").finished(path.stem)


def test_an_edited_table_is_neither_shown_nor_left(place: Path, again: Callable[..., Result]) -> None:
    before = (place / "run/tables/table1.md").read_text()
    (place / "run/tables/table1.md").write_text(before.replace("ProtoNet", "MyNet"))
    assert "MyNet" not in call("table", place / "run").stdout
    assert "MyNet" not in again().stdout
    assert (place / "run/tables/table1.md").read_text() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--groups", "4"),
        ("--seeds", "0,1"),
        ("--methods", "protonet,adam", "--groups", "1"),
        ("--training-groups", "3"),
    ],
    ids=lambda options: " ".join(options),
)
def test_another_request_is_measured(place: Path, again: Callable[..., Result], options: tuple[str, ...]) -> None:
    before = len(Run.open(place / "run").frame())
    assert again(*options).exit_code == 0
    assert len(Run.open(place / "run").frame()) > before


def test_the_papers_numbers_are_shown_when_they_are_asked_for(place: Path, again: Callable[..., Result]) -> None:
    plain = again().stdout
    assert "paper" not in plain
    assert "Digits-set paper" in again("--paper").stdout
    assert "Digits-set paper" in call("table", place / "run", "--paper").stdout
    assert call("table", place / "run").stdout.strip() == plain.strip()
    assert again().stdout == plain


def test_changed_images_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    shapes(folder, 10)
    mine = (
        "run", "table1", "--methods", "protonet", "--training-groups", "2", "--groups", "2", "--source", f"mine={folder}",
        "--families", "mine", "--device", "cpu", "--cache", tmp_path / "cache", "--out", tmp_path / "out",
    )  # fmt: skip
    first = call(*mine)
    assert first.exit_code == 0, first.output
    assert call(*mine).stdout == first.stdout
    cells = {path.name for path in (tmp_path / "out/cells").iterdir()}
    Image.new("L", (10, 10), 255).save(folder / "class0/0.png")
    assert call(*mine).exit_code == 0
    assert {path.name for path in (tmp_path / "out/cells").iterdir()} > cells  # of other images, measured anew
    shutil.rmtree(folder)
    gone = call(*mine)
    assert gone.exit_code == 2
    assert "does not exist" in gone.stderr


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    shapes(tmp_path / "shapes", 6)
    mine = (
        "run", "table1", "--methods", "adam", "--groups", "2", "--source", f"mine={tmp_path / 'shapes'}", "--families",
        "mine", "--device", "cpu", "--cache", tmp_path / "cache", "--out", tmp_path / "out",
    )  # fmt: skip
    for _ in range(2):
        failed = call(*mine)
        assert failed.exit_code == 1
        assert "6x6 is too small" in failed.stderr


@pytest.mark.parametrize(("format", "extension"), [("latex", "tex"), ("markdown", "md"), ("csv", "csv")])
def test_a_table_is_the_same_from_the_folder_and_from_the_rows(whole: Path, format: str, extension: str) -> None:
    made = call("table", whole / "run", "--format", format).stdout
    assert "protonet" in made.lower()
    assert (whole / f"run/tables/table1.{extension}").read_text() == made


def test_a_table_of_new_rows_is_new(place: Path) -> None:
    run = Run.open(place / "run")
    (key,) = {cell.key for cell in run.record.plan.cells}
    before = call("table", place / "run", "--format", "csv").stdout
    row = run.frame().drop(columns="finished").iloc[0].to_dict()
    run.write_shard(key, [{**row, "group": 3, "accuracy": 0.0}])
    after = call("table", place / "run", "--format", "csv").stdout
    assert after != before
    assert ",4," in after  # groups
