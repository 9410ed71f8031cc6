"""What a run's folder holds beyond what a command asked for, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.harness.planning.request import RunRequest
from pudnet_bench.harness.running.surplus import asked_by, surplus
from pudnet_bench.results.store.run_record import PlannedCell, PlannedVariant, PlanRecord

CommandLine = Callable[..., Result]
MethodFile = Callable[..., str]


def cell(method: str = "adam", split: int = 0, seed: int = 0, groups: int = 3, family: str = "digits") -> PlannedCell:
    return PlannedCell(
        key=f"{method}-{family}-{split}-{seed}", method=method, family=family, target="convnet3", split=split, seed=seed,
        groups=groups,
    )  # fmt: skip


def said(asked: Sequence[PlannedCell], planned: Sequence[PlannedCell], *others: str) -> str:
    """`surplus` where all of the planned groups are measured, and one of each of the `others`."""
    done = {one.key: set(range(one.groups)) for one in planned} | {key: {0} for key in others}
    return surplus(asked, planned, done)


def test_each_kind_of_surplus_is_named() -> None:
    asked = [cell(seed=1)]
    assert said(asked, asked) == ""
    assert said(asked, [*asked, cell(seed=0)]) == "also here: seeds 0"
    assert said(asked, [cell(seed=1, groups=6)]) == "also here: groups 3 to 5"
    assert said(asked, [cell(seed=1), cell(seed=0, groups=6)]) == "also here: seeds 0, groups 3 to 5"
    assert (
        said(asked, [*asked, cell("protonet", seed=1, groups=50)]) == "also here: methods protonet"
    )  # no more of adam
    assert said(asked, [*asked, cell("gc", family="fashion")]) == "also here: methods gc, families fashion, seeds 0"
    assert said(asked, asked, "old", "older") == "also here: 2 cells not in the table"
    assert said([cell(), cell(split=1, seed=1)], [cell(), cell(split=1)]) == "also here: 1 other cell"


def test_what_is_planned_and_not_measured_is_not_here() -> None:
    assert surplus([cell()], [cell(), cell(seed=1)], {cell().key: {0, 1, 2}, cell(seed=1).key: set()}) == ""


def test_long_lists_are_cut() -> None:
    planned = [cell(seed=seed) for seed in (0, 1, 2, 4, 7, 8, 11, 13)]
    assert said([cell()], planned) == "also here: seeds 1, 2, 4 and 4 more"
    planned = [cell(seed=seed) for seed in range(9)]
    assert said([cell(seed=4)], planned) == "also here: seeds 0 to 3, 5 to 8"
    planned = [cell(method) for method in ("pudnet", "adam", "meta-baseline", "matchnet", "musml", "gc")]
    line = said([cell()], planned)
    assert line == "also here: methods pudnet, meta-baseline, matchnet and 2 more"
    assert len(line) <= 80


CELLS = st.builds(
    cell, st.sampled_from(("adam", "gc")), st.integers(0, 2), st.integers(0, 2), st.integers(1, 4)
)  # fmt: skip


@given(
    planned=st.lists(CELLS, max_size=6, unique_by=lambda one: one.key), asked=st.lists(CELLS, min_size=1, max_size=3)
)
def test_nothing_is_said_exactly_where_nothing_is_beyond(planned: list[PlannedCell], asked: list[PlannedCell]) -> None:
    asked = list({one.key: one for one in asked}.values())
    most = {one.key: one.groups for one in asked}
    beyond = any(one.groups > most.get(one.key, 0) for one in planned)
    assert bool(said(asked, planned)) == beyond


def test_what_a_request_asks_for_follows_from_its_options() -> None:
    cells = (cell(), cell(split=1, seed=1), cell("gc-20-groups", groups=9), cell(seed=5), cell(family="mine"))
    plan = PlanRecord(
        title="", cells=cells, variants=(PlannedVariant(name="gc-20-groups", label="", parent="gc"),)
    )  # fmt: skip

    def asked(**options: object) -> list[PlannedCell]:
        return asked_by(replace(RunRequest(suite="table1", cache=Path()), **options), plan)  # type: ignore[arg-type]

    assert asked() == [cells[0], cells[2], cells[4]]  # the only split of `quick`, with its own seed
    assert asked(splits=(0, 1), families=("digits",)) == [cells[0], cells[1], cells[2]]
    assert asked(methods=("gc",)) == [cells[2]]
    assert asked(methods=("adam",), method_files=("own.py:Own",), groups=2) == [
        replace(one, groups=2) for one in (cells[0], cells[2], cells[4])
    ]
    assert asked(seeds=(5,)) == [cells[3]]


@pytest.fixture
def own(command_line: CommandLine, method_file: MethodFile) -> Callable[..., list[str]]:
    """`own("--seeds", "1")`: what a run of table1 with an instant method says beside its table."""
    reference = method_file()

    def call(*arguments: str) -> list[str]:
        chosen = ("--methods", "own", "--method", reference, "--out", "out")
        done = command_line("run", "table1", *chosen, *arguments)
        assert done.exit_code == 0, done.output
        assert "also here" not in done.stdout
        return [line for line in done.stderr.splitlines() if line.startswith("also here")]

    return call


def test_a_run_says_what_earlier_commands_left_in_its_folder(
    own: Callable[..., list[str]], command_line: CommandLine, tmp_path: Path, method_file: MethodFile
) -> None:
    assert own("--groups", "6", "--seeds", "0") == []
    assert own("--groups", "6", "--seeds", "0") == []
    assert own("--groups", "3", "--seeds", "1") == ["also here: seeds 0, groups 3 to 5"]
    assert own("--groups", "3", "--seeds", "0") == ["also here: seeds 1, groups 3 to 5"]
    assert own("--groups", "6", "--seeds", "0,1") == []

    assert own("--groups", "2", "--seeds", "1") == ["also here: seeds 0, groups 2 to 5"]
    for command in ("table", "collect"):
        done = command_line(command, "out")
        assert done.stderr.splitlines()[-1] == "also here: seeds 0, groups 2 to 5"
        assert "also here" not in done.stdout
    assert "also here" not in command_line("resume", "out").stderr

    method_file("classifier = centroids(dataset)\nyield Snapshot(classifier)")  # the same file with other code
    assert own("--groups", "2", "--seeds", "0,1") == ["also here: 2 cells not in the table"]
