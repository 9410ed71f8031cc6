"""The golden files are `render` of `golden/frame.csv` with the paper's Table 1; look at them before replacing one."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.results import paper
from pudnet_bench.results.analysis.effects import Effect
from pudnet_bench.results.analysis.intervals import estimate
from pudnet_bench.results.rendering.escaping import Format, escape_latex, escape_markdown
from pudnet_bench.results.rendering.tables import CSV_COLUMNS, TableLayout, TableRow, format_seconds, render, summarise
from tests.results.t_interval import mean_ci

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "a_b&c$%#{}~^\\|<>[x]*`\n→ ±"
MakeRow = Callable[..., dict[str, Any]]
Typesetting = Callable[..., list[Any]]


@pytest.mark.parametrize(("format", "name"), [("latex", "table.tex"), ("markdown", "table.md")])
def test_golden(golden_frame: pd.DataFrame, layout: TableLayout, format: Format, name: str) -> None:
    assert render(golden_frame, layout, format) == (GOLDEN / name).read_text()
    with_paper = render(golden_frame, layout, format, paper.load("table1"))
    assert with_paper == (GOLDEN / name.replace("table", "table-paper")).read_text()


def test_golden_csv(golden_frame: pd.DataFrame, layout: TableLayout) -> None:
    # Numbers to 12 digits: the last bit of a mean may differ between processors.
    expected = pd.read_csv(GOLDEN / "table-paper.csv")
    assert tuple(expected.columns) == CSV_COLUMNS
    text = render(golden_frame, layout, "csv", paper.load("table1"))
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), expected, rtol=1e-12, atol=0)
    without = pd.read_csv(io.StringIO(render(golden_frame, layout, "csv")))
    assert without.filter(like="paper").isna().all(axis=None)


def test_cells_by_hand(golden_frame: pd.DataFrame, layout: TableLayout) -> None:
    cells = {(cell.row.id, cell.column): cell for cell in summarise(golden_frame, layout)}
    cell = cells["pudnet", "fashion"]
    rows = golden_frame.query("method == 'pudnet' and family == 'fashion'")
    assert (cell.n, cell.seeds, cell.finished, cell.device) == (6, 2, True, "cpu")
    expected = mean_ci(rows["accuracy"].to_numpy())  # classes are not known: over the groups of both seeds
    assert (cell.unit, cell.splits, cell.half_widths) == ("groups", 1, {"groups": cell.accuracy_ci})
    assert cell.accuracy_mean == pytest.approx(100 * expected.mean)
    assert cell.accuracy_ci == pytest.approx(100 * expected.half_width)
    assert cell.seconds_mean == pytest.approx(0.031 + 1 / 1024, rel=1e-3)
    half = cells["adam@30", "cifar100"]
    assert (half.n, half.finished, half.unit, half.rank) == (3, False, "", "")
    assert math.isnan(half.accuracy_ci)  # three groups have none
    missing = cells["musml", "fashion"]
    assert (missing.n, missing.finished) == (0, True)
    assert math.isnan(missing.accuracy_mean)
    assert math.isnan(missing.seconds_median)
    assert list(dict.fromkeys(row for row, _ in cells))[-1] == "my_own|method"  # extra rows come last


def test_other_targets_are_left_out_and_other_families_follow(make_row: MakeRow, layout: TableLayout) -> None:
    frame = pd.DataFrame([make_row(), make_row(target="resnet18", method="x"), make_row(family="birds")])
    cells = summarise(frame, layout)
    assert {cell.row.id for cell in cells} == {row.id for row in layout.rows}
    assert [cell.column for cell in cells[:3]] == ["fashion", "cifar100", "birds"]
    assert "birds ACC (%)" in render(frame, layout, "markdown")


def test_a_method_with_numbers_has_no_row_without(make_row: MakeRow) -> None:
    """A planned row stays where its method has measured nothing yet, or has measured it for another family or device."""
    rows = tuple(
        TableRow(f"{method}@{name}", method, name, method) for method in ("own", "adam") for name in ("", "late")
    )
    layout = TableLayout("t", "T", rows, (("fashion", "F"), ("cifar100", "C")), "convnet3")

    def shown(*measured: dict[str, Any]) -> list[str]:
        cells = summarise(pd.DataFrame(measured), layout)
        return list(dict.fromkeys(cell.row.id for cell in cells))

    assert shown(make_row(method="own", target="resnet18")) == [row.id for row in rows]
    assert shown(make_row(method="own", snapshot="1 epochs")) == ["adam@", "adam@late", "own@1 epochs"]
    assert shown(make_row(method="own", snapshot="late")) == ["own@late", "adam@", "adam@late"]
    both = make_row(method="own"), make_row(method="own", family="cifar100", snapshot="late", device="gpu")
    assert shown(*both) == [row.id for row in rows]


@pytest.mark.parametrize("format", get_args(Format))
def test_times_of_two_devices_never_meet(make_row: MakeRow, layout: TableLayout, format: Format) -> None:
    frame = pd.DataFrame([make_row(seconds=1.25), make_row(device="NVIDIA H100", seconds=0.0025)])
    text = render(frame, layout, format)
    if format == "csv":
        times = {row["device"]: row["seconds_mean"] for row in csv.DictReader(io.StringIO(text)) if row["n"] == "1"}
        assert times == {"cpu": "1.25", "NVIDIA H100": "0.0025"}
        return
    parts = text.split(r"\end{table}" if format == "latex" else "\n\n**")[:2]
    assert [("1.25" in part, "0.00250" in part) for part in parts] == [(False, True), (True, False)]
    if format == "latex":
        assert re.findall(r"\\label\{(.*)\}", text) == ["tab:table1-nvidia-h100", "tab:table1-cpu"]


@pytest.mark.parametrize("format", get_args(Format))
def test_a_table_without_measurements(make_row: MakeRow, layout: TableLayout, format: Format) -> None:
    text = render(pd.DataFrame([make_row()]).head(0), layout, format, paper.load("table1"))
    assert "96.64" in text
    if format == "csv":
        assert {row["n"] for row in csv.DictReader(io.StringIO(text))} == {"0"}
    else:
        assert "Nothing is measured yet." in text
        assert "nan" not in text


@pytest.mark.parametrize("format", get_args(Format))
def test_a_row_of_another_name_has_the_papers_numbers_of_its_printed_row(
    make_row: MakeRow, layout: TableLayout, format: Format
) -> None:
    row = TableRow("pudnet-plain-loop", "pudnet-plain-loop", "", "PudNet, plain loop", printed_as="pudnet")
    frame = pd.DataFrame([make_row(method="pudnet-plain-loop")])
    assert "96.64" in render(frame, dataclasses.replace(layout, rows=(row,)), format, paper.load("table1"))


def test_cells_over_fewer_groups_carry_their_n(make_row: MakeRow, layout: TableLayout) -> None:
    full = [make_row(group=index) for index in range(7)]
    frame = pd.DataFrame([*full, make_row(method="protonet"), make_row(method="protonet", group=1)])
    text = render(frame, layout, "markdown")
    assert "over 7 groups." in text
    assert "| 90.00 (n=2) |" in text
    assert "(n=7)" not in text
    unfinished = render(frame.assign(finished=False), layout, "markdown")
    assert "(n=7)" in unfinished
    assert "(n=" not in render(pd.DataFrame(full), layout, "markdown")


@pytest.mark.parametrize("format", get_args(Format))
def test_times_of_two_thread_counts_never_enter_one_mean(
    make_row: MakeRow, layout: TableLayout, format: Format
) -> None:
    rows = [make_row(group=group, seconds=1.25) for group in range(4)]
    rows[0] |= {"threads": 8, "seconds": 1000.0}
    rows += [make_row(method="protonet", group=group, seconds=0.5) for group in range(4)]
    frame = pd.DataFrame(rows)
    text = render(frame, layout, format)
    if format == "csv":
        found = {row["row"]: row for row in csv.DictReader(io.StringIO(text)) if row["n"] == "4"}
        assert [found["pudnet"][name] for name in ("seconds_mean", "seconds_median", "threads")] == [
            "1.25",
            "1.25",
            "2",
        ]
        return
    assert "251" not in text
    assert "1.25" in text
    if format == "latex":
        assert "Marked a: time over the 3 groups with 2 threads." in text
        assert text.count(r"\rlap{$^{a}$}") == 1
    else:
        assert "| 1.25 (t=2) |" in text
        assert "| 0.500 |" in text
        assert "others had another thread count" in text
    pure = render(frame.assign(threads=1), layout, format)
    assert "thread" not in pure
    assert "(t=" not in pure


def test_the_best_of_a_column_is_bold_and_ties_are_too(make_row: MakeRow, layout: TableLayout) -> None:
    rows = [
        make_row(method=method, accuracy=accuracy, group=group)
        for method, accuracy in {"pudnet": 0.900001, "protonet": 0.9, "musml": 0.89}.items()
        for group in range(6)
    ]
    rows += [make_row(family="cifar100", method="musml", accuracy=0.1, group=group) for group in range(5)]
    text = render(pd.DataFrame(rows), layout, "latex")
    lines = {line.split("&")[0].strip(): line for line in text.splitlines() if "&" in line}
    bold = {name: line.count(r"\mathbf") for name, line in lines.items()}
    assert bold[r"\multicolumn{2}{@{}l}{PudNet}"] == bold[r"\multicolumn{2}{@{}l}{ProtoNet}"] == 1
    musml = lines[r"\multicolumn{2}{@{}l}{MUSML}"]
    assert r"\underline{$89.00 \pm 0.00$}" in musml
    assert r"& $10.00$\rlap" in musml  # of five groups there is no interval, and nothing is bold
    few = render(pd.DataFrame(rows[-5:]), layout, "markdown")
    assert "Bold" not in few
    assert "**10.00" not in few
    assert "Mean over 5 groups: too few groups for an interval." in few


def of_splits(make_row: MakeRow, splits: int, groups: int, **changes: Any) -> list[dict[str, Any]]:
    """Groups of two of four unseen classes, other ones in each split; each split has its own training."""
    draw = np.random.default_rng(0)
    pairs = list(combinations(range(4), 2))
    return [
        make_row(
            split=split, seed=split, group=group, accuracy=0.9 + draw.normal(0, 0.01),
            classes=" ".join(str((each + split) % 10) for each in pairs[group % 6]), **changes,
        )
        for split in range(splits)
        for group in range(groups)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("splits", "unit", "units", "sentence"),
    [
        (1, "classes", {"classes", "groups"}, "for new classes, from one class split and training: class-effects model, 12 "
         "groups of 4 unseen classes. Meta-trained on 50 to 400 groups; time in seconds"),
        (3, "classes", {"classes"}, "for new classes and trainings: class-effects model over 3 class splits of 12 groups, "
         "each with its own training."),
        (6, "splits", {"splits", "classes"}, "for new classes and trainings: t over 6 class splits of 12 groups, each with "
         "its own training."),
    ],
)  # fmt: skip
def test_the_table_has_the_most_general_interval_and_the_csv_all(
    make_row: MakeRow, layout: TableLayout, splits: int, unit: str, units: set[str], sentence: str
) -> None:
    rows = of_splits(make_row, splits, 12, training_groups=400.0)
    rows += of_splits(make_row, splits, 12, method="protonet", training_groups=50.0)
    frame = pd.DataFrame(rows)
    assert f"Mean ± 95% CI {sentence}" in render(frame, layout, "markdown")
    row = next(csv.DictReader(io.StringIO(render(frame, layout, "csv"))))
    assert (row["row"], row["interval"], row["splits"], row["seeds"]) == ("protonet", unit, str(splits), str(splits))
    assert row["accuracy_ci"] == row[f"ci_{unit}"]
    assert {name for name in ("splits", "classes", "groups") if row[f"ci_{name}"]} == units
    ours = [part for part in rows if part["method"] == "protonet"]
    known = estimate(pd.DataFrame(ours), [100 * part["accuracy"] for part in ours])
    assert float(row["accuracy_mean"]) == pytest.approx(known.mean)
    for name in units:
        assert float(row[f"ci_{name}"]) == pytest.approx(known.half_width(unit=name))  # type: ignore[arg-type]


def test_fewer_splits_than_the_caption_says_are_marked(make_row: MakeRow, layout: TableLayout) -> None:
    frame = pd.DataFrame([*of_splits(make_row, 5, 6), *of_splits(make_row, 2, 6, method="musml")])
    assert "(n=12, 2 splits)" in render(frame, layout, "markdown")
    assert "Marked a: over 2 class splits of 6 groups. Bold" in render(frame, layout, "latex")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0312345, "0.0312"),
        (26, "26.0"),
        (133.48, "133"),
        (1234.5, "1230"),
        (9.999, "10.0"),
        (0, "0.00"),
        (2e-6, "0.00000200"),
    ],
)
def test_seconds_have_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_an_unknown_format_is_named(golden_frame: pd.DataFrame, layout: TableLayout) -> None:
    with pytest.raises(ValueError, match="'html'"):
        render(golden_frame, layout, "html")  # type: ignore[arg-type]


# --- hostile names


def hostile(frame: pd.DataFrame, layout: TableLayout) -> tuple[pd.DataFrame, TableLayout]:
    frame = frame.assign(method=frame["method"].replace("my_own|method", HOSTILE), device=HOSTILE)
    rows = tuple(
        dataclasses.replace(row, label=HOSTILE, group_label=row.group_label and HOSTILE) for row in layout.rows
    )
    columns = tuple((family, HOSTILE) for family, _ in layout.columns)
    return frame, dataclasses.replace(layout, name=HOSTILE, title=HOSTILE, rows=rows, columns=columns)


def test_hostile_names_keep_the_grid_of_markdown(golden_frame: pd.DataFrame, layout: TableLayout) -> None:
    lines = render(*hostile(golden_frame, layout), "markdown").splitlines()
    counts = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines[2:]}
    assert counts == {7}  # two label columns, two families with two columns each
    assert len(lines) == 2 + 2 + 6


def test_hostile_names_survive_csv(golden_frame: pd.DataFrame, layout: TableLayout) -> None:
    rows = list(csv.DictReader(io.StringIO(render(*hostile(golden_frame, layout), "csv"))))
    assert {row["table"] for row in rows} == {HOSTILE}
    assert rows[-1]["row"] == HOSTILE


@given(st.text(st.sampled_from("ab \\|`*_{}[]<>~$&#\n")))
def test_markdown_escapes_can_be_undone(text: str) -> None:
    escaped = escape_markdown(text)
    assert re.sub(r"\\([\\`*_{}\[\]<>|~$&#])", r"\1", escaped) == " ".join(text.split())
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_<`]", escaped)


def test_an_option_keeps_its_hyphens() -> None:
    assert escape_latex("run --out a---b ''") == "run -{}-out a-{}-{}-b '{}'"


@given(st.text(st.sampled_from("ab \\|*_{}[]<>~^$&#%\n")))
def test_latex_escapes_are_balanced_and_inert(text: str) -> None:
    escaped = escape_latex(text)
    commands = r"\\text[a-z]+\{\}|\\[&%$#_{}]|\{[\[*]\}"
    assert not set("\\{}&%$#_^~\n") & set(re.sub(commands, "", escaped))


# --- LaTeX for real


PAPERS = {
    "article": r"\documentclass{article}",
    "two columns": r"\documentclass[twocolumn]{article}\usepackage[letterpaper,margin=0.75in]{geometry}",
}


def in_place(page: Any) -> None:
    """Nothing of the page is outside the block of its text, give or take two dots."""
    assert page.block[0] - 1 <= page.ink[0] < page.ink[1] <= page.block[1] + 1


def words(text: str) -> str:
    """`text` without line breaks, and without the hyphens that TeX puts before them."""
    return " ".join(re.sub(r"-\n\s*", "", text).split())


def whole_table1(make_row: MakeRow) -> tuple[pd.DataFrame, TableLayout]:
    """The widest of the paper's tables: every row and family of its Table 1, about as the paper has it."""
    draw, numbers = np.random.default_rng(0), paper.load("table1")
    rows, measured = {}, []
    for printed in numbers.to_dict("records"):
        method, _, epochs = printed["row"].partition("@")
        label = f"{epochs} epochs" if epochs else printed["printed"]
        block = {"adam": "Adam scratch", "gc": "GC"}.get(method, "")
        rows[printed["row"]] = TableRow(printed["row"], method, f"{epochs} epochs" if epochs else "", label, block)
        seconds = 0.00304 if math.isnan(printed["seconds"]) else printed["seconds"]
        row = make_row(method=method, snapshot=rows[printed["row"]].snapshot, family=printed["column"], seconds=seconds,
                       device="AMD EPYC 9R14 96-Core Processor, 2 cores")  # fmt: skip
        accuracies = np.clip(printed["value"] / 100 + draw.normal(0, 0.04, 20 if epochs else 100), 0, 1)
        measured += [{**row, "group": group, "accuracy": value} for group, value in enumerate(accuracies)]
    families = (("fashion", "Fashion-set"), ("cifar100", "CIFAR100-set"), ("imagenet", "ImageNet-set"))
    layout = TableLayout("table1", "Accuracy and time, target ConvNet-3", tuple(rows.values()), families, "convnet3")
    return pd.DataFrame(measured).assign(finished=True), layout


@pytest.mark.parametrize("document", PAPERS)
def test_the_widest_table_fits_the_text_of_a_paper(document: str, make_row: MakeRow, typeset: Typesetting) -> None:
    frame, layout = whole_table1(make_row)
    numbers = paper.load("table1")
    tables = [render(frame, layout, "latex", shown) for shown in (None, numbers)]
    if document == "two columns":
        tables = [table.replace("{table}", "{table*}") for table in tables]
    for page, printed in zip(typeset(*tables, preamble=PAPERS[document]), (None, numbers), strict=True):
        in_place(page)
        heights = dict(page.heights)
        assert heights["Pretrained"] > 0.7 * heights["Accuracy"]  # of the caption's ten points: it can still be read
        text = words(page.text)
        for part in (
            "Accuracy and time, target ConvNet-3. Mean ± 95% CI for these classes and this training only: t over 100 groups.",
            "on AMD EPYC 9R14 96-Core Processor, 2 cores in fp32. Marked a: over 20 groups. Bold: the best of a column",
            "Underlined: the best of the rest.",
        ):
            assert part in text
        for cell in summarise(frame, layout):
            assert f"{cell.accuracy_mean:.2f} ± {cell.accuracy_ci:.2f}" in text
            assert format_seconds(cell.seconds_mean) in text
            assert cell.row.label in text
            assert cell.row.group_label in text
        assert text.count("paper") == (0 if printed is None else len(layout.rows) + 1)
        for number in () if printed is None else printed.to_dict("records"):
            assert f"{number['value']:.2f} ± {number['ci']:.2f}" in text


def test_a_table_that_fits_keeps_its_size(golden_frame: pd.DataFrame, make_row: MakeRow, typeset: Typesetting) -> None:
    layout = TableLayout(
        "table9", "Embeddings", (TableRow("pudnet", "pudnet", "", "Mean"),), (("fashion", "F"),), "convnet3"
    )
    (page,) = typeset(render(golden_frame[golden_frame["method"] == "pudnet"], layout, "latex"))
    in_place(page)
    assert "Embeddings. Mean ± 95% CI for these classes and these trainings only: t over 6 groups." in words(page.text)
    assert "on cpu in fp32." in words(page.text)
    assert dict(page.heights)["Method"] == pytest.approx(dict(page.heights)["ACC"])
    assert dict(page.heights)["Method"] > 0.85 * dict(page.heights)["Embeddings."]  # \\small, and no smaller


def with_controls(frame: pd.DataFrame, layout: TableLayout) -> tuple[pd.DataFrame, TableLayout]:
    """The frame with a control of PudNet in a section of its own, half a point below it, and its effect."""
    own = frame[frame["method"] == "pudnet"]
    control = own.assign(method="pudnet-other", cell="c", accuracy=own["accuracy"] - 0.005 - own["group"] / 1000)
    row = TableRow("pudnet-other", "pudnet-other", "", "Another group's & more", section="Controls, 100%")
    effect = Effect("the dataset", "pudnet", "pudnet-other")
    labels = {"pudnet": "PudNet", "pudnet-other": row.label}
    return pd.concat([frame, control]), dataclasses.replace(
        layout, rows=(*layout.rows, row), effects=(effect,), labels=labels
    )


def test_a_section_has_a_heading_and_the_table_ends_with_the_effects(
    golden_frame: pd.DataFrame, layout: TableLayout, typeset: Typesetting
) -> None:
    frame, whole = with_controls(golden_frame, layout)
    markdown = render(frame, whole, "markdown")
    lines = markdown.splitlines()
    heading = next(place for place, line in enumerate(lines) if line.startswith("| *Controls, 100%* |"))
    assert lines[heading + 1].startswith(r"| Another group's \& more |")
    end = lines[-1].replace("\\", "")
    assert end.startswith("Effect of the dataset (PudNet minus Another group's & more): +")
    assert " points on Fashion-set" in end
    (page,) = typeset(render(frame, whole, "latex"))
    in_place(page)
    text = words(page.text)
    assert "Controls, 100%" in text
    assert end.partition(": ")[0] in text.replace("’", "'")
    assert text.index("my own|method") < text.index("Controls, 100%") < text.index("more 9")
    assert render(golden_frame, layout, "markdown") in render(
        golden_frame, dataclasses.replace(whole, rows=layout.rows), "markdown"
    )


def test_hostile_names_are_typeset(golden_frame: pd.DataFrame, layout: TableLayout, typeset: Typesetting) -> None:
    numbers = paper.load("table1")
    frame, other = hostile(golden_frame, layout)
    flat = dataclasses.replace(layout, rows=(TableRow("pudnet", "pudnet", "", "[PudNet]"),))
    pages = typeset(
        render(golden_frame, layout, "latex", numbers),
        render(frame, other, "latex", numbers),
        render(golden_frame[golden_frame["method"] == "pudnet"], flat, "latex"),
        render(golden_frame.head(0), layout, "latex", numbers),
    )
    for page in pages:
        in_place(page)
    assert "[PudNet]" in pages[2].text
    assert "Nothing is measured yet." in words(pages[3].text)


def test_cells_over_fewer_groups_have_a_mark_for_each_number(make_row: MakeRow, layout: TableLayout) -> None:
    rows = [make_row(group=group) for group in range(3)]
    rows += [make_row(method="protonet", family="cifar100", group=group) for group in range(2)]
    frame = pd.DataFrame(rows).assign(finished=True)
    frame.loc[frame["method"] == "protonet", "finished"] = False
    text = render(
        pd.concat([frame, pd.DataFrame([make_row(method="musml")])]).fillna({"finished": True}), layout, "latex"
    )
    assert "Mean over 3 groups: too few groups for an interval." in text
    assert "Marked a: over 2 groups, not finished; b: over 1 group." in text
    assert [text.count(rf"\rlap{{$^{{{mark}}}$}}") for mark in "abc"] == [1, 1, 0]
