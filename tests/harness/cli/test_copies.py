"""Copies of images through the command line: they do not leak from test into fit, but where they are allowed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pudnet_bench.suites.sources.copies import SourceWarning
from tests.harness.conftest import CommandLine

NEAREST = """
import torch
from pudnet_bench.methods.base import Method, Snapshot


class Nearest(Method):
    name = "nearest"

    def fit(self, dataset):
        known = dataset.images.flatten(1)

        def classify(images):
            near = torch.cdist(images.flatten(1), known).argmin(1)
            return torch.nn.functional.one_hot(dataset.labels[near], dataset.n_classes).float()

        yield Snapshot(classify)
"""
COPIES = "300 of the 600 images of source 'dup' are copies of others of their class"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Six classes of pure noise in `once`; in `dup` every image is there twice, as people's folders have "x (1).png"."""
    for c in range(6):
        (tmp_path / "once" / f"class{c}").mkdir(parents=True)
        for i in range(50):
            pixels = np.random.default_rng((c, i)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "once" / f"class{c}" / f"{i:03}.png")
    shutil.copytree(tmp_path / "once", tmp_path / "dup")
    for file in list((tmp_path / "dup").glob("*/*.png")):
        shutil.copy(file, file.with_name(f"{file.stem} (1).png"))
    (tmp_path / "nearest.py").write_text(NEAREST)
    return tmp_path


def arguments(source: str, out: str, *more: str) -> list[str]:
    where = ["--source", f"dup={source}", "--families", "dup", "--out", out, "--cache", "cache"]
    return ["run", "table1", "--method", "nearest.py:Nearest", "--methods", "nearest", "--groups", "20", *where, *more]


def accuracy(done: Result | subprocess.CompletedProcess[str]) -> float:
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| nearest"))
    return float(line.split("|")[2].strip(" *").split(" ")[0])


def test_copies_do_not_leak_from_test_into_fit(noise: Path, command_line: CommandLine) -> None:
    once = accuracy(command_line(*arguments("once", "once-run")))
    with pytest.warns(SourceWarning, match=COPIES):
        assert accuracy(command_line(*arguments("dup", "strict"))) == once  # the very same groups
    allowed = command_line(*arguments("dup", "allowed", "--allow-copies"))
    assert accuracy(allowed) > once + 10
    again = command_line("resume", "allowed")  # which takes the same images
    assert again.exit_code == 0
    assert accuracy(again) == accuracy(allowed)
    assert len(list((noise / "allowed" / "cells").iterdir())) == 1


def test_a_family_is_described_without_copies_and_with_them(noise: Path, command_line: CommandLine) -> None:
    with pytest.warns(SourceWarning, match=COPIES):
        lines = command_line("new", "family", "dup").stdout.splitlines()
    assert lines[0] == "family dup: 300 images of 6 classes, 50 a class, 8x8 pixels, colour; 300 copies left out"
    assert lines[3] == "  groups    2 ways, 50 images to fit (25 a class), 50 others to test"
    assert lines[4] == "  memory    0.077 MB for the images of a group"
    allowed = command_line("new", "family", "dup", "--allow-copies").stdout
    assert "600 images of 6 classes, 100 a class, 8x8 pixels, colour\n" in allowed
    assert "--out runs/dup --allow-copies  #" in allowed
    with pytest.warns(SourceWarning, match=COPIES):
        assert command_line("data", "verify", "dup", "--source", "dup=dup").exit_code == 0


def copied_class(folder: Path) -> None:
    shutil.rmtree(folder / "class5")
    shutil.copytree(folder / "class4", folder / "class5")


def linked_class(folder: Path) -> None:
    shutil.rmtree(folder / "class5")
    (folder / "class5").symlink_to("class4")


@pytest.mark.parametrize(
    ("change", "warned", "refused"),
    [
        (
            copied_class,
            "100 of the 300 images of source 'once' are in several classes",
            "class4' .* 0 images that equal no",
        ),
        (linked_class, r"read already \(class5\)", "has 5 classes, and a family needs at least 6"),
    ],
)
def test_a_class_under_two_names_is_not_two_classes(
    noise: Path, command_line: CommandLine, change: Callable[[Path], None], warned: str, refused: str
) -> None:
    change(noise / "once")
    with pytest.warns(SourceWarning, match=warned):
        done = command_line("new", "family", "once")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert re.search(refused, done.stderr)


@pytest.mark.slow
def test_copies_are_said_once_however_many_processes_measure(noise: Path) -> None:
    command = [sys.executable, "-m", "pudnet_bench", *arguments("dup", "out", "--executor", "local-processes:2")]
    done = subprocess.run(command, cwd=noise, capture_output=True, text=True, check=True)
    assert done.stderr.count(f"warning: {COPIES}") == 1
