"""Names that would like to leave the folder, run in a shell, or be markup: kept as text or refused in one sentence."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.planning import plan

NAMES = (
    "../../escaped", "/tmp/escaped", "..", "a/b", "$(touch escaped)", "`touch escaped`", "x; touch escaped", "x && touch escaped",
    "\\input{/etc/passwd}", "\\write18{touch escaped}", "\\end{table}", "<script>alert(1)</script>", "![x](http://x)",
    "a|b", "x\ny", "x\r\ny", "%s%n", "{0}", "--help", "-rf", "*", "~", "名前", "a" * 300, "\x1b[31mred", "[bold]x[/bold]",
    "x\u202ey", "", " ", "con:1", "__main__", ".hidden", "x.parquet", "a.0-9", "=cmd()",
)  # fmt: skip
METHOD = """
import torch
from pudnet_bench.methods.base import Method, Snapshot


class Own(Method):
    name = {name!r}

    def fit(self, dataset):
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        yield Snapshot(lambda images: -torch.cdist(images.flatten(1), means), name={name!r})
"""
SUITE = """
from pudnet_bench.suites.declaration import Suite, Variant

SUITE = Suite("mine", {name!r}, ("convnet3",), ("digits",), (Variant("own", "own", {name!r}, (({name!r}, {name!r}),)),))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, deep enough that what leaves it by two or three levels is seen."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(place: Path, cache_dir: Path) -> Callable[..., Result]:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["run", *arguments, "--cache", str(cache_dir)], env={"PUDNET_BENCH_DATA": None})

    return call


def outside(place: Path) -> list[str]:
    """Names of what lies above the current folder, and of what no run writes inside it."""
    above = [path.name for folder in place.parents[:3] for path in folder.iterdir() if path not in place.parents]
    return [name for name in above if name not in ("c",)] + [path.name for path in place.rglob("escaped")]


def in_order(done: Result, place: Path) -> None:
    """It worked, or was refused in one sentence; nothing was written elsewhere."""
    assert done.exit_code in (0, 2), (done.exit_code, done.output, done.exception)
    if done.exit_code == 2:
        assert "Traceback" not in done.output
        assert re.search(r"error: \S|Usage: ", done.stderr), done.output
    assert "\x1b" not in done.output
    assert not outside(place)
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("name", NAMES)
def test_as_the_name_of_a_method(name: str, run: Callable[..., Result], place: Path) -> None:
    (place / "own.py").write_text(METHOD.format(name=name))
    in_order(run("table1", "--methods", "adam", "--method", "own.py:Own", "--groups", "1", "--dry-run"), place)
    in_order(run("table1", "--methods", name, "--method", "own.py:Own", "--groups", "1"), place)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_as_the_name_of_a_source_or_a_folder(name: str, run: Callable[..., Result], place: Path) -> None:
    in_order(run("table1", "--source", f"{name}={place}", "--families", name, "--groups", "1"), place)
    in_order(run(name, "--groups", "1"), place)
    in_order(run("table1", "--families", name), place)
    in_order(run("table1", "--method", f"{name}:Own"), place)


def test_as_labels_snapshots_and_titles(run: Callable[..., Result], place: Path) -> None:
    tables = []
    for number, name in enumerate(NAMES):
        (place / "own.py").write_text(METHOD.format(name="own").replace("name='own')", f"name={name!r})"))
        (place / "mine.py").write_text(SUITE.format(name=name))
        done = run("mine.py", "--method", "own.py:Own", "--groups", "2", "--out", f"out{number}")
        in_order(done, place)
        assert done.exit_code == 0, done.output
        tables.append((place / f"out{number}" / "tables" / "mine.tex").read_text())
        assert len((place / f"out{number}" / "tables" / "mine.md").read_text().splitlines()) == 5
    assert len(tables) == len(NAMES)
    if shutil.which("pdflatex"):
        latin = [table for table, name in zip(tables, NAMES, strict=True) if name.isascii() and "\x1b" not in name]
        text = "\n".join(
            [r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}", *latin, r"\end{document}"]
        )
        (place / "all.tex").write_text(text)
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-shell-escape", "all.tex"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert not outside(place)


def test_as_the_names_of_classes(run: Callable[..., Result], place: Path) -> None:
    draw = np.random.default_rng(0)
    names = [name for name in NAMES if name not in ("", "..", "~") and "/" not in name and len(name.encode()) < 200][
        :12
    ]
    images = place / "images"
    for label, name in enumerate(names):
        (images / name).mkdir(parents=True)
        for number in range(40):
            pixels = np.clip(draw.normal(20 * label, 8, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    (place / "own.py").write_text(METHOD.format(name="own"))
    call = ("table1", "--methods", "own", "--method", "own.py:Own", "--source", f"mine={images}", "--families", "mine")
    done = run(*call, "--groups", "2")
    in_order(done, place)
    assert done.exit_code == 0, done.output
    (images / names[0] / "0.png").write_bytes(b"no image")
    plan._load_source.cache_clear()  # as in another process
    done = run(*call, "--groups", "2", "--out", "other")
    in_order(done, place)
    assert done.exit_code == 2
