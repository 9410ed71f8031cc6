"""A finished run that is asked for again: nothing is measured anew but what is lost, damaged or new."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pudnet_bench.harness.cli import commands
from pudnet_bench.harness.planning import request as recipe
from pudnet_bench.results.store.run import Run

CALL = ("run", "table1", "--methods", "protonet", "--training-groups", "2", "--groups", "3", "--device", "cpu")


def call(*arguments: str | Path) -> Result:
    """`python -m harness`, as in a process of its own."""
    recipe._loaded.cache_clear()
    environment = {"PUDNET_BENCH_DATA": None, "PUDNET_BENCH_CACHE": None}
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `run`, and the `cache` it was made with."""
    folder = tmp_path_factory.mktemp("repeated")
    done = call(*CALL, "--cache", folder / "cache", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy of ``whole``."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def again(whole: Path, place: Path) -> Callable[..., Result]:
    """The request that made ``whole``, of the run in ``place``; further options may follow."""
    return lambda *options: call(*CALL, "--cache", whole / "cache", "--out", place / "run", *options)


def invocations(run: Path) -> int:
    """How often the run was asked for."""
    return len(Run.open(run).record.invocations)


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_finished_run_is_not_measured_again(place: Path, again: Callable[..., Result]) -> None:
    before = contents(place / "run")
    done = again()
    assert done.exit_code == 0, done.output
    assert "| ProtoNet | " in done.stdout
    assert invocations(place / "run") == 2
    after = contents(place / "run")
    assert {name for name in before if before[name] != after[name]} == {"record.json"}
    assert before.keys() == after.keys()


def test_what_is_on_disk_is_shown_without_torch(whole: Path) -> None:
    script = (
        "import sys\nfrom pudnet_bench.harness.cli.commands import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print('imported', sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))\n"
    )
    run = str(whole / "run")
    for arguments in (["table", run], ["status", run], ["compare", run, run], ["report", run]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "imported []", arguments


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("part", ["cells", "curves"])
def test_what_is_lost_is_made_again(place: Path, again: Callable[..., Result], part: str) -> None:
    rows = Run.open(place / "run").frame()
    (path,) = (place / "run" / part).iterdir()
    path.unlink()
    assert again().exit_code == 0
    assert path.is_file()
    pd.testing.assert_series_equal(Run.open(place / "run").frame()["accuracy"], rows["accuracy"])


def test_a_damaged_cell_is_said_and_measured_again(place: Path, again: Callable[..., Result]) -> None:
    (path,) = (place / "run/cells").iterdir()
    cut(path)
    with pytest.warns(UserWarning, match="is damaged"):
        assert again().exit_code == 0
    assert Run.open(place / "run").finished(path.stem)


def test_a_table_that_someone_wrote_into_is_written_anew(place: Path, again: Callable[..., Result]) -> None:
    before = (place / "run/tables/table1.md").read_text()
    (place / "run/tables/table1.md").write_text(before.replace("ProtoNet", "MyNet"))
    assert "MyNet" not in call("table", place / "run").stdout  # it is of the rows
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
    assert call("table", place / "run").stdout == (place / "run/tables/table1.md").read_text()


def test_the_papers_numbers_are_shown_when_they_are_asked_for(place: Path, again: Callable[..., Result]) -> None:
    plain = again().stdout
    assert "paper" not in plain
    assert "Digits-set paper" in again("--paper").stdout
    assert "Digits-set paper" in call("table", place / "run", "--paper").stdout
    assert call("table", place / "run").stdout.strip() == plain.strip()
    assert again().stdout == plain


def test_changed_images_are_noticed(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "shapes"
    for c in range(6):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(40):
            Image.new("L", (10, 10), 40 * c + i).save(folder / f"class{c}/{i}.png")
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
    from PIL import Image

    folder = tmp_path / "shapes"
    for c in range(6):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(40):
            Image.new("L", (6, 6), 40 * c + i).save(folder / f"class{c}/{i}.png")
    mine = (
        "run", "table1", "--methods", "adam", "--groups", "2", "--source", f"mine={folder}", "--families", "mine",
        "--device", "cpu", "--cache", tmp_path / "cache", "--out", tmp_path / "out",
    )  # fmt: skip
    for attempt in (1, 2):
        failed = call(*mine)
        assert failed.exit_code == 1
        assert "6x6 is too small" in failed.stderr
        assert invocations(tmp_path / "out") == attempt


def test_a_table_of_new_rows_is_new(place: Path) -> None:
    run = Run.open(place / "run")
    (key,) = {cell.key for cell in run.record.plan.cells}
    before = call("table", place / "run", "--format", "csv").stdout
    row = run.frame().drop(columns="finished").iloc[0].to_dict()
    run.write_shard(key, [{**row, "group": 3, "accuracy": 0.0}])
    after = call("table", place / "run", "--format", "csv").stdout
    assert after != before
    assert ",4," in after  # groups


@pytest.mark.parametrize(("format", "extension"), [("latex", "tex"), ("markdown", "md"), ("csv", "csv")])
def test_a_table_is_the_one_in_the_runs_folder(place: Path, format: str, extension: str) -> None:
    shown = call("table", place / "run", "--format", format)
    assert shown.stdout == (place / f"run/tables/table1.{extension}").read_text()
    assert "rotonet" in shown.stdout.lower()
