"""`new`: what it writes runs as it is, and it writes nothing where a name or a folder will not do."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pudnet_bench.methods import registry
from pudnet_bench.results.store.run import Run

CommandLine = Callable[..., Result]


def next_commands(done: Result) -> list[list[str]]:
    """The commands that were said to be next, as words after `python -m harness`."""
    assert done.exit_code == 0, done.output
    lines = done.stdout.split("next:\n")[1].splitlines()
    return [shlex.split(line, comments=True)[3:] for line in lines]


def refused(done: Result, said: str) -> None:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def image_folder(root: Path, sizes: dict[str, int], side: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (side, side), np.uint8)).save(root / name / f"{i}.png")
    return root


def test_a_new_method_passes_its_checks_and_gets_a_row(command_line: CommandLine, tmp_path: Path) -> None:
    check, run = next_commands(command_line("new", "method", "nearest_mean.py"))
    assert check == ["check", "nearest_mean.py:NearestMean"]
    found = registry.find_in_file(str(tmp_path / "nearest_mean.py:NearestMean"))
    assert (found.__name__, found.name, found.meta_trains()) == ("NearestMean", "nearest-mean", True)
    done = command_line(*check)
    assert done.exit_code == 0, done.output
    assert " 0 failed," in done.stdout
    done = command_line(*run, "--groups", 2, "--training-groups", 2)
    assert done.exit_code == 0, done.output
    assert "| nearest-mean |" in done.stdout
    assert "| ProtoNet |" in done.stdout


def test_a_new_suite_runs(command_line: CommandLine, tmp_path: Path) -> None:
    commands = next_commands(command_line("new", "suite", "few_images.py"))
    assert commands[:2] == [["run", "few_images.py", "--dry-run"], ["run", "few_images.py"]]
    done = command_line(*commands[0])
    assert done.exit_code == 0, done.output
    done = command_line(*commands[1], "--groups", 2, "--training-groups", 1)
    assert done.exit_code == 0, done.output
    frame = Run.open(tmp_path / "runs" / "few-images-quick-cpu").frame()
    assert set(frame["method"]) == {"mean-of-1", "mean-of-5", "mean-of-10", "pretrained"}


@pytest.mark.parametrize("kind", ["method", "suite"])
def test_what_is_written_is_short_and_commented(kind: str, command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line("new", kind, "words_in_a_row.py").exit_code == 0
    text = (tmp_path / "words_in_a_row.py").read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len([line for line in text.splitlines() if line]) < 40
    assert text.count("#") >= 3
    assert "words-in-a-row" in text
    assert "my-" not in text
    assert "My" not in text


@pytest.mark.parametrize("kind", ["method", "suite"])
def test_no_file_is_overwritten(kind: str, command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("kept")
    refused(command_line("new", kind, "mine.py"), "'mine.py' exists already and is left as it is")
    assert (tmp_path / "mine.py").read_text() == "kept"


@pytest.mark.parametrize(
    ("kind", "file", "said"),
    [
        ("method", "mine", "a Python file such as my_method.py, not 'mine'"),
        ("method", "my-method.py", "is not a valid name; use lower-case letters"),
        ("method", "2nd.py", "is not a valid name"),
        ("method", "Mine.py", "is not a valid name"),
        ("method", "a__b.py", "is not a valid name"),
        ("method", "protonet.py", "there is a method 'protonet' already"),
        ("method", "meta_baseline.py", "there is a method 'meta-baseline' already"),
        ("method", "snapshot.py", "needs the name 'Snapshot' for something else"),
        ("method", "method.py", "needs the name 'Method' for something else"),
        ("method", "none.py", "needs the name 'None' for something else"),
        ("method", "class.py", "would shadow the Python module 'class'"),
        ("method", "torch.py", "would shadow the Python module 'torch'"),
        ("method", "harness.py", "would shadow the Python module 'harness'"),
        ("method", "absent/mine.py", "the folder of 'absent/mine.py' does not exist"),
        ("suite", "mine.txt", "a Python file such as my_suite.py, not 'mine.txt'"),
        ("suite", "table1.py", "there is a suite 'table1' already"),
        ("suite", "all.py", "there is a suite 'all' already"),
        ("suite", "suite.py", "needs the name 'Suite' for something else"),
        ("suite", "random.py", "would shadow the Python module 'random'"),
    ],
)
def test_names_that_will_not_do_are_refused(
    kind: str, file: str, said: str, command_line: CommandLine, tmp_path: Path
) -> None:
    refused(command_line("new", kind, file), said)
    assert not list(tmp_path.iterdir())


def test_a_file_beside_one_of_the_same_name_is_no_module_hidden(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert command_line("new", "method", "mine.py").exit_code == 0
    assert command_line("new", "method", "elsewhere/mine.py").exit_code == 0


def test_a_folder_is_described_as_a_family_and_its_command_runs(command_line: CommandLine, tmp_path: Path) -> None:
    image_folder(tmp_path / "My flowers", {f"rose{i}": 40 + i for i in range(6)})
    done = command_line("new", "family", "My flowers")
    (run,) = next_commands(done)
    lines = done.stdout.splitlines()
    assert lines[0] == "family my-flowers: 255 images of 6 classes, 40 to 45 a class, 10x10 pixels, grey"
    assert lines[1].startswith("  training  4 classes: rose")
    assert lines[1].endswith("; 2 of them validate")
    assert lines[2].startswith("  unseen    2 classes: rose")
    classes = {name for line in lines[1:3] for name in line.replace(",", "").replace(";", "").split() if "rose" in name}
    assert len(classes) == 6
    assert lines[3] == "  groups    2 ways, 40 images to fit (20 a class), 40 others to test"
    own = ["--families", "my-flowers", "--out", "runs/my-flowers"]
    assert run == ["run", "table1", "--source", "my-flowers=My flowers", *own]
    done = command_line(*run, "--methods", "protonet", "--groups", 2, "--training-groups", 1)
    assert done.exit_code == 0, done.output
    assert "my-flowers ACC" in done.stdout
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["my-flowers"]


@pytest.mark.parametrize(
    ("sizes", "side", "options", "said"),
    [
        ({}, 10, (), "has no class folders"),
        ({"a": 40, "b": 40}, 10, (), "has 2 classes, and a family needs at least 6"),
        ({**dict.fromkeys("abcde", 40), "f": 39}, 10, (), "class 'f' of source 'mine' has 39 images"),
        (dict.fromkeys("abcdef", 40), 7, (), "are 7x7 pixels, and the targets take 8x8 or more; enlarge them"),
        ({"a": 40}, 10, ("--name", "digits"), "'digits' is a built-in source or family"),
        ({"a": 40}, 10, ("--name", "fashion"), "'fashion' is a built-in source or family"),
        ({"a": 40}, 10, ("--name", "a b"), "'a b' cannot name a family"),
    ],
    ids=["no classes", "two classes", "too few images", "small images", "a source", "a family", "no name"],
)
def test_a_folder_that_makes_no_family_is_refused_in_one_sentence(
    sizes: dict[str, int], side: int, options: tuple[str, ...], said: str, command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    image_folder(tmp_path / "mine", sizes, side)
    refused(command_line("new", "family", "mine", *options), said)


def test_a_folder_that_is_not_there_is_named(command_line: CommandLine) -> None:
    refused(command_line("new", "family", "absent"), "the folder absent of the source 'absent' does not exist")


def test_new_alone_says_what_there_is(command_line: CommandLine) -> None:
    done = command_line("new", "--help")
    assert done.exit_code == 0
    assert all(f"  {kind} " in done.stdout for kind in ("method", "suite", "family"))
