"""Every file that a run leaves, damaged in turn: found, said, made again; never another number."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from pudnet_bench.harness.cli.app import app
from pudnet_bench.harness.planning import plan
from pudnet_bench.results.store.run import Run

TIMES = [
    "seconds", "wall_seconds", "evaluation_seconds", "data_seconds", "peak_memory_bytes", "meta_train_seconds",
    "energy_joules",
]  # fmt: skip
CALLS = {
    "table1": ("--methods", "protonet", "--groups", "3", "--training-groups", "4"),
    "figure1": ("--groups", "4", "--precision", "fp32"),
}
OUTPUTS = ("tables", "figures")  # written anew by every run
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda data, draw: data[: draw.randrange(len(data))],
    "flipped": lambda data, draw: _flipped(data, draw.randrange(len(data)), 1 << draw.randrange(8)),
}


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def _says(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Place:
    """Where runs are made, and a copy of it as it was when they were whole."""

    folder: Path
    whole: Path

    def run(self, suite: str, out: str) -> Result:
        arguments = [
            "run",
            suite,
            *CALLS[suite],
            "--out",
            str(self.folder / out),
            "--cache",
            str(self.folder / "cache"),
        ]
        plan._load_source.cache_clear()  # as in another process
        return CliRunner().invoke(app, arguments, env={"PUDNET_BENCH_DATA": None})

    def restore(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.whole, self.folder)

    def rows(self, out: str) -> pd.DataFrame:
        return Run.open(self.folder / out).frame().drop(columns=TIMES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    top = tmp_path_factory.mktemp("corruption")
    made = Place(top / "here", top / "whole")
    made.folder.mkdir()
    for suite in CALLS:
        assert made.run(suite, suite).exit_code == 0
    shutil.copytree(made.folder, made.whole)
    return made


def files(place: Place) -> list[Path]:
    """Relative paths of all that is read again, and not locks."""
    found = [path.relative_to(place.whole) for path in sorted(place.whole.rglob("*")) if path.is_file()]
    return [path for path in found if not set(OUTPUTS) & set(path.parts) and not path.name.endswith("lock")
            and ".locks" not in path.parts]  # fmt: skip


def test_no_damage_changes_a_number(place: Place) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    before = {suite: place.rows(suite) for suite in CALLS}
    found, harmless = [], []
    for path in files(place):
        for damage, change in DAMAGES.items():
            place.restore()
            file = place.folder / path
            data = file.read_bytes()
            damaged = change(data, draw)
            if damaged == data or (path.suffix == ".json" and _says(damaged) == _says(data)):
                continue  # the last line break of a JSON file, or 1E-5 for 1e-5
            file.write_bytes(damaged)
            cached = path.parts[0] == "cache"
            suite = "figure1" if path.parts[0] == "figure1" else "table1"
            out = "anew" if cached else suite  # a finished run needs nothing of the cache
            said: list[str] = []
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                done = place.run(suite, out)
                said = [str(warning.message) for warning in caught]
            where = f"{path}, {damage}, seed {seed}"
            assert done.exit_code == 0, (where, done.output)
            named = [text for text in said if path.name in text or path.parent.name in text]
            (found if named else harmless).append(where)
            pd.testing.assert_frame_equal(place.rows(out), before[suite].assign(suite=suite), obj=where)
    print(f"{len(found)} damaged files found and made again, {len(harmless)} harmless:", *harmless, sep="\n  ")
    assert len(found) >= 30
    # Some bytes of a Parquet file say nothing that is read (who wrote it, statistics).
    assert all(".parquet, flipped" in where for where in harmless), harmless
