"""The command line as a person meets it: what it prints, what it refuses and how, and its exit codes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from PIL import Image

from pudnet_bench.harness.measuring import device
from pudnet_bench.harness.measuring.device import Compute
from pudnet_bench.harness.planning.plan import make_plan
from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.run import run_plan
from pudnet_bench.methods.base import Dataset, Method, Snapshot
from pudnet_bench.methods.registry import BUILT_IN
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.catalog import PROFILES, SUITES
from pudnet_bench.suites.families import FAMILIES
from pudnet_bench.suites.sources import SOURCES

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]
ROOT = Path(__file__).parents[3]
METHOD = "from pudnet_bench.methods.base import Method\nclass Mine(Method):\n"
PAPER_PRETRAINED = "94.12"  # the paper's Table 1, Fashion-set


def refused(done: Result, *texts: str) -> str:
    """The one line with which the command line refused, having checked that it did so as it promises."""
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for text in texts:
        assert text in line
    return line


@pytest.fixture
def own_run(command_line: CommandLine, method_file: MethodFile) -> CommandLine:
    """`own_run("--out", "x")`: table1 with an instant method alone, three groups of digits."""
    reference = method_file()

    def call(*arguments: str | Path, suites: tuple[str, ...] = ("table1",)) -> Result:
        own = ("--methods", "own", "--method", reference, "--groups", "3")
        return command_line("run", *suites, *own, *arguments)

    return call


def image_folder(root: Path, classes: int, images: int, size: tuple[int, int] = (10, 10)) -> Path:
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(images):
            Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(root / f"class{c}" / f"{i}.png")
    return root


# --- list ---------------------------------------------------------------------------------------------------------


def test_list_names_everything_on_a_line_each(command_line: CommandLine) -> None:
    done = command_line("list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    for known in (SUITES, PROFILES, FAMILIES, BUILT_IN):
        for name in known:
            (line,) = [line for line in lines if line.startswith(f"  {name} ")]
            assert len(line.split(maxsplit=1)[1]) > 10  # and what it is
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles[:4] == ["suites", "methods", "families", "profiles"]


def test_list_imports_no_torch() -> None:
    script = (
        "import sys\nfrom pudnet_bench.harness.cli.app import app\napp(['list'], standalone_mode=False)\n"
        "print('imported', sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported []"


# --- run: what it refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["tabel1"], ["unknown suite 'tabel1'", "did you mean 'table1'?"]),
        (["zzz"], ["unknown suite 'zzz'", "known: table1, table2"]),
        (["table1", "--profile", "quik"], ["unknown profile 'quik'", "did you mean 'quick'?"]),
        (["table1", "--methods", "adam,pudnte"], ["unknown method 'pudnte'", "did you mean 'pudnet'?"]),
        (["table1", "--families", "digist"], ["unknown family 'digist'", "did you mean 'digits'?"]),
        (["table1", "--targets", "convnet"], ["unknown target 'convnet'", "did you mean 'convnet3'?"]),
        (["table1", "--seeds", "0,x"], ["--seeds takes whole numbers separated by commas, not '0,x'"]),
        (["table1", "--seeds", "-1"], ["--seeds takes numbers from 0 on"]),
        (["table1", "--source", "mine"], ["--source takes NAME=DIR, not 'mine'"]),
        (["table1", "--source", "mine=nowhere", "--families", "mine"], ["nowhere", "does not exist", "give another"]),
        (["table1", "--method", "nowhere.py:Mine"], ["method file", "nowhere.py' does not exist"]),
        (["table1", "--method", "nowhere.py"], ["--method takes FILE.py:Class", "'nowhere.py' names no class"]),
    ],
    ids=lambda value: " ".join(value) if value and "=" not in value[0] else None,
)
def test_run_refuses_in_one_line(
    command_line: CommandLine, tmp_path: Path, arguments: list[str], texts: list[str]
) -> None:
    refused(command_line("run", *arguments, "--out", "out"), *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--groups", "0"], ["--groups", "many"], ["--nonsense"], []])
def test_run_refuses_what_cannot_be_parsed(command_line: CommandLine, arguments: list[str]) -> None:
    suites = ["table1"] if arguments else []
    done = command_line("run", *suites, *arguments)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("--device", "gpu", ("auto", "cpu", "cuda")),
        ("--precision", "fp16", ("auto", "fp32", "bf16")),
        ("--clock", "wall", ("harness", "paper")),
        ("--episodes", "mine", ("own", "learn2learn")),
    ],
)
def test_run_names_the_value_and_the_choices(
    command_line: CommandLine, option: str, value: str, choices: tuple[str, ...]
) -> None:
    done = command_line("run", "table1", option, value)
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if option in line]
    for text in (value, *choices):
        assert f"'{text}'" in line


def test_learn2learn_episodes_without_learn2learn_are_refused_while_planning(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, before anything is trained or written; methods without meta-training need no episodes."""
    monkeypatch.setitem(sys.modules, "learn2learn", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "learn2learn.data", None)
    arguments = ("run", "table1", "--episodes", "learn2learn", "--cache", "empty", "--out", "out")
    done = command_line(*arguments, "--methods", "protonet,meta-baseline,adam")
    refused(done, "--episodes learn2learn needs learn2learn", "pudnet-bench[learn2learn]", "--episodes own")
    assert not (tmp_path / "out").exists()
    assert command_line(*arguments, "--methods", "adam", "--dry-run").exit_code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(command_line: CommandLine) -> None:
    refused(command_line("run", "table1", "--device", "cuda"), "--device cuda", "use --device cpu", "doctor")


def test_debug_shows_the_traceback_of_the_same_refusal(command_line: CommandLine) -> None:
    done = command_line("run", "tabel1", "--debug")
    assert done.exit_code == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "pudnet_bench.suites.declaration.SuiteError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unknown suite 'tabel1'")


def test_a_refusal_of_the_real_process() -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "run", "tabel1"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown suite 'tabel1'; did you mean 'table1'?\n"


@pytest.mark.parametrize(
    ("text", "name", "texts"),
    [
        ("import nowhere_to_be_found", "Mine", ["fails to import", "ModuleNotFoundError", "nowhere_to_be_found"]),
        ("class Mine(", "Mine", ["fails to import", "SyntaxError"]),
        ("1 / 0", "Mine", ["fails to import", "ZeroDivisionError"]),
        ("class Other: pass", "Mine", ["has no class 'Mine'"]),
        ("class Mine: pass", "Mine", ["is not a class derived from pudnet_bench.methods.base.Method"]),
        ("Mine = 3", "Mine", ["is not a class derived from pudnet_bench.methods.base.Method"]),
        (f"{METHOD}    name = 'mine'", "Mine", ["lacks fit"]),
        (
            f"{METHOD}    def fit(self, dataset): yield",
            "Mine",
            ["needs a class attribute name"],
        ),
        (
            f"{METHOD}    name = '../x'\n    def fit(self, dataset): yield",
            "Mine",
            ["needs a class attribute name", "'../x'"],
        ),
        (
            f"{METHOD}    name = 'adam'\n    def fit(self, dataset): yield",
            "Mine",
            ["is named 'adam', as another method"],
        ),
    ],
    ids=["import", "syntax", "raises", "no class", "no method", "no class at all", "no fit", "no name", "name", "taken"],
)  # fmt: skip
def test_a_method_file_that_cannot_be_used(
    command_line: CommandLine, tmp_path: Path, text: str, name: str, texts: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(text + "\n")
    line = refused(command_line("run", "table1", "--method", f"mine.py:{name}", "--out", "out"), *texts)
    assert "mine.py" in line
    assert not (tmp_path / "out").exists()


# --- run: images --------------------------------------------------------------------------------------------------


def test_a_folder_of_images_of_your_own_gets_a_column(own_run: CommandLine, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "shapes", 6, 40)
    done = own_run("--source", f"mine={folder}", "--families", "mine", "--out", "out")
    assert done.exit_code == 0, done.output
    found = Run.open(tmp_path / "out").frame()
    assert set(zip(found["family"], found["n_fit"], found["n_classes"], strict=True)) == {("mine", 40, 2)}
    assert "mine ACC (%)" in done.stdout


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def empty_class(folder: Path) -> None:
    for path in (folder / "class2").iterdir():
        path.unlink()


def corrupt(folder: Path) -> None:
    path = folder / "class3/7.png"
    path.write_bytes(path.read_bytes()[:60])


def few_images(folder: Path) -> None:
    for i in range(9, 40):
        (folder / f"class1/{i}.png").unlink()


def few_classes(folder: Path) -> None:
    for c in range(2, 6):
        shutil.rmtree(folder / f"class{c}")


def mixed_sizes(folder: Path) -> None:
    Image.new("L", (9, 10)).save(folder / "class4/0.png")


@pytest.mark.parametrize(
    ("damage", "texts"),
    [
        (empty, ["no class folders", "put the images of each class into"]),
        (empty_class, ["source 'mine' has 5 classes", "at least 6"]),
        (corrupt, ["cannot decode 1 of the 240 images", "class3/7.png", "replace or remove it"]),
        (few_images, ["class 'class1' of source 'mine' has 9 images", "at least 40", "add images"]),
        (few_classes, ["source 'mine' has 2 classes", "at least 6", "add class folders"]),
        (mixed_sizes, ["class4/0.png", "--image-size N"]),
    ],
)
def test_an_image_folder_that_cannot_be_used(
    own_run: CommandLine, tmp_path: Path, damage: Callable[[Path], None], texts: list[str]
) -> None:
    folder = image_folder(tmp_path / "shapes", 6, 40)
    damage(folder)
    refused(own_run("--source", f"mine={folder}", "--families", "mine", "--out", "out"), *texts)
    assert not (tmp_path / "out").exists()


def test_images_too_small_for_the_target_fail_their_cell_with_the_cause(
    command_line: CommandLine, tmp_path: Path
) -> None:
    folder = image_folder(tmp_path / "shapes", 6, 40, (6, 6))
    source = ("--source", f"mine={folder}", "--families", "mine")
    done = command_line("run", "table1", "--methods", "adam", "--groups", "2", *source, "--out", "out")
    assert done.exit_code == 1
    assert "6x6 is too small, use 8x8 or more" in done.stderr
    assert "Traceback" not in done.output


def test_a_known_source_with_too_few_images_for_a_group(own_run: CommandLine, tmp_path: Path) -> None:
    image_folder(tmp_path / "data/fashion-mnist", 10, 12, (28, 28))
    done = own_run("--data", tmp_path / "data", "--families", "fashion", "--out", "out")
    refused(done, "class 'class0' of source 'fashion-mnist' has 12 images", "needs 600", "add images")


@pytest.mark.parametrize("with_folder", [False, True])
def test_a_missing_source_says_what_to_put_where(own_run: CommandLine, tmp_path: Path, with_folder: bool) -> None:
    (tmp_path / "data").mkdir()
    data = ("--data", tmp_path / "data") if with_folder else ()
    line = refused(
        own_run("--families", "fashion", *data, "--out", "out"),
        "'fashion-mnist' is missing", "FashionMNIST/raw", "`python -m harness data fetch fashion-mnist`",
    )  # fmt: skip
    assert (str(tmp_path / "data") if with_folder else "--data DIR") in line


# --- run: output folders ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k"]
    try:
        mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this process may not mount a tmpfs, which a full or read-only disk takes")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(own_run: CommandLine, small_disk: Path) -> None:
    out = small_disk / "run"
    assert own_run("--out", out).exit_code == 0
    before = Run.open(out).frame()
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"0" * 4096)
    refused(own_run("--groups", "6", "--out", out), "cannot write", "no space left on device", "--out", "are saved")
    pd.testing.assert_frame_equal(Run.open(out).frame(), before)
    (small_disk / "filler").unlink()
    assert own_run("--groups", "6", "--out", out).exit_code == 0
    pd.testing.assert_frame_equal(Run.open(out).frame().head(3), before)


def test_a_disk_that_fills_up_while_measuring_loses_at_most_what_does_not_fit(
    command_line: CommandLine, method_file: MethodFile, fits: Path, small_disk: Path
) -> None:
    fill = f"""
if fit_number == 5:
    with Path({str(small_disk / "filler")!r}).open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"0" * 4096)
        except OSError:
            pass
yield Snapshot(classifier)
"""
    call = ("run", "table1", "--methods", "own", "--method", method_file(fill), "--groups", "4")
    refused(command_line(*call, "--out", small_disk / "run"), "cannot write", "no space left on device")
    assert command_line("status", small_disk / "run").exit_code == 0
    (small_disk / "filler").unlink()
    assert command_line(*call, "--out", small_disk / "run").exit_code == 0
    assert Run.open(small_disk / "run").frame()["group"].tolist() == [0, 1, 2, 3]


def test_a_read_only_disk(own_run: CommandLine, command_line: CommandLine, small_disk: Path) -> None:
    assert own_run("--out", small_disk / "run").exit_code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "run", small_disk / "new"):
        refused(own_run("--out", out), "cannot write", str(out), "read-only file system", "--out")
    assert "own" in command_line("table", small_disk / "run").stdout  # reading still works
    assert "3/3" in command_line("status", small_disk / "run").stdout


def test_a_path_below_a_file(own_run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(own_run("--out", tmp_path / "file/run"), "cannot write", str(tmp_path / "file"), "--out")
    refused(own_run("--out", tmp_path / "file"), str(tmp_path / "file"), "is a file", "--out")
    refused(own_run("--cache", tmp_path / "file/cache", "--out", "out"), str(tmp_path / "file/cache"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_of_another_suite_or_profile_and_a_folder_that_is_no_run(own_run: CommandLine, tmp_path: Path) -> None:
    assert own_run("--out", "out").exit_code == 0
    before = Run.open(tmp_path / "out").frame()
    other = own_run("--out", "out", "--targets", "convnet3", suites=("table2",))
    refused(other, "out holds a run of suite 'table1', not 'table2'", "--out")
    other = own_run("--out", "out", "--profile", "standard", "--families", "digits")
    refused(other, "out holds a run of profile 'quick', not 'standard'", "--out")
    pd.testing.assert_frame_equal(Run.open(tmp_path / "out").frame(), before)

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("words")
    refused(own_run("--out", "thesis"), "thesis is not empty and holds no run", "--out")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_several_suites_have_a_folder_each(own_run: CommandLine, tmp_path: Path) -> None:
    done = own_run("--targets", "convnet3", "--out", "out", suites=("table1", "table2"))
    assert done.exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table1", "table2"}
    for suite in ("table1", "table2"):
        run = Run.open(tmp_path / "out" / suite)
        assert run.record.suite == suite
        assert set(run.frame()["suite"]) == {suite}
        assert (run.folder / f"tables/{suite}.tex").is_file()


def test_the_record_says_how_a_run_was_made(own_run: CommandLine, tmp_path: Path) -> None:
    assert own_run("--out", "out", "--seeds", "0,1", "--precision", "fp32").exit_code == 0
    run = Run.open(tmp_path / "out")
    assert (run.record.suite, run.record.profile, run.record.precision) == ("table1", "quick", "fp32")
    assert {cell.seed for cell in run.record.plan.cells} == {0, 1}
    assert run.record.plan.reference == "pudnet"
    (call,) = run.record.invocations
    assert call.versions["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "pudnet-bench", "typer", "pytest"} <= call.versions.keys()  # all that is installed
    assert call.version == call.versions["pudnet-bench"]
    assert len(call.commit.partition("+")[0]) == 40
    assert call.started <= call.ended
    assert (call.device, call.precision, call.threads) == (run.record.device, "fp32", torch.get_num_threads())
    assert len(call.load_start) == len(call.load_end) == 3
    rows = run.frame()
    assert set(rows["precision"]) == {"fp32"}
    assert set(rows["threads"]) == {torch.get_num_threads()}


def test_a_folder_has_one_precision_and_one_device(
    own_run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_run("--out", "out", "--precision", "bf16").exit_code == 0
    before = (tmp_path / "out/record.json").read_bytes()
    other = own_run("--out", "out", "--precision", "fp32", "--seeds", "1")
    refused(other, "out holds a run of precision 'bf16', not 'fp32'", "--out")
    monkeypatch.setattr(device, "processor_name", lambda: "another processor")
    other = own_run("--out", "out", "--precision", "bf16", "--seeds", "1")
    refused(other, "out holds a run of device", "not 'another processor'", "--out")
    assert (tmp_path / "out/record.json").read_bytes() == before
    assert set(Run.open(tmp_path / "out").frame()["seed"]) == {0}


def test_a_method_with_snapshots_of_its_own_names_has_no_row_without_numbers(
    command_line: CommandLine, method_file: MethodFile
) -> None:
    reference = method_file("yield Snapshot(classifier, '1 epochs')\nyield Snapshot(classifier, '30 epochs')")
    done = command_line("run", "table1", "--methods", "own", "--method", reference, "--groups", "2", "--out", "out")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| own")]
    assert [row.split(" |")[0] for row in rows] == ["| own, 1 epochs", "| own, 30 epochs"]
    assert "—" not in done.stdout


# --- dry run, status, table ---------------------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_writes_nothing(command_line: CommandLine, tmp_path: Path) -> None:
    call = ("run", "table1", "--methods", "pretrained,adam", "--seeds", "0,1", "--groups", "7", "--dry-run")
    done = command_line(*call, "--out", "out", "--cache", tmp_path / "cache")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert "table1, quick: 4 cells, 2 artifacts" in done.stdout
    for seed in ("0", "1"):
        assert ["pretrained", "digits", "convnet3", "0", seed, "7", "to", "train"] in [line[:8] for line in lines]
        assert ["adam", "digits", "convnet3", "0", seed, "7", "-"] in [line[:7] for line in lines]
    (total,) = [line for line in done.stdout.splitlines() if line.startswith("total: ")]
    assert total.startswith("total: 4 cells, 2 artifacts, 2 meta-trainings to run; about ")
    assert total.endswith(" MB of disk")
    assert any(unit in total.split("about ")[1].split(" on ")[0] for unit in (" s", " min", " h"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache/artifacts").exists()


def test_status_counts_what_is_measured(command_line: CommandLine, method_file: MethodFile, tmp_path: Path) -> None:
    reference = method_file('if fit_number == 6:\n    raise ValueError("odd")\nyield Snapshot(classifier)')
    call = (
        "run",
        "table1",
        "--methods",
        "own",
        "--method",
        reference,
        "--seeds",
        "0,1",
        "--groups",
        "4",
        "--out",
        "out",
    )
    assert command_line(*call).exit_code == 1
    done = command_line("status", "out")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    (failed,) = [line for line in lines if line[:6] == ["own", "digits", "convnet3", "0", "0", "2/4"]]
    assert failed[6:9] == ["failed", "ValueError:", "odd"]
    assert ["own", "digits", "convnet3", "0", "1", "4/4", "done"] in lines
    assert "table1, quick, " in done.stdout


def test_a_run_interrupted_before_its_first_number_can_be_looked_at(
    command_line: CommandLine, method_file: MethodFile
) -> None:
    call = (
        "run",
        "table1",
        "--methods",
        "own",
        "--method",
        method_file("raise KeyboardInterrupt\nyield"),
        "--out",
        "out",
    )
    assert command_line(*call, "--groups", "2").exit_code == 130
    done = command_line("status", "out")
    assert done.exit_code == 0
    assert ["own", "digits", "convnet3", "0", "0", "0/2", "pending"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    done = command_line("table", "out")
    assert done.exit_code == 0
    assert "own" in done.stdout


def test_the_latest_run_of_a_suite_is_found_by_its_name(own_run: CommandLine, command_line: CommandLine) -> None:
    refused(
        command_line("status", "table1"), "no run of 'table1' under runs/", "`python -m harness run table1` makes one"
    )
    assert own_run().exit_code == 0
    folder = "runs/table1-quick-cuda" if torch.cuda.is_available() else "runs/table1-quick-cpu"
    assert f"{folder}: table1, quick" in command_line("status", "table1").stdout
    assert command_line("table", "table1").stdout == command_line("table", folder).stdout


@pytest.mark.parametrize("command", ["status", "table"])
def test_a_run_that_is_not_there(command_line: CommandLine, tmp_path: Path, command: str) -> None:
    refused(command_line(command, "tabel1"), "'tabel1' is neither a run's folder nor a suite", "did you mean 'table1'?")
    refused(command_line(command, "zzz"), "'zzz' is neither a run's folder nor a suite", "give a run's folder")
    (tmp_path / "folder").mkdir()
    refused(command_line(command, "folder"), "There is no run in folder")


def test_the_table_in_three_formats(own_run: CommandLine, command_line: CommandLine, tmp_path: Path) -> None:
    made = own_run("--out", "out")
    mean = 100 * Run.open(tmp_path / "out").frame()["accuracy"].mean()
    texts = {form: command_line("table", "out", "--format", form).stdout for form in ("latex", "markdown", "csv")}
    assert r"\begin{table}" in texts["latex"]
    assert r"\toprule" in texts["latex"]
    assert "| own | " in texts["markdown"]
    assert texts["csv"].startswith("table,row,column,")
    assert f"{mean:.2f}" in texts["latex"]
    assert f"{mean:.2f}" in texts["markdown"]
    row = next(iter(pd.read_csv(tmp_path / "out/tables/table1.csv").to_dict("records")))
    assert row["accuracy_mean"] == pytest.approx(mean)
    for form, extension in (("latex", "tex"), ("markdown", "md"), ("csv", "csv")):
        assert (tmp_path / f"out/tables/table1.{extension}").read_text() == texts[form]
    assert made.stdout.strip() == texts["markdown"].strip()
    wrong = command_line("table", "out", "--format", "word")
    assert wrong.exit_code == 2
    assert "latex" in wrong.stderr
    assert command_line("table", "out", "--paper").exit_code == 0  # a column and a row that the paper does not have


class Instant(Method):
    """Answers at once, to stand in for a method whose numbers do not matter here."""

    name: ClassVar[str] = "instant"

    def fit(self, dataset: Dataset) -> Iterator[Snapshot]:
        yield Snapshot(lambda images: images.mean((1, 2, 3))[:, None] ** torch.arange(dataset.n_classes))


def test_list_status_and_table_for_programs(own_run: CommandLine, command_line: CommandLine, tmp_path: Path) -> None:
    listed = json.loads(command_line("list", "--json").stdout)
    assert "figure9" in [suite["name"] for suite in listed["suites"]]
    assert {"name", "description"} == set(listed["methods"][0])
    assert [family["ways"] for family in listed["families"] if family["name"] == "cifar100"] == [5]
    assert [profile["name"] for profile in listed["profiles"]] == ["quick", "standard", "paper"]
    assert own_run("--out", "out").exit_code == 0
    status = json.loads(command_line("status", "out", "--json").stdout)
    assert (status["run"], status["suite"], status["profile"]) == ("out", "table1", "quick")
    (cell,) = status["cells"]
    assert (cell["method"], cell["done"], cell["groups"], cell["state"], cell["logs"]) == ("own", 3, 3, "done", [])
    records = json.loads(command_line("table", "out", "--json", "--paper").stdout)
    (own,) = [record for record in records if record["row"] == "own"]
    assert (own["n"], own["column"], own["paper_accuracy"]) == (3, "digits", None)
    assert own["accuracy_mean"] == pytest.approx(100 * Run.open(tmp_path / "out").frame()["accuracy"].mean())


def test_two_runs_are_held_against_each_other(
    own_run: CommandLine, command_line: CommandLine, method_file: MethodFile, tmp_path: Path
) -> None:
    assert own_run("--groups", 8, "--out", "a").exit_code == 0
    method_file("yield Snapshot(lambda images: classifier(images) + 50 * torch.randn(dataset.n_classes))")
    assert own_run("--groups", 8, "--out", "b").exit_code == 0
    same = command_line("compare", "a", "a")
    assert same.exit_code == 0
    assert "| own | digits | convnet3 | same | 8 | " in same.stdout
    assert "no difference shown" in same.stdout
    worse = command_line("compare", "a", "b", "--format", "csv")
    (row,) = csv.DictReader(worse.stdout.splitlines())
    assert row["verdict"] == "worse"
    assert float(row["p_holm"]) < 0.05
    assert float(row["high"]) < 0
    assert row["same_cell"] == "False"  # the method's code is another
    assert command_line("compare", "a", "b").stdout.startswith("A: a: table1, quick, ")
    assert r"\begin{tabular}" in command_line("compare", "a", "b", "--format", "latex").stdout
    assert own_run("--groups", 1, "--out", "c", suites=("table2",)).exit_code == 0
    other = command_line("compare", "a", "c")
    assert other.exit_code == 2
    assert "a and c have measured no cell of the same key: there is nothing to compare." in other.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_the_papers_clock_gives_rows_of_its_own_beside_the_others(command_line: CommandLine) -> None:
    asked = ("run", "table1", "--methods", "adam", "--groups", "1", "--out", "r")
    assert command_line(*asked).exit_code == 0
    done = command_line(*asked, "--clock", "paper")
    assert done.exit_code == 0, done.output
    records = json.loads(command_line("table", "r", "--json").stdout)
    rows = [record["row"] for record in records if record["n"] == 1 and record["seconds_mean"] > 0]
    epochs = [row.partition("@")[2] for row in rows if row.startswith("adam@")]
    assert rows == [f"adam@{n}" for n in epochs] + [f"adam-plain-loop@{n}" for n in epochs]


def test_the_papers_number_stands_beside_ours(
    command_line: CommandLine, compute: Compute, cache_dir: Path, real_data: Path, tmp_path: Path
) -> None:
    choice = {"methods": ("pretrained",), "families": ("fashion",), "groups": 2}
    request = RunRequest(suite="table1", data=real_data, cache=cache_dir, **choice)
    plan = make_plan(request, compute)
    plan = replace(plan, cells=tuple(replace(cell, method=Instant) for cell in plan.cells))
    plain = replace(plan.variants[0], name="pretrained-plain-loop", label="Other", parent="pretrained")
    cells = (*plan.cells, *(replace(cell, variant=plain) for cell in plan.cells))
    plan = replace(plan, cells=cells, variants=(*plan.variants, plain))
    assert run_plan(plan, replace(request, cache=tmp_path / "cache"), tmp_path / "out", compute) == 0
    without, beside = (command_line("table", "out", *paper).stdout for paper in ((), ("--paper",)))
    assert PAPER_PRETRAINED not in without
    assert beside.count(PAPER_PRETRAINED) == 2  # the row made of another has the other's number
    ours = {f"{record['accuracy_mean']:.2f}" for record in json.loads(command_line("table", "out", "--json").stdout)}
    assert len(ours) == 1
    assert beside.count(ours.pop()) == 2


# --- data, doctor -------------------------------------------------------------------------------------------------


def test_data_list_says_where_each_source_is(command_line: CommandLine, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "shapes", 1, 1)
    (tmp_path / "data/cifar-100-python").mkdir(parents=True)
    done = command_line("data", "list", "--data", tmp_path / "data", "--source", f"mine={folder}")
    assert done.exit_code == 0
    lines = {line.split()[0]: line.strip() for line in done.stdout.splitlines()}
    assert lines.keys() == {"mine", *SOURCES}
    assert lines["digits"].endswith("embedded")
    assert lines["fashion-mnist"].endswith("not found")
    assert lines["cifar-100"].endswith(str(tmp_path / "data/cifar-100-python"))
    assert lines["mine"].endswith(str(folder))


def test_data_verify(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("data", "verify", "digits")
    assert done.exit_code == 0
    assert done.stdout.startswith("digits: 1797 images of 10 classes, 8x8, 1 channels, content ")
    refused(command_line("data", "verify", "digist"), "'digist'", "did you mean 'digits'?")
    refused(command_line("data", "verify", "fashion-mnist"), "'fashion-mnist' is missing", "data fetch fashion-mnist")
    folder = image_folder(tmp_path / "shapes", 2, 3, (5, 7))
    done = command_line("data", "verify", "--source", f"mine={folder}")
    assert "mine: 6 images of 2 classes, 5x7, 1 channels" in done.stdout
    assert "digits: 1797" in done.stdout


def test_data_fetch_refuses_what_it_cannot_fetch(command_line: CommandLine, tmp_path: Path) -> None:
    refused(command_line("data", "fetch", "fashion-mnist"), "--data DIR", "PUDNET_BENCH_DATA")
    data = ("--data", tmp_path / "data")
    refused(command_line("data", "fetch", "fashion-mnits", *data), "'fashion-mnits'", "did you mean 'fashion-mnist'?")
    refused(command_line("data", "fetch", "animals-10", *data), "cannot be downloaded for you", "kaggle.com", "raw-img")


def test_doctor_says_what_this_machine_is(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("doctor", "--cache", tmp_path / "not/yet/there", "--data", tmp_path)
    assert done.exit_code == 0
    lines = [(line[:22].strip(), line[22:].strip()) for line in done.stdout.splitlines()]
    found = {name: text for name, text in lines if name}
    assert all(
        not name or not lines[place + 1][0] for place, (name, _) in enumerate(lines[:-1])
    )  # each implies something
    kind = "(cuda)" if torch.cuda.is_available() else "(cpu)"
    assert kind in found["device"]
    assert f"{torch.get_num_threads()} of " in found["threads"]
    assert torch.__version__ in found["torch"]
    assert f"torch {torch.__version__.partition('+')[0]}" in found["versions"]
    available, total = (float(text.split()[0]) for text in found["memory"].split(" of "))
    assert 0 < available <= total
    assert str(tmp_path / "not/yet/there") in found["cache"]
    assert found["energy"].startswith(("no readable counter", "package-0", "GPU-"))
    assert found["source digits"] == "embedded"
    assert found["source fashion-mnist"] == "not found"
    assert "GFLOP/s" in found["speed"]
    assert re.fullmatch(r"about .* on digits", found["table1, quick"])
    assert found["table1, standard"] == "no real images found"
    assert not (tmp_path / "not").exists()


def test_doctor_for_programs(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST/raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"FashionMNIST/raw/{name}-ubyte").touch()
    done = command_line("doctor", "--cache", tmp_path / "cache", "--data", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert all({"found", "implies"} <= finding.keys() for finding in told.values())
    assert told["source fashion-mnist"]["is_there"] is True
    assert told["source cifar-100"]["is_there"] is False
    assert told["suites"]["whole"] == []
    assert "table1" in told["suites"]["in_part"]
    assert "table8" in told["suites"]["not"]
    rates = [
        told["speed"][f"{kind}_{kind_of}_gflop_per_second"]
        for kind in ("convolution", "matrix")
        for kind_of in ("fp32", "bf16")
    ]
    assert min(*rates, told["speed"]["copy_gb_per_second"]) > 0
    standard = told["table1, standard"]
    assert standard["families"] == ["fashion"]
    assert standard["implies"].startswith("`python -m harness run table1 --profile standard --families fashion`")
    assert told["table1, quick"]["least_seconds"] <= told["table1, quick"]["most_seconds"] < standard["most_seconds"]


# --- the process --------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_process_with_130_and_keeps_whole_groups(
    method_file: MethodFile, fits: Path, tmp_path: Path, cache_dir: Path
) -> None:
    reference = method_file("time.sleep(0.2)\nyield Snapshot(classifier)")
    call = [
        "run",
        "table1",
        "--methods",
        "own",
        "--method",
        reference,
        "--groups",
        "500",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *call], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PUDNET_BENCH_CACHE": str(cache_dir), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    ends = time.monotonic() + 60
    while time.monotonic() < ends and (not fits.exists() or len(fits.read_text().splitlines()) < 6):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    found = Run.open(tmp_path / "out").frame()
    assert len(found) >= 2
    assert found["group"].tolist() == list(range(len(found)))
    assert not found["finished"].any()


def test_a_source_of_ones_own_may_not_take_a_familys_name(command_line: CommandLine, tmp_path: Path) -> None:
    result = command_line("run", "table1", "--source", f"fashion={tmp_path}", "--families", "fashion")
    assert result.exit_code == 2
    assert "--source fashion-mnist=DIR" in result.stderr


def test_training_groups_measure_the_learning_curve_of_one_training(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("run", "table1", "--methods", "protonet", "--training-groups", "4,2", "--groups", 2)
    assert done.exit_code == 0, done.output
    assert "ProtoNet, 2 groups" in done.output
    assert "ProtoNet, 4 groups" in done.output
    frame = Run.open(tmp_path / "runs" / "table1-quick-cpu").frame()
    assert frame.groupby("method")["training_groups"].unique().map(list).to_dict() == {
        "protonet-2-groups": [2.0],
        "protonet-4-groups": [4.0],
    }
    figures = {path.name for path in (tmp_path / "runs" / "table1-quick-cpu" / "figures").iterdir()}
    assert figures == {"table1.pdf", "table1.png", "table1.csv"}
    wrong = command_line("run", "table1", "--training-groups", "0")
    assert wrong.exit_code == 2
    assert "--training-groups takes numbers from 1 on, not '0'" in wrong.output


@pytest.mark.slow
def test_fine_tuning_runs_from_the_command_line(command_line: CommandLine, tmp_path: Path) -> None:
    options = ("--targets", "convnet3", "--groups", 1, "--paper")
    done = command_line("run", "table5", *options)
    assert done.exit_code == 0, done.output
    frame = Run.open(tmp_path / "runs" / "table5-quick-cpu").frame()
    assert set(frame["method"]) == {"scratch", "finetune-pretrained", "finetune-meta-deepbdc", "finetune-pudnet"}
    assert (frame["accuracy"] > 0.9).all()
    assert set(frame["n_fit"]) == {200}
    assert set(frame["n_test"]) == {200}
    trained = frame.set_index("method")["training_groups"]
    assert trained.isna().to_dict()["scratch"]
    assert (trained.drop("scratch") > 0).all()
