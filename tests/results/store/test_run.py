import hashlib
import json
import os
import pickle
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pudnet_bench.results.store.files import StoreError, write_atomically
from pudnet_bench.results.store.rows import ROW_SCHEMA
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import Invocation, PlannedCell, PlanRecord, RunRecord

KEY = "pudnet-fashion"
CALL = Invocation(
    command="python -m harness run table1", started="2025-01-01T00:00:00", commit="abc", versions={"numpy": "2"},
    precision="fp32", threads=2, load_start=(0.5, 1.0, 0.25),
)  # fmt: skip
RECORD = RunRecord(
    suite="table1", profile="quick", device="cpu", precision="fp32", plan=PlanRecord(title="A table"), invocations=(CALL,),
)  # fmt: skip
MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run", RECORD)


def names(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "cells").iterdir())


def measured(run: Run) -> list[tuple[int, str]]:
    frame = run.frame()
    return list(zip(frame["group"].tolist(), frame["snapshot"].tolist(), strict=True))


# --- the run's folder and its record


def test_a_second_call_keeps_the_first_and_adds_an_invocation(run: Run) -> None:
    later = replace(CALL, command="again", started="later", commit="def")
    again = Run.create_or_open(run.folder, replace(RECORD, invocations=(later,)))
    assert again.record == Run.open(run.folder).record == replace(RECORD, invocations=(CALL, later))


def test_a_second_plan_is_merged(run: Run) -> None:
    cell = PlannedCell(key="a", method="a", family="digits", target="convnet3", split=0, seed=0, groups=3)
    plan = PlanRecord(title="A newer title", cells=(cell,))
    again = Run.create_or_open(run.folder, replace(RECORD, plan=plan))
    assert again.record.plan == plan
    fewer = replace(plan, title="The newest", cells=(replace(cell, groups=2), replace(cell, key="b", seed=1)))
    merged = Run.create_or_open(run.folder, replace(RECORD, plan=fewer)).record.plan
    assert merged == replace(plan, title="The newest", cells=(cell, replace(cell, key="b", seed=1)))


def test_an_invocation_ends(run: Run) -> None:
    later = replace(CALL, started="later")
    again = Run.create_or_open(run.folder, replace(RECORD, invocations=(later,)))
    run.end_invocation(CALL, "now", (1.0, 2.0, 3.0))  # of what another process wrote meanwhile nothing is lost
    ended = replace(CALL, ended="now", load_end=(1.0, 2.0, 3.0))
    assert Run.open(again.folder).record.invocations == (ended, later)


@pytest.mark.parametrize(
    ("field", "other"), [("suite", "table2"), ("profile", "paper"), ("device", "cuda"), ("precision", "bf16")]
)
def test_a_run_of_something_else_is_refused_and_left_alone(run: Run, field: str, other: str) -> None:
    before = (run.folder / "record.json").read_bytes()
    with pytest.raises(StoreError) as error:
        Run.create_or_open(run.folder, replace(RECORD, **{field: other}))
    message = str(error.value)
    assert repr(getattr(RECORD, field)) in message
    assert repr(other) in message
    assert "--out" in message
    assert (run.folder / "record.json").read_bytes() == before


def test_folders_that_are_not_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        Run.create_or_open(tmp_path, RECORD)
    with pytest.raises(StoreError, match="is a file"):
        Run.create_or_open(tmp_path / "thesis.txt", RECORD)
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "thesis.txt"):
        with pytest.raises(StoreError, match="no run in"):
            Run.open(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"suite": "table1"}', '{"format": 99}', "\xff"])
def test_an_unreadable_record_is_named_and_kept(run: Run, text: str) -> None:
    path = run.folder / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"record\.json cannot be read .*repeat the `run` command"):
        Run.open(run.folder)
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("text", ["", "[1]", '{"suite": "table1"}', "\xff"])
def test_a_damaged_record_is_replaced_and_the_cells_are_kept(run: Run, make_row: MakeRow, text: str) -> None:
    run.write_shard(KEY, [make_row(group=0)])
    path = run.folder / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"record\.json is damaged .*set aside as record\.json\.corrupt"):
        again = Run.create_or_open(run.folder, RECORD)
    assert again.groups_done(KEY) == {0}
    assert again.record == Run.open(run.folder).record == run.record
    assert path.with_name("record.json.corrupt").read_bytes() == text.encode("latin-1")


def test_a_changed_character_of_a_record_is_found(run: Run) -> None:
    path = run.folder / "record.json"
    path.write_text(path.read_text().replace('"quick"', '"quack"'))
    with pytest.raises(StoreError, match="its checksum does not match"):
        Run.open(run.folder)


def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read \(it has no checksum\)"):
        Run.create_or_open(tmp_path, RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_run_killed_while_its_record_was_written_can_start_again(tmp_path: Path) -> None:
    (tmp_path / ".record.json.0123.tmp").write_text('{"suite')
    assert Run.create_or_open(tmp_path, RECORD).record == RECORD


# --- shards, finished cells and the frame


def test_rows_come_back_as_they_were_written(run: Run, make_row: MakeRow) -> None:
    rows = [make_row(group=3, accuracy=1 / 3, epochs=1.0, snapshot="1 epochs"), make_row(group=3, snapshot="ä, 30")]
    run.write_shard(KEY, rows)
    expected = pa.Table.from_pylist(rows, schema=ROW_SCHEMA).to_pandas().assign(finished=False)
    pd.testing.assert_frame_equal(run.frame(), expected, check_exact=True)
    run.finish(KEY)
    pd.testing.assert_frame_equal(run.frame(), expected.assign(finished=True), check_exact=True)


def test_an_empty_run_has_all_columns(run: Run) -> None:
    frame = run.frame()
    assert frame.columns.tolist() == [*ROW_SCHEMA.names, "finished"]
    assert frame.empty
    assert frame["accuracy"].dtype == "float64"


def test_an_interrupted_cell_ends_as_an_uninterrupted_one(run: Run, tmp_path: Path, make_row: MakeRow) -> None:
    def group(index: int) -> list[dict[str, Any]]:
        return [make_row(group=index, snapshot=name, accuracy=index / 20) for name in ("1 epochs", "30 epochs")]

    for index in (10, 0, 2, 1):  # out of order, and 10 must not come before 2
        run.write_shard(KEY, group(index))
    assert run.groups_done(KEY) == {0, 1, 2, 10}
    assert not run.finished(KEY)
    run.finish(KEY)
    assert run.finished(KEY)
    assert run.groups_done(KEY) == {0, 1, 2, 10}
    assert names(run) == [f"{KEY}.parquet"]

    other = Run.create_or_open(tmp_path / "other", RECORD)
    other.write_shard(KEY, [row for index in (0, 1, 2, 10) for row in group(index)])
    other.finish(KEY)
    file = f"cells/{KEY}.parquet"
    assert (run.folder / file).read_bytes() == (other.folder / file).read_bytes()


def test_the_frame_is_ordered_and_can_be_narrowed(run: Run, make_row: MakeRow) -> None:
    for key in ("b", "a", "a.5", "a-1"):
        run.write_shard(key, [make_row(cell=key)])
    run.finish("a.5")
    frame = run.frame()
    assert frame["cell"].tolist() == ["a", "a-1", "a.5", "b"]
    assert frame["finished"].tolist() == [False, False, True, False]
    assert run.frame({"b", "unknown"})["cell"].tolist() == ["b"]
    assert run.groups_done("a") == {0}
    assert run.groups_done("unknown") == set()


def test_shards_with_the_same_name_do_not_lose_groups(run: Run, make_row: MakeRow) -> None:
    run.write_shard(KEY, [make_row(group=index, accuracy=0.1) for index in (0, 2, 5)])
    run.write_shard(KEY, [make_row(group=index, accuracy=0.2) for index in (0, 3, 5)])
    frame = run.frame()
    assert frame["group"].tolist() == [0, 2, 3, 5]
    assert frame["accuracy"].tolist() == [0.2, 0.1, 0.2, 0.2]


def test_a_finished_cell_can_be_given_more_groups(run: Run, make_row: MakeRow) -> None:
    run.write_shard(KEY, [make_row(group=0)])
    run.finish(KEY)
    run.finish(KEY)  # nothing new: nothing changes
    run.write_shard(KEY, [make_row(group=1)])
    assert run.groups_done(KEY) == {0, 1}
    run.finish(KEY)
    assert measured(run) == [(0, ""), (1, "")]
    assert names(run) == [f"{KEY}.parquet"]


def test_nothing_measured_cannot_be_finished(run: Run) -> None:
    with pytest.raises(StoreError, match="Nothing of the cell"):
        run.finish(KEY)
    assert not run.finished(KEY)


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a b", "a\n", "x.0-9", "é", "a" * 201])
def test_a_key_that_is_no_file_name_is_refused(run: Run, make_row: MakeRow, key: str) -> None:
    with pytest.raises(StoreError, match="cannot name a cell"):
        run.write_shard(key, [make_row(cell=key)])
    with pytest.raises(StoreError, match="cannot name a cell"):
        run.finished(key)
    assert names(run) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cell": "other"}, "cell other"),
        ({"accuracy": None}, "None.*accuracy"),
        ({"group": "first"}, "does not fit"),
        ({"seconds": "fast"}, "does not fit"),
    ],
)
def test_rows_that_do_not_fit_are_refused(run: Run, make_row: MakeRow, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run.write_shard(KEY, [make_row(), make_row(**change)])
    assert names(run) == []


def test_missing_and_unknown_columns_are_named(run: Run, make_row: MakeRow) -> None:
    row = make_row() | {"acc": 1.0}
    del row["accuracy"]
    with pytest.raises(ValueError, match="acc, accuracy"):
        run.write_shard(KEY, [row])
    with pytest.raises(ValueError, match="no rows"):
        run.write_shard(KEY, [])


# --- files from before columns were added

LATER = ["fit_flops", "test_flops", "parameters", "energy_joules", "precision", "threads", "split", "classes"]


def write_as_before(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """A file of rows with `columns`, sealed as it was when there were no others: over the values, column by column."""
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA).select(columns)
    digest = hashlib.sha256()
    for name in columns:
        text = pa.types.is_string(table[name].type)
        digest.update(json.dumps(table[name].to_pylist()).encode() if text else table[name].to_numpy().tobytes())
    metadata = {b"pudnet-bench.sha256": digest.hexdigest().encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_file_from_before_columns_were_added_is_read_and_gone_on_with(run: Run, make_row: MakeRow) -> None:
    before = [name for name in ROW_SCHEMA.names if name not in LATER]
    write_as_before(run.folder / "cells" / f"{KEY}.parquet", [make_row(group=0, accuracy=0.25)], before)
    assert run.finished(KEY)
    frame = run.frame()
    assert frame["accuracy"].tolist() == [0.25]
    assert frame[LATER[:4]].isna().all(axis=None)
    assert [frame[name].tolist() for name in LATER[4:]] == [[""], [0], [0], [""]]
    run.write_shard(KEY, [make_row(group=1)])
    run.finish(KEY)
    frame = run.frame()
    assert frame["fit_flops"].isna().tolist() == [True, False]
    assert (frame["precision"].tolist(), frame["threads"].tolist()) == (["", "fp32"], [0, 2])
    assert pq.read_schema(run.folder / "cells" / f"{KEY}.parquet").equals(ROW_SCHEMA)


@pytest.mark.parametrize("lost", ["epochs", "accuracy"])
def test_a_file_without_one_of_the_first_columns_is_damaged(run: Run, make_row: MakeRow, lost: str) -> None:
    columns = [name for name in ROW_SCHEMA.names if name not in (*LATER, lost)]
    write_as_before(run.folder / "cells" / f"{KEY}.parquet", [make_row()], columns)
    with pytest.warns(UserWarning, match="its columns are not those of a row"):
        assert not run.finished(KEY)


def test_a_changed_value_in_a_file_from_before_is_found(run: Run, make_row: MakeRow) -> None:
    before = [name for name in ROW_SCHEMA.names if name not in LATER]
    path = run.folder / "cells" / f"{KEY}.parquet"
    write_as_before(path, [make_row()], before)
    path.write_bytes(damage_in_a_page(path.read_bytes()))
    with pytest.warns(UserWarning, match="its checksum does not match"):
        assert not run.finished(KEY)


# --- crashes


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("step", ["before the rename", "before any removal", "between two removals"])
def test_finish_may_be_killed_anywhere(run: Run, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    for index in range(3):
        run.write_shard(KEY, [make_row(group=index)])
    before = run.frame().drop(columns="finished")
    removals = 0
    unlink = Path.unlink

    def killed_unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal removals
        if path.suffix == ".parquet":
            if removals == (1 if step == "between two removals" else 0):
                raise Killed
            removals += 1
        unlink(path, missing_ok=missing_ok)

    def killed_replace(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "before the rename":
            patch.setattr(os, "replace", killed_replace)
        else:
            patch.setattr(Path, "unlink", killed_unlink)
        with pytest.raises(Killed):
            run.finish(KEY)

    assert run.finished(KEY) == (step != "before the rename")
    assert run.groups_done(KEY) == {0, 1, 2}
    pd.testing.assert_frame_equal(run.frame().drop(columns="finished"), before)
    run.finish(KEY)
    pd.testing.assert_frame_equal(run.frame().drop(columns="finished"), before)
    assert names(run) == [f"{KEY}.parquet"]


def test_a_cell_measured_in_one_go_is_one_file(run: Run, make_row: MakeRow) -> None:
    assert run.complete(KEY, [make_row(group=index) for index in range(3)], 3)
    assert names(run) == [f"{KEY}.parquet"]
    assert run.finished(KEY)
    assert measured(run) == [(0, ""), (1, ""), (2, "")]


def test_the_last_of_several_processes_completes_a_cell(run: Run, make_row: MakeRow) -> None:
    other = Run.open(run.folder)
    assert not other.complete(KEY, [make_row(group=2, accuracy=0.5)], 3)
    assert not run.finished(KEY)
    assert run.groups_done(KEY) == {2}
    assert not run.complete(KEY, [], 3)
    # Group 2 was measured twice: what was there first counts.
    assert run.complete(KEY, [make_row(group=index, accuracy=0.1) for index in (0, 1, 2)], 3)
    assert names(run) == [f"{KEY}.parquet"]
    assert run.frame()["accuracy"].tolist() == [0.1, 0.1, 0.5]
    assert run.complete(KEY, [], 3)
    assert not run.complete(KEY, [make_row(group=3)], 5)  # more groups are asked for than before
    assert run.groups_done(KEY) == {0, 1, 2, 3}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_cannot_be_completed_keeps_what_was_there(
    run: Run, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.write_shard(KEY, [make_row(group=0)])

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, call, killed)
        with pytest.raises(Killed):
            run.complete(KEY, [make_row(group=1)], 2)
    assert names(run) == [f"{KEY}.0-0.parquet"]
    assert measured(run) == [(0, "")]
    assert run.complete(KEY, [make_row(group=1)], 2)
    assert measured(run) == [(0, ""), (1, "")]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_nothing_under_a_final_name(
    run: Run, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.write_shard(KEY, [make_row(group=0)])
    record = (run.folder / "record.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for write in (
            lambda: run.write_shard(KEY, [make_row(group=1)]),
            lambda: run.finish(KEY),
            lambda: run.end_invocation(CALL, "now", ()),
            lambda: write_atomically(run.folder / "record.json", b"{}"),
        ):
            with pytest.raises(OSError, match="No space left"):
                write()
    assert names(run) == [f"{KEY}.0-0.parquet"]
    assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "cells", "record.json"]
    assert (run.folder / "record.json").read_bytes() == record
    assert measured(run) == [(0, "")]


def test_write_atomically_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_leftover_temporary_files_are_not_cells(run: Run) -> None:
    (run.folder / "cells" / f".{KEY}.parquet.0123.tmp").write_bytes(b"half")
    (run.folder / "cells" / f".{KEY}.parquet").write_bytes(b"half")
    assert run.frame().empty
    assert not run.finished(KEY)


# --- damage


def damage_by_truncation(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_in_a_page(data: bytes) -> bytes:
    assert b"convnet3" in data
    return data.replace(b"convnet3", b"convnet4", 1)  # still a valid Parquet file: only the checksum tells


@pytest.mark.parametrize(
    "damage", [damage_by_truncation, damage_in_a_page, lambda _: b"", lambda _: b"PAR1 not at all PAR1", pickle.dumps]
)
def test_a_damaged_file_is_set_aside_and_measured_again(
    run: Run, make_row: MakeRow, damage: Callable[[bytes], bytes]
) -> None:
    for index in range(2):
        run.write_shard(KEY, [make_row(group=index)])
    shard = run.folder / "cells" / f"{KEY}.1-1.parquet"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.warns(UserWarning, match=r"pudnet-fashion\.1-1\.parquet is damaged"):
        assert run.groups_done(KEY) == {0}
    assert names(run) == [f"{KEY}.0-0.parquet", f"{KEY}.1-1.parquet.corrupt"]
    run.write_shard(KEY, [make_row(group=1)])
    run.finish(KEY)
    finished = run.folder / "cells" / f"{KEY}.parquet"
    finished.write_bytes(damage(finished.read_bytes()))
    with pytest.warns(UserWarning, match=r"pudnet-fashion\.parquet is damaged"):
        assert not run.finished(KEY)
    assert run.groups_done(KEY) == set()
    assert run.frame().empty


def test_a_cell_with_a_damaged_shard_does_not_count_as_finished(run: Run, make_row: MakeRow) -> None:
    for index in range(2):
        run.write_shard(KEY, [make_row(group=index)])
    (run.folder / "cells" / f"{KEY}.0-0.parquet").write_bytes(b"zeros")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(StoreError, match="run again"):
        run.finish(KEY)
    assert not run.finished(KEY)
    assert run.groups_done(KEY) == {1}


def test_a_changed_value_in_a_valid_file_is_found(run: Run, make_row: MakeRow) -> None:
    run.write_shard(KEY, [make_row()])
    path = run.folder / "cells" / f"{KEY}.0-0.parquet"
    table = pq.read_table(path)
    metadata = table.schema.metadata
    column = ROW_SCHEMA.get_field_index("accuracy")
    better = table.set_column(column, ROW_SCHEMA.field("accuracy"), pa.array([1.0]))
    pq.write_table(better.replace_schema_metadata(metadata), path)
    with pytest.warns(UserWarning, match="checksum"):
        assert run.frame().empty


def test_a_parquet_file_of_other_columns_is_set_aside(run: Run) -> None:
    pq.write_table(pa.table({"x": [1]}), run.folder / "cells" / "a.parquet")
    with pytest.warns(UserWarning, match="columns"):
        assert not run.finished("a")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_any_changed_byte_is_found_or_harmless(tmp_path: Path, make_row: MakeRow, where: float, flip: int) -> None:
    run = Run.create_or_open(tmp_path / "flipped", RECORD)
    run.write_shard(KEY, [make_row(group=0, accuracy=1 / 3)])
    before = run.frame()
    shard = run.folder / "cells" / f"{KEY}.0-0.parquet"
    data = bytearray(shard.read_bytes())
    data[int(where * len(data))] ^= flip
    shard.write_bytes(data)
    after = run.frame()
    if after.empty:
        shard.with_name(shard.name + ".corrupt").unlink()
    else:
        pd.testing.assert_frame_equal(after, before, check_exact=True)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    run: Run, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_shard(KEY, [make_row()])

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        with pytest.raises(PermissionError):
            run.frame()
    assert run.groups_done(KEY) == {0}


def test_a_curve_comes_back_as_it_was_kept(run: Run) -> None:
    curve = pd.DataFrame({"phase": ["final", "final"], "groups": [10, 20], "loss": [0.5, float("nan")]})
    run.save_curve("a", curve)
    found = run.curve("a")
    assert found is not None
    pd.testing.assert_frame_equal(found, curve)
    assert run.curve("b") is None


def test_what_was_derived_is_kept_by_name(run: Run) -> None:
    table = pd.DataFrame({"pair": [1, 2], "learned": [0.5, float("nan")]})
    assert run.derived("a", "correlations-1") is None
    run.save_derived("a", "correlations-1", table)
    found = run.derived("a", "correlations-1")
    assert found is not None
    pd.testing.assert_frame_equal(found, table)
    assert run.derived("a", "correlations-2") is None
    path = run.folder / "derived" / "a.correlations-1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="set aside"):
        assert run.derived("a", "correlations-1") is None


def test_parameters_come_back_stacked_in_the_order_asked_for(run: Run) -> None:
    for group in range(3):
        run.save_parameters("a", group, {"w": np.full(4, group, np.float32), "mean_image": np.arange(2.0)})
    found = run.parameters("a", [2, 0])
    assert found["w"].tolist() == [[2.0] * 4, [0.0] * 4]
    assert found["mean_image"].shape == (2, 2)
    assert run.parameters("a", []) == {}
    with pytest.raises(StoreError, match=r"3\.safetensors.* is missing, and its group is measured"):
        run.parameters("a", [0, 3])
    with pytest.raises(StoreError, match="cannot name a cell"):
        run.save_parameters("../a", 0, {"w": np.zeros(1)})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_curve_or_network_is_never_taken_for_what_was_kept(
    tmp_path: Path, where: float, flip: int, cut: bool
) -> None:
    run = Run.create_or_open(tmp_path / uuid.uuid4().hex, RECORD)
    curve = pd.DataFrame({"phase": ["search 1", "final"], "groups": [10, 20], "loss": [0.5, float("nan")]})
    run.save_curve("a", curve)
    run.save_parameters("a", 0, {"w": np.arange(20, dtype=np.float32)})
    for path in (run.folder / "curves" / "a.parquet", run.folder / "parameters" / "a" / "0.safetensors.sealed"):
        data = bytearray(path.read_bytes())
        place = int(where * len(data))
        data[place] ^= flip
        path.write_bytes(bytes(data[:place]) if cut else bytes(data))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found, kept = run.curve("a"), run.has_parameters("a", 0)
    if found is not None:  # a byte that no value depends on
        pd.testing.assert_frame_equal(found, curve)
    assert not kept
    assert sum("set aside" in str(warning.message) for warning in told) == 1 + (found is None)


def test_importing_the_room_is_instant_and_without_torch() -> None:
    code = (
        "import sys, pudnet_bench.results.rendering.tables, pudnet_bench.results.paper\n"
        "assert not {'pandas', 'pyarrow', 'scipy', 'torch'} & set(sys.modules)\n"
        "import pudnet_bench.results.analysis.costs, pudnet_bench.results.store.run, pudnet_bench.results.analysis.statistics\n"
        "assert not {'torch', 'scipy.stats', 'methods', 'suites', 'harness', 'slurm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the progress of all cells


def test_the_progress_of_all_cells_is_that_of_each(run: Run, make_row: MakeRow) -> None:
    for key, parts in {"a": [[0, 1], [3]], "a.b": [[5]], "c": [[1, 2]]}.items():
        for groups in parts:
            run.write_shard(key, [make_row(cell=key, group=group, snapshot=name) for group in groups for name in "xy"])
    run.finish("c")
    run.write_shard("c", [make_row(cell="c", group=7)])
    for verified in (False, True):
        found = run.progress(verified=verified)
        assert {key: each.groups.tolist() for key, each in found.items()} == {
            "a": [0, 1, 3],
            "a.b": [5],
            "c": [1, 2, 7],
        }
        assert {key for key, each in found.items() if each.finished} == {"c"}
    assert run.progress_of("c").finished
    assert run.progress_of("nothing").groups.tolist() == []


def test_damage_is_found_where_progress_is_verified(run: Run, make_row: MakeRow) -> None:
    run.write_shard("a", [make_row(cell="a", group=n) for n in range(100)])
    run.finish("a")
    path = run.folder / "cells" / "a.parquet"
    changed = pq.read_table(path)
    place = changed.column_names.index("accuracy")
    column = pa.array([0.123] * changed.num_rows)
    pq.write_table(changed.set_column(place, ROW_SCHEMA.field(place), column), path)
    assert len(run.progress(verified=False)["a"].groups) == 100
    with pytest.warns(UserWarning, match="its checksum does not match"):
        assert len(run.progress(verified=True)["a"].groups) == 0
    path.write_bytes(path.with_name("a.parquet.corrupt").read_bytes()[:-50])
    with pytest.warns(UserWarning, match="is damaged"):
        assert not run.progress(verified=False)["a"].finished
