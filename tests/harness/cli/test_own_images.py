"""A user's own photographs through the commands: `new family`, `run`, `resume` and `data verify`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pudnet_bench.harness.planning.request import RunRequest, load_requests
from pudnet_bench.results.store.run import Run
from pudnet_bench.suites.sources.catalog import Background

CommandLine = Callable[..., Result]
SMALL = ["--methods", "protonet", "--groups", 2, "--training-groups", 1]


def photographs(root: Path, per_class: int = 40, odd: int = 1) -> Path:
    """Six classes of 24x16 images, and `odd` images of another size and with transparency in each."""
    for c in range(6):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(per_class):
            noise = np.random.default_rng((c, i)).integers(0, 256, (16, 24, 3), np.uint8)
            Image.fromarray(noise).save(root / f"class{c}" / f"{i}.png")
        for i in range(odd):
            noise = np.random.default_rng((c, i, 1)).integers(0, 256, (30, 20, 4), np.uint8)
            Image.fromarray(noise).save(root / f"class{c}" / f"odd{i}.png")
    return root


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    return line


def test_images_of_many_sizes_are_refused_and_the_option_that_is_named_works(
    command_line: CommandLine, tmp_path: Path
) -> None:
    photographs(tmp_path / "mine")
    said = refused(command_line("new", "family", "mine"))
    assert "2 sizes: 240 of 24x16 (class0/0.png), 6 of 20x30 (class0/odd0.png)" in said
    assert "--image-size N" in said
    source = ["--source", "mine=mine", "--families", "mine"]
    for command in (["run", "table1", *source, "--dry-run"], ["data", "verify", "mine", *source[:2]]):
        assert "--image-size N" in refused(command_line(*command))

    done = command_line("new", "family", "mine", "--image-size", 16)
    assert done.exit_code == 0, done.output
    assert "246 images of 6 classes, 41 a class, 16x16 pixels, colour" in done.stdout
    assert "0 grey, 6 with transparency (now white), 0 turned by EXIF" in done.stdout
    assert "2 sizes from 24x16 to 20x30" in done.stdout
    run = shlex.split(done.stdout.split("next:\n")[1], comments=True)[3:]
    assert run[run.index("--image-size") + 1] == "16"
    done = command_line(*run, *SMALL)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "mine"
    (request,) = load_requests(folder)
    assert (request.image_size, request.alpha_background) == (16, Background.WHITE)
    before = Run.open(folder).frame()
    assert len(before) == 2

    done = command_line("resume", folder)  # at the same size: nothing is measured again
    assert done.exit_code == 0, done.output
    assert len(Run.open(folder).frame()) == 2
    done = command_line("data", "verify", "mine", "--source", "mine=mine", "--image-size", 16)
    assert done.exit_code == 0, done.output
    assert "mine: 246 images of 6 classes, 16x16, 3 channels" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--image-size", 20), ("--alpha-background", "black")])
def test_other_pixels_are_other_cells(command_line: CommandLine, tmp_path: Path, option: str, value: object) -> None:
    photographs(tmp_path / "mine")
    options = {"--image-size": 16, "--alpha-background": "white"}
    for each in (options, {**options, option: value}):
        words = [word for pair in each.items() for word in pair]
        done = command_line(
            "run", "table1", "--source", "mine=mine", "--families", "mine", "--out", "r", *SMALL, *words
        )
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "r" / "cells").glob("*.parquet"))) == 2


def test_a_request_keeps_both_options_and_one_of_before_there_were_any_is_read() -> None:
    request = RunRequest(suite="table1", cache=Path("/c"), image_size=84, alpha_background=Background.BLACK)
    values = json.loads(json.dumps(request.to_json()))
    assert RunRequest.from_json(values) == request
    old = {name: value for name, value in values.items() if name not in ("image_size", "alpha_background")}
    assert RunRequest.from_json(old) == RunRequest(suite="table1", cache=Path("/c"))


def test_a_mixture_takes_photographs_of_many_sizes_at_its_own(command_line: CommandLine, tmp_path: Path) -> None:
    photographs(tmp_path / "mine")
    mixture = [
        "run",
        "table1",
        "--source",
        "mine=mine",
        "--families",
        "digits+mine",
        "--methods",
        "protonet",
        "--dry-run",
    ]
    done = command_line(*mixture)
    assert done.exit_code == 0, done.output
    assert "mine.digits+mine" in done.stdout


def test_a_built_in_family_is_resized_too(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("run", "table1", "--image-size", 12, "--out", "r", *SMALL)
    assert done.exit_code == 0, done.output
    assert command_line("run", "table1", "--out", "r", *SMALL).exit_code == 0
    assert len(list((tmp_path / "r" / "cells").glob("*.parquet"))) == 2


@pytest.mark.parametrize("value", ["7", "0", "-1", "x", "100000"])
def test_sizes_that_no_target_takes_are_refused(command_line: CommandLine, value: str) -> None:
    done = command_line("run", "table1", "--image-size", value)
    assert done.exit_code == 2
    assert "--image-size" in done.stderr


def test_new_family_counts_what_it_found(command_line: CommandLine, tmp_path: Path) -> None:
    root = photographs(tmp_path / "mine", odd=0)
    upright = Image.Exif()
    upright[0x0112] = 6
    for c in range(6):
        image = Image.open(root / f"class{c}" / "0.png")
        image.transpose(Image.Transpose.ROTATE_90).save(root / f"class{c}" / "0.png", exif=upright)
        Image.open(root / f"class{c}" / "1.png").convert("L").save(root / f"class{c}" / "1.png")
        grey = np.asarray(Image.open(root / f"class{c}" / "2.png").convert("L"))
        Image.fromarray(grey.astype(np.uint16) * 257).save(root / f"class{c}" / "2.png")
        (root / f"class{c}" / "phone.heic").write_text("x")
    (root / "annotations").mkdir()
    done = command_line("new", "family", "mine")
    assert done.exit_code == 0, done.output
    assert "  layout    6 class folders\n" in done.stdout
    counts = "12 grey, 0 with transparency, 6 turned by EXIF, 6 of more than 8 bits; stored as 24x16"
    assert f"  images    {counts}\n" in done.stdout
    kinds = "6 files of other kinds (6 .heic): save photographs as JPEG or PNG to use them"
    passed = f"{kinds}; 1 folder without images (annotations)"
    assert f"  skipped   {passed}\n" in done.stdout


def test_a_folder_whose_name_is_not_utf8_is_measured_and_resumed(command_line: CommandLine, tmp_path: Path) -> None:
    name = os.fsdecode(b"ros\xe9s")
    photographs(tmp_path / name, odd=0)
    source = ["--source", f"mine={name}", "--families", "mine"]
    done = command_line("run", "table1", *source, "--out", "r", *SMALL)
    assert done.exit_code == 0, done.output
    (request,) = load_requests(tmp_path / "r")
    assert request.sources["mine"].name == name
    assert command_line("resume", "r").exit_code == 0


def test_names_with_newlines_stay_on_their_line(command_line: CommandLine, tmp_path: Path) -> None:
    root = photographs(tmp_path / "mine", odd=0)
    (root / "class0").rename(root / "cla\nss0")
    done = command_line("new", "family", "mine")
    assert done.exit_code == 0, done.output
    assert "cla\\nss0" in done.stdout
    (root / "cla\nss0" / "bad\n.png").write_text("bad")
    assert "cla\\nss0/bad\\n.png" in refused(command_line("new", "family", "mine"))
