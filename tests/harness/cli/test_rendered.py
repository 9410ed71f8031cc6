"""What is rendered is printed again while it is what would be rendered, and not a moment longer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pudnet_bench.harness.cli import commands
from pudnet_bench.harness.measuring import device as compute
from pudnet_bench.harness.planning import request as recipe
from pudnet_bench.results.rendering import render as output
from pudnet_bench.results.rendering import rendered
from pudnet_bench.results.rendering.rendered import FILE, ROOMS, Rendered, Request, program_digest, recall
from pudnet_bench.results.store.run import Run

ROOT = Path(__file__).parents[3]
CALL = ("run", "table1", "--methods", "protonet", "--training-groups", "2", "--groups", "3", "--device", "cpu")


def call(*arguments: str | Path) -> Result:
    """`python -m harness`, as in a process of its own."""
    recipe._loaded.cache_clear()
    environment = {"PUDNET_BENCH_DATA": None, "PUDNET_BENCH_CACHE": None}
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments], env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `run`, and the `cache` it was made with."""
    folder = tmp_path_factory.mktemp("rendered")
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
    """The request that ``whole`` answers, of the run in ``place``; further options may follow."""
    return lambda *options: call(*CALL, "--cache", whole / "cache", "--out", place / "run", *options)


def invocations(run: Path) -> int:
    """How often the run was planned: a request that is answered at once leaves the manifest alone."""
    return len(Run.open(run).manifest["invocations"])


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def fresh(run: Path) -> Rendered | None:
    return recall(run, program_digest())


# --- answered at once ---------------------------------------------------------------------------------------------


def test_a_finished_run_is_answered_at_once_and_alike(place: Path, again: Callable[..., Result]) -> None:
    before = contents(place / "run")
    at_once = again()
    assert contents(place / "run") == before
    assert invocations(place / "run") == 1
    (place / "run" / FILE).unlink()
    planned = again()
    assert invocations(place / "run") == 2
    assert (at_once.exit_code, at_once.stdout, at_once.stderr) == (0, planned.stdout, planned.stderr)
    assert "| ProtoNet | " in at_once.stdout
    for name in before:
        if name.startswith("tables/"):
            assert (place / "run" / name).read_bytes() == before[name]
    assert again().stdout == at_once.stdout
    assert invocations(place / "run") == 2  # the second one left its answer too


def test_a_process_answers_without_torch_or_rows(whole: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom harness.cli.commands import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print('imported', sorted({'torch', 'pandas', 'pyarrow', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUDNET_BENCH")}
    for arguments in (
        [*CALL, "--cache", str(whole / "cache"), "--out", str(whole / "run")],
        ["table", str(whole / "run"), "--format", "latex"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=Path.cwd(), capture_output=True, text=True, check=True,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert "ProtoNet" in done.stdout
        assert done.stdout.splitlines()[-1] == "imported []"


def test_several_suites_each_have_their_answer(whole: Path, tmp_path: Path) -> None:
    several = ("run", "table1", "table12", *CALL[2:], "--cache", whole / "cache", "--out", tmp_path)
    first = call(*several)
    assert first.exit_code == 0, first.output
    assert call(*several).stdout == first.stdout
    assert [invocations(tmp_path / suite) for suite in ("table1", "table12")] == [1, 1]
    (tmp_path / "table1" / FILE).unlink()
    assert call(*several).stdout == first.stdout  # in their order
    assert [invocations(tmp_path / suite) for suite in ("table1", "table12")] == [2, 1]
    alone = call("run", "table12", *CALL[2:], "--cache", whole / "cache", "--out", tmp_path / "table12")
    assert alone.stdout in first.stdout
    assert invocations(tmp_path / "table12") == 1


# --- anything else is planned -------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def double(path: Path) -> None:
    shutil.copy(path, path.with_name(f"a-{path.name}"))


@pytest.mark.parametrize("change", [cut, flip, Path.unlink, double])
def test_no_file_changes_unnoticed(place: Path, change: Callable[[Path], None]) -> None:
    assert fresh(place / "run") is not None
    kept = place / "kept"
    shutil.copytree(place / "run", kept)
    names = [
        name
        for name in contents(kept)
        if not name.startswith(".")  # locks
        and (change is not double or name.startswith(("cells", "curves")))
    ]
    assert len(names) >= (2 if change is double else 9)
    for name in names:
        change(place / "run" / name)
        if name == FILE and change in (cut, flip):
            with pytest.warns(UserWarning, match=r"rendered\.json is damaged"):
                assert fresh(place / "run") is None
        else:
            assert (fresh(place / "run") is None) == (name != FILE or change is not double), name
        shutil.rmtree(place / "run")
        shutil.copytree(kept, place / "run")
        assert fresh(place / "run") is not None


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
    shown = call("table", place / "run")
    (place / "run" / FILE).unlink()
    assert call("table", place / "run").stdout == shown.stdout


def test_the_papers_numbers_are_shown_when_they_are_asked_for(place: Path, again: Callable[..., Result]) -> None:
    plain = again().stdout
    assert "paper" not in plain
    assert "Digits-set paper" in again("--paper").stdout
    assert "Digits-set paper" in call("table", place / "run", "--paper").stdout
    assert call("table", place / "run").stdout.strip() == plain.strip()
    assert again().stdout == plain


def test_another_machine_plans_anew(place: Path, again: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    here = compute.machine("cpu")
    assert here is not None
    assert compute.processor_name() in here
    with monkeypatch.context() as patch:
        patch.setattr(compute, "machine", lambda device: here + " amx_bf16")
        assert again().exit_code == 0
    assert invocations(place / "run") == 2
    with monkeypatch.context() as patch:
        patch.setattr(compute, "machine", lambda device: None)  # only torch can tell
        assert again().exit_code == 0
    assert invocations(place / "run") == 3


def test_where_there_may_be_a_gpu_only_torch_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_loads", lambda library: True)
    assert compute.machine("auto") is None
    assert compute.machine("cuda") is None
    assert compute.machine("cpu") is not None


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
    assert invocations(tmp_path / "out") == 1
    cells = {path.name for path in (tmp_path / "out/cells").iterdir()}
    Image.new("L", (10, 10), 255).save(folder / "class0/0.png")
    assert call(*mine).exit_code == 0
    assert invocations(tmp_path / "out") == 2
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


def test_a_method_of_ones_own_is_always_planned(
    command_line: Callable[..., Result], method_file: Callable[..., str], tmp_path: Path
) -> None:
    own = ("run", "table1", "--methods", "own", "--method", method_file(), "--groups", "2", "--out", "out")
    for attempt in (1, 2):
        assert command_line(*own).exit_code == 0
        assert invocations(tmp_path / "out") == attempt


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["latex", "markdown", "csv"])
def test_a_table_is_the_same_from_the_folder_and_from_the_rows(place: Path, format: str) -> None:
    kept = call("table", place / "run", "--format", format)
    (place / "run" / FILE).unlink()
    made = call("table", place / "run", "--format", format)
    assert kept.stdout == made.stdout
    assert "ProtoNet" in kept.stdout or "protonet" in kept.stdout


def test_a_table_of_new_rows_is_new(place: Path) -> None:
    run = Run.open(place / "run")
    (key,) = {cell["key"] for cell in run.manifest["plan"]["cells"]}
    before = call("table", place / "run", "--format", "csv").stdout
    row = run.frame().drop(columns="finished").iloc[0].to_dict()
    run.write_shard(key, [{**row, "group": 3, "accuracy": 0.0}])
    after = call("table", place / "run", "--format", "csv").stdout
    assert after != before
    assert ",4," in after  # groups


def test_what_another_process_measured_meanwhile_is_not_taken_for_rendered(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(place / "run")
    row = run.frame().drop(columns="finished").iloc[0].to_dict()
    draw = output.write_figures

    def measured_meanwhile(*arguments: object) -> dict[str, bytes]:
        run.write_shard(row["cell"], [{**row, "group": 3, "accuracy": 0.0}])
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(output, "write_figures", measured_meanwhile)
    assert call("collect", place / "run").exit_code == 0
    assert fresh(place / "run") is None
    monkeypatch.undo()
    assert call("collect", place / "run").exit_code == 0
    made = fresh(place / "run")
    assert made is not None
    assert not made.answers(Request(program_digest()), lambda source, size: "")  # tables of it, no answer to a run


def test_code_that_changed_while_it_ran_leaves_no_answer(
    place: Path, again: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["before", *["after"] * 9])
    monkeypatch.setattr(rendered, "program_digest", lambda: next(digests))
    (place / "run" / FILE).unlink()
    assert again().exit_code == 0
    assert not (place / "run" / FILE).exists()


# --- code ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, which counts as the program that runs."""
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, tmp_path / "code" / room, ignore=shutil.ignore_patterns("__pycache__", "published")
        )
    monkeypatch.setattr(rendered, "ROOT", tmp_path / "code")
    return tmp_path / "code"


def test_the_digest_covers_the_code(code: Path) -> None:
    seen = {program_digest(), program_digest()}
    for path in ("harness/plan.py", "methods/pudnet/losses.py", "suites/catalog.py", "results/paper/table1.csv"):
        with (code / path).open("a") as file:
            file.write("\n")
        seen.add(program_digest())
    (code / "methods/new.py").touch()
    seen.add(program_digest())
    (code / "methods/new.py").rename(code / "suites/new.py")
    seen.add(program_digest())
    assert len(seen) == 7


def test_other_code_plans_anew(place: Path, again: Callable[..., Result], code: Path) -> None:
    for known in (2, 2, 3, 3):
        if known > invocations(place / "run"):
            with (code / "methods/protonet.py").open("a") as file:
                file.write("# changed\n")
        assert again().exit_code == 0
        assert invocations(place / "run") == known


def test_rendered_says_in_clear_what_it_is_of(whole: Path) -> None:
    said = json.loads((whole / "run" / FILE).read_text())
    assert (said["suite"], said["paper"]) == ("table1", False)
    assert [images["source"] for images in said["images"]] == ["digits"]
    made = fresh(whole / "run")
    assert made is not None
    assert set(made.files) == {name for name in contents(whole / "run") if name.startswith(("tables/", "figures/"))}
    assert not replace(made, request="").answers(Request(made.program), lambda source, size: made.images[0].state)
