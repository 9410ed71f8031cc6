"""The label of a method's class heads its rows everywhere, as plain text."""

from __future__ import annotations

import csv
import html
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pudnet_bench.results.store.run import Run

CommandLine = Callable[..., Result]
METHOD = """
import torch
from pudnet_bench import Method, Snapshot


class Mine(Method):
    name = "mine"
    label = {label!r}

    def fit(self, dataset):
        pixels = dataset.images.flatten(1)
        means = torch.stack([pixels[dataset.labels == c].mean(0) for c in range(dataset.n_classes)])
        yield Snapshot(lambda images: -torch.cdist(images.flatten(1), means))
"""
CALL = ("run", "table1", "--methods", "mine,adam", "--method", "mine.py:Mine", "--groups", "2", "--out", "out")
HOSTILE = r"50% & $\alpha$_{x}~^#|<b>*`[a](b)\input{/etc/passwd} {0} =cmd()"


def test_a_label_heads_the_rows_of_every_output(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(label="Nearest mean, ours"))
    done = command_line(*CALL)
    assert done.exit_code == 0, done.output
    assert "| Nearest mean, ours |" in done.stdout
    tables = tmp_path / "out/tables"
    assert "Nearest mean, ours" in (tables / "table1.tex").read_text()
    with (tables / "table1.csv").open() as file:
        assert "Nearest mean, ours" in {value for row in csv.DictReader(file) for value in row.values()}
    assert command_line("report", "out").exit_code == 0
    assert "Nearest mean, ours" in (tmp_path / "out/report.html").read_text()


def test_a_hostile_label_is_plain_text(command_line: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(label=HOSTILE + "\n\x1b[31m\u202e"))
    done = command_line(*CALL)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert command_line("report", "out").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<b>*" not in page
    assert html.escape("|<b>*`[a](b)", quote=False) in page
    if shutil.which("pdflatex"):
        table = (tmp_path / "out/tables/table1.tex").read_text()
        begin, end = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}", r"\end{document}"
        (tmp_path / "all.tex").write_text("\n".join([begin, table.replace("\u202e", ""), end]))
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert made.returncode == 0, made.stdout[-1000:]


def test_another_label_replaces_the_one_before(command_line: CommandLine, tmp_path: Path) -> None:
    for label in ("Before", "After"):
        (tmp_path / "mine.py").write_text(METHOD.format(label=label))
        assert command_line(*CALL).exit_code == 0
    shown = command_line("table", "out").stdout
    assert "| After |" in shown
    assert "Before" not in shown
    assert [variant.name for variant in Run.open(tmp_path / "out").record.plan.variants] == ["mine", "adam"]


@pytest.mark.parametrize("label", ["Adam scratch", " Adam  scratch "])
def test_two_rows_of_one_label_are_refused(command_line: CommandLine, tmp_path: Path, label: str) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(label=label))
    done = command_line(*CALL)
    assert done.exit_code == 2
    assert "the rows 'mine' and 'adam' both have the label" in done.stderr


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("nearest_mean", "nearest-mean"), ("NearestMean", "nearest-mean"), ("nearest-means", "nearest-mean"),
     ("Adam", "adam"), ("pudnet-constnt", "pudnet-constant"), ("proto_net", "protonet")],
)  # fmt: skip
def test_a_name_that_is_almost_that_of_a_method_is_suggested(
    command_line: CommandLine, tmp_path: Path, asked: str, meant: str
) -> None:
    (tmp_path / "nearest_mean.py").write_text(METHOD.format(label="").replace('"mine"', '"nearest-mean"'))
    done = command_line("run", "table1", "--method", "nearest_mean.py:Mine", "--methods", asked)
    assert done.exit_code == 2
    assert f"error: unknown method '{asked}'; did you mean '{meant}'?" in done.stderr


def test_the_name_of_a_row_is_suggested(command_line: CommandLine) -> None:
    done = command_line("run", "table4", "--methods", "pudnet_random")
    assert "unknown method 'pudnet_random'; did you mean 'pudnet-random'?" in done.stderr
