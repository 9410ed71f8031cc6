"""What differs between two runs is listed, and nothing else."""

from dataclasses import replace
from typing import Any

from pudnet_bench.results.analysis.conditions import differing
from pudnet_bench.results.store.run_record import Invocation, PlanRecord, RunRecord

CALL = Invocation(
    command="python -m harness run table1 --methods protonet --out runs/a", started="2026-01-01", commit="a" * 40,
    version="1.0", device="cpu", precision="fp32", threads=2, load_start=(0.51, 0.4, 0.3), prototype_classifier="learn2learn",
)  # fmt: skip


def record(*calls: Invocation, **changes: Any) -> RunRecord:
    base = RunRecord(
        suite="table1", profile="quick", device="cpu", precision="fp32", plan=PlanRecord(title="t"), invocations=calls
    )
    return replace(base, **changes)


def test_equal_conditions_give_no_line() -> None:
    elsewhere = "python -m harness run table1 --methods=protonet --paper --out runs/b --cache /somewhere"
    again = replace(CALL, started="2026-02-02", ended="2026-02-03", load_start=(0.52, 9.0, 9.0), command=elsewhere)
    assert differing(record(CALL), record(again)) == []
    assert differing(record(CALL), record(CALL, again)) == []


def test_every_condition_has_its_line() -> None:
    other = Invocation(
        command="python -m harness run table1 --methods protonet --training-groups 200 --clock paper", started="later",
        commit="b" * 40, version="1.1", device="H100", precision="bf16", threads=8, prototype_classifier="methods.metric",
    )  # fmt: skip
    b = record(other, suite="table4", profile="standard", device="H100", precision="bf16")
    assert differing(record(CALL), b) == [
        "suite A table1, B table4",
        "profile A quick, B standard",
        "device A cpu, B H100",
        "precision A fp32, B bf16",
        "threads A 2, B 8",
        "version A 1.0, B 1.1",
        "commit A aaaaaaaaaaaa, B bbbbbbbbbbbb",
        "prototype classifier A learn2learn, B methods.metric",
        "load A 0.5, B none",
        "options A none, B --clock paper --training-groups 200",
    ]


def test_all_invocations_count() -> None:
    second = replace(CALL, commit="b" * 40, threads=8, load_start=(3.0, 1.0, 1.0), command="resume runs/a --seeds '0,1")
    assert differing(record(CALL), record(CALL, second)) == [
        "threads A 2, B 2 and 8",
        "commit A aaaaaaaaaaaa, B aaaaaaaaaaaa and bbbbbbbbbbbb",
        "load A 0.5, B 0.5 to 3.0",
        "options A none, B --seeds '0,1",
    ]
