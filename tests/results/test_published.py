"""Published runs: every table is what this version renders from the published cells, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pudnet_bench.results.rendering.run_tables import write_tables
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import RECORD

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.parent for path in (ROOT / "results/published").glob(f"**/{RECORD}"))
README_TABLE = ROOT / "results/published/table1-fashion-cpu/tables/table1.md"


def test_there_are_published_runs() -> None:
    assert README_TABLE.parents[1] in RUNS


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_every_table_is_rendered_from_its_cells(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    shutil.rmtree(copy / "tables")
    texts = write_tables(Run.open(copy), with_paper=True)
    published = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    assert {name: text.encode() for name, text in texts.items()} == published


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_every_planned_cell_is_published_whole(folder: Path) -> None:
    run = Run.open(folder)
    assert run.record.plan.cells
    progress = run.progress(verified=True)
    assert [cell.key for cell in run.record.plan.cells if not progress[cell.key].covers(cell)] == []
    rows = run.planned_frame()
    assert (rows["classes"] != "").all()
    assert sorted(path.stem for path in (folder / "cells").iterdir()) == sorted(rows["cell"].unique())
    assert not any("/" in word and Path(word).is_absolute() for call in run.record.invocations
                   for word in call.command.split())  # fmt: skip
    assert (folder / "README.md").is_file()


def test_the_readme_shows_the_published_table() -> None:
    lines = [line for line in README_TABLE.read_text().splitlines() if line]
    text = (ROOT / "README.md").read_text()
    assert all(line in text for line in lines)
