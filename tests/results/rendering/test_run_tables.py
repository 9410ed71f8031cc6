"""What is written beside a run: provenance in LaTeX, tables that belong together, and two runs compared."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.results.rendering.run_tables import compare_runs, provenance_comments, table_text, write_tables
from pudnet_bench.results.store.files import StoreError
from pudnet_bench.results.store.run import Run
from pudnet_bench.results.store.run_record import Invocation, PlannedCell, PlannedVariant, PlanRecord, RunRecord

CALL = Invocation(
    command="python -m harness run table1", started="2026-01-01T00:00:00+00:00", commit="abc123def456789", precision="fp32",
    threads=2,
)  # fmt: skip
VARIANTS = tuple(PlannedVariant(name=name, label=name) for name in ("pudnet", "protonet"))
MakeRun = Callable[..., Run]


def record(*cells: PlannedCell, suite: str = "table1", **changes: Any) -> RunRecord:
    plan = PlanRecord(
        title="A table",
        reference="pudnet",
        targets=("convnet3",),
        families=(("fashion", "F"),),
        variants=VARIANTS,
        cells=cells,
    )
    base = RunRecord(suite=suite, profile="quick", device="cpu", precision="fp32", plan=plan, invocations=(CALL,))
    return replace(base, **changes)


@pytest.fixture
def make_run(tmp_path: Path, make_row: Callable[..., dict[str, Any]]) -> MakeRun:
    """`make_run("a", pudnet="key", ...)`: a run of eight groups of two splits for each method, in cells key-0 and key-1."""

    def make(name: str, shift: float = 0.0, suite: str = "table1", **keys: str) -> Run:
        cells = [
            PlannedCell(
                key=f"{key}-{split}", method=method, family="fashion", target="convnet3", split=split, seed=split, groups=8
            )
            for method, key in keys.items()
            for split in (0, 1)
        ]  # fmt: skip
        run = Run.create_or_open(tmp_path / name, record(*cells, suite=suite))
        for cell in cells:
            rows = [
                make_row(
                    cell=cell.key, suite=suite, method=cell.method, split=cell.split, seed=cell.seed, group=group,
                    accuracy=0.8 + 0.01 * (group % 3) + shift,
                    classes=f"{group % 4} {(group + 1 + group // 4) % 4 + 4 * cell.split}",
                )
                for group in range(8)
            ]  # fmt: skip
            run.write_shard(cell.key, rows)
            run.finish(cell.key)
        return run

    return make


def test_latex_begins_with_its_provenance(make_run: MakeRun) -> None:
    run = make_run("a", pudnet="x", protonet="y")
    text = write_tables(run, with_paper=False)["table1.tex"]
    assert text == table_text(run, "latex", with_paper=False)
    plan = re.escape("% record: record.json, sha256 of its cells' keys ")
    expected = f"% command: python -m harness run table1\n% commit: abc123def456\n{plan}[0-9a-f]{{16}}\n% needs "
    assert re.match(expected, text)
    for format in ("markdown", "csv"):
        assert "commit" not in table_text(run, format, with_paper=False)


def test_several_splits_have_a_table_of_what_to_buy_next(make_run: MakeRun) -> None:
    run = make_run("a", pudnet="x")
    (head, *lines) = write_tables(run, with_paper=False)["table1-variance.csv"].splitlines()
    assert head.startswith("family,target,device,method,snapshot,source,units,")
    assert [line.split(",")[5] for line in lines][-1] == "group"
    assert (run.folder / "tables" / "table1-variance.md").is_file()
    plan = replace(run.record.plan, cells=run.record.plan.cells[:1])
    one = Run(run.folder, replace(run.record, plan=plan))
    assert "table1-variance.csv" not in write_tables(one, with_paper=False)


def test_each_command_is_named_once_with_its_commit() -> None:
    later = replace(CALL, started="later", load_start=(1.0,))
    other = replace(CALL, commit="", command="python -m harness resume runs/a")
    lines = provenance_comments(record(invocations=(CALL, later, other))).splitlines()
    assert lines[:-1] == [
        "% command: python -m harness run table1",
        "% commit: abc123def456",
        "% command: python -m harness resume runs/a",
        "% commit: none",
    ]
    cell = PlannedCell(key="k", method="m", family="f", target="t", split=0, seed=0, groups=1)
    assert provenance_comments(record()) == provenance_comments(record(invocations=(CALL, later)))
    assert provenance_comments(record(cell)) != provenance_comments(record())


@given(st.text())
def test_no_command_leaves_its_comment(command: str) -> None:
    text = provenance_comments(record(invocations=(replace(CALL, command=command),)))
    assert len(text.splitlines()) == text.count("\n") == 3
    assert all(line.startswith("% ") for line in text.splitlines())


def test_runs_of_two_suites_share_cells_of_the_same_key(make_run: MakeRun) -> None:
    a = make_run("a", pudnet="x", protonet="y")
    b = make_run("b", shift=0.1, suite="table4", pudnet="x", protonet="other")
    rows = list(csv.DictReader(io.StringIO(compare_runs(a, b, "csv"))))
    assert [(row["method"], row["same_cell"], row["n"], row["splits"]) for row in rows] == [
        ("pudnet", "True", "16", "2")
    ]
    assert float(rows[0]["difference"]) == pytest.approx(10)
    assert "differs: suite A table1, B table4" in compare_runs(a, b, "markdown")
    with pytest.raises(StoreError, match=r"have measured no cell of the same key: there is nothing to compare\."):
        compare_runs(a, make_run("c", suite="table4", pudnet="z"), "csv")


def test_runs_of_one_suite_share_places_too(make_run: MakeRun) -> None:
    a, b = make_run("a", pudnet="x", protonet="y"), make_run("b", pudnet="x", protonet="other")
    rows = list(csv.DictReader(io.StringIO(compare_runs(a, b, "csv"))))
    assert {row["method"]: row["same_cell"] for row in rows} == {"protonet": "False", "pudnet": "True"}
    assert "differs" not in compare_runs(a, b, "markdown")
    with pytest.raises(StoreError, match="have measured no method on the same family and target"):
        compare_runs(make_run("c", pudnet="x"), make_run("d", protonet="y"), "csv")
