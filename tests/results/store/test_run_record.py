"""Every format on disk is read, what is written comes back, and what is wrong is named."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pudnet_bench.results.rendering.run_tables import write_tables
from pudnet_bench.results.store.files import StoreError, checksummed_json, read_checksummed_json
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import (
    FORMAT,
    MANIFEST,
    Invocation,
    PlannedCell,
    PlannedVariant,
    PlanRecord,
    RunRecord,
    decode,
    encode,
)

FORMAT_2 = Path(__file__).parent / "format_2"
FORMAT_1 = Path(__file__).parents[3] / "results/published/growth-cpu"
RECORD = RunRecord(
    suite="table1",
    profile="quick",
    device="cpu",
    precision="fp32",
    plan=PlanRecord(
        title="ä \u2028",
        reference="own",
        paper_groups={"digits": 10},
        targets=("convnet3",),
        families=(("digits", "Digits-set"),),
        variants=(PlannedVariant(name="own", label="Own", snapshots=(("1 epochs", ""), ("2", "x")), curve_x=0.5),),
        cells=(
            PlannedCell(
                key="a", method="own", family="digits", target="convnet3", split=1, seed=3, groups=2, artifact="b"
            ),
        ),
    ),
    invocations=(Invocation(command="run", started="now", versions={"torch": "2"}, threads=2, load_start=(0.5, 1.0)),),
)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A run that the last version with format 2 made: PudNet, ProtoNet and Adam on two groups of digits."""
    return Path(shutil.copytree(FORMAT_2, tmp_path / "older"))


def test_a_record_comes_back_as_it_was_written() -> None:
    assert decode(encode(RECORD)) == RECORD
    assert json.loads(encode(RECORD))["format"] == FORMAT


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("suite",), 1, "the record.suite is damaged: 1"),
        (("plan", "cells", 0, "groups"), "two", "the record.plan.cells[0].groups is damaged"),
        (("plan", "cells", 0, "seed"), True, "the record.plan.cells[0].seed is damaged"),
        (("plan", "families", 0), ["digits"], "the record.plan.families[0] has 1 items, not 2"),
        (("invocations",), {}, "the record.invocations is damaged"),
        (("invocations", 0, "versions"), [], "the record.invocations[0].versions is damaged"),
        (("invocations", 0, "colour"), "red", "the record.invocations[0] has an unknown field 'colour'"),
        (("format",), 6, "it is of format 6, and this version of pudnet-bench reads 2 to 5"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(
    tmp_path: Path, path: tuple[Any, ...], value: Any, complaint: str
) -> None:
    values = read_checksummed_json(encode(RECORD))
    inner: Any = values
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (tmp_path / "record.json").write_bytes(checksummed_json(values))
    with pytest.raises(StoreError) as error:
        Run.open(tmp_path)
    assert complaint in str(error.value)
    assert "repeat the `run` command" in str(error.value)


def test_a_missing_field_is_named() -> None:
    values = read_checksummed_json(encode(RECORD))
    del values["plan"]["reference"]
    with pytest.raises(ValueError, match=r"the record\.plan lacks 'reference'"):
        decode(checksummed_json(values))


def test_a_record_of_format_3_has_class_split_0() -> None:
    values = read_checksummed_json(encode(RECORD))
    del values["plan"]["class_names"]
    for cell in values["plan"]["cells"]:
        del cell["split"]
    (planned,) = RECORD.plan.cells
    expected = replace(RECORD, plan=replace(RECORD.plan, cells=(replace(planned, split=0),)))
    assert decode(checksummed_json({**values, "format": 3})) == expected
    del values["plan"]["cells"]
    with pytest.raises(ValueError, match="a field of format 3 is missing or damaged: 'cells'"):
        decode(checksummed_json({**values, "format": 3}))


def test_a_record_of_format_4_has_neither_sections_nor_controls() -> None:
    values = read_checksummed_json(encode(RECORD))
    for variant in values["plan"]["variants"]:
        for name in ("section", "control_of", "effect"):
            del variant[name]
    assert decode(checksummed_json({**values, "format": 4})) == RECORD


def test_format_2_is_read_with_what_it_did_not_say(older: Path) -> None:
    run = Run.open(older)
    assert (run.record.suite, run.record.precision, run.record.plan.reference) == ("table1", "fp32", "pudnet")
    (call,) = run.record.invocations
    assert call.command.startswith("python -m harness run table1 --methods pudnet,protonet,adam")
    assert (call.threads, call.precision, call.prototype_classifier) == (2, "fp32", "learn2learn")
    assert call.started <= call.ended
    assert len(call.load_start) == 3
    assert call.versions["torch"].startswith("2.")
    progress = run.progress(verified=True)
    assert all(progress[cell.key].covers(cell) for cell in run.record.plan.cells)
    rows = run.planned_frame()
    assert len(rows) == 2 + 2 + 2 * 3
    assert set(rows["precision"]) == {"fp32"}
    assert set(rows["threads"]) == {2}
    assert [path.name for path in sorted(older.iterdir())] == ["cells", "manifest.json", "tables"]  # nothing is written


def test_means_of_format_2_are_what_they_were(older: Path) -> None:
    """Its intervals are no longer given: two groups say nothing."""
    before = {path.name: path.read_text() for path in (older / "tables").iterdir()}
    after = write_tables(Run.open(older), with_paper=False)
    assert len(before) == 4
    intervals = {"accuracy_ci", "low", "high", "p_value"}
    for name, text in before.items():
        rows = list(csv.DictReader(io.StringIO(after[name])))
        assert {row.get("threads", "2") for row in rows if row.get("n") != "0"} == {"2"}
        expected = list(csv.DictReader(io.StringIO(text)))
        kept = expected[0].keys() - intervals
        assert [{name: row[name] for name in kept} for row in rows] == [
            {name: row[name] for name in kept} for row in expected
        ]
        assert {row[name] for row in rows for name in row.keys() & intervals} <= {""}


def test_the_first_write_puts_a_record_beside_the_manifest(older: Path, make_row: Any) -> None:
    manifest = (older / "manifest.json").read_bytes()
    before = Run.open(older)
    call = Invocation(command="again", started="later", precision="fp32", threads=8)
    newer = RunRecord(
        suite="table1", profile="quick", device=before.record.device, precision="fp32",
        plan=PlanRecord(title="newer", reference="pudnet"), invocations=(call,),
    )  # fmt: skip
    run = Run.create_or_open(older, newer)
    assert (older / "manifest.json").read_bytes() == manifest
    assert run.record == Run.open(older).record
    assert run.record.invocations == (*before.record.invocations, call)
    (older / "manifest.json").write_text("{}")  # is ignored from then on
    key = run.record.plan.cells[0].key
    run.write_shard(key, [make_row(cell=key, group=7, threads=8)])
    rows = Run.open(older).frame([key])
    assert rows["threads"].tolist() == [2] * (len(rows) - 1) + [8]


def test_format_2_with_a_damaged_field_is_refused(older: Path) -> None:
    values = read_checksummed_json((older / "manifest.json").read_bytes())
    del values["threads"]
    with pytest.raises(ValueError, match="a field of format 2 is missing or damaged: 'threads'"):
        decode(checksummed_json(values), MANIFEST)
    with pytest.raises(ValueError, match="a field of format 2 is missing or damaged"):
        decode(checksummed_json({**values, "threads": 2, "plan": []}), MANIFEST)
    with pytest.raises(ValueError, match="it is of format 1, and"):
        decode(checksummed_json({**values, "format": 1}), MANIFEST)


def test_a_manifest_of_format_1_is_refused_in_a_sentence() -> None:
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read \((it has no checksum|it is of format None)"):
        Run.open(FORMAT_1)
