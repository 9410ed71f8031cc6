"""The page: its numbers are those of the tables, nothing in a name acts, it loads nothing, and it stays small."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pudnet_bench.results import paper
from pudnet_bench.results.analysis import costs
from pudnet_bench.results.analysis.effects import Effect
from pudnet_bench.results.analysis.intervals import PAIR, estimate, estimate_difference
from pudnet_bench.results.rendering.charts import Level, Point, Series, chart
from pudnet_bench.results.rendering.interval_text import NONE
from pudnet_bench.results.rendering.report.model import LearningCurve, ReportedRun
from pudnet_bench.results.rendering.report.page import page
from pudnet_bench.results.rendering.tables import (
    TableCell,
    TableLayout,
    TableRow,
    format_accuracy,
    format_seconds,
    notes,
    summarise,
)
from pudnet_bench.results.store.run_record import Invocation, PlannedCell, PlannedVariant, PlanRecord, RunRecord
from tests.results.t_interval import mean_ci

HOSTILE = (
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '" onclick="alert(1)', "' onfocus='alert(1)",
    "{{ 7 * 7 }}", "<!-- <script>", "]]>", "&lt;b&gt;", "a\u2028b\nc", "x\u202ey", "\x1b[31mred", "名前", "a" * 300, "\ud800",
    "</style>", "--></title>",
)  # fmt: skip
VOID = {"meta", "link", "input", "img", "br", "hr"}


class Parsed(HTMLParser):
    """The page's elements as (tag, attributes, text inside), in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element: tuple[str, dict[str, str | None], list[str]] = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def texts(self, *tags: str, **attributes: str) -> list[str]:
        return [
            "".join(text).strip()
            for tag, own, text in self.elements
            if tag in tags and all(own.get(name) == value for name, value in attributes.items())
        ]

    def data(self) -> dict[str, Any]:
        (text,) = self.texts("script", id="data")
        return json.loads(text)


def record_of(layout: TableLayout, frame: pd.DataFrame, **changes: Any) -> RunRecord:
    """The record of a run, for the rows of a layout."""
    cells = frame.groupby("cell")[["method", "family", "target", "split", "seed"]].first().reset_index()
    call = Invocation(
        command="python -m harness run table1", started="2026-01-01T00:00:00+00:00", commit="abc123", device="cpu",
        versions={"python": "3.11", "torch": "2.14"}, precision="fp32", threads=2, platform="Linux",
    )  # fmt: skip
    record = RunRecord(
        suite=layout.name,
        profile="standard",
        device="cpu",
        precision="fp32",
        plan=PlanRecord(
            title=layout.title,
            reference="pudnet",
            targets=(layout.target,),
            families=layout.columns,
            variants=tuple(
                PlannedVariant(name=method, label=LABELS.get(method, method))
                for method in dict.fromkeys(row.method for row in layout.rows)
            ),
            cells=tuple(PlannedCell(key=cell.pop("cell"), groups=4, **cell) for cell in cells.to_dict("records")),
        ),
        invocations=(call, replace(call, commit="def456", command="python -m harness run table1 --seeds 1")),
    )
    return replace(record, **changes)


LABELS = {"pudnet": "PudNet"}


@pytest.fixture
def run(golden_frame: pd.DataFrame, layout: TableLayout) -> ReportedRun:
    frame = golden_frame.assign(artifact="")
    return ReportedRun("runs/one", record_of(layout, frame), frame, [layout], paper.load("table1"))


def test_the_numbers_are_those_of_the_table(run: ReportedRun) -> None:
    parsed = Parsed(page([run]))
    (layout,) = run.layouts
    numbers = parsed.data()["numbers"]
    shown: dict[str, list[tuple[str, str]]] = {}
    for tag, own, text in parsed.elements:
        if tag == "td" and own.get("data-key"):
            shown.setdefault(str(own["data-key"]), []).append((str(own["data-value"]), "".join(text)))
    measured = [cell for cell in summarise(run.frame, layout) if cell.n]
    keys = iter(key for key in shown if key.startswith("n"))
    for cell in measured:  # the first table has them in the same order
        key = next(keys)
        accuracy, seconds, n = shown[key][:3]
        rows = run.frame[(run.frame[["method", "snapshot", "family"]] == [*place_of(cell), cell.column]).all(axis=1)]
        expected = estimate(rows, 100 * rows["accuracy"])
        assert float(accuracy[0]) == expected.mean
        assert accuracy[1] == format_accuracy(expected.mean, expected.half_width(), "±")
        assert (float(seconds[0]), seconds[1]) == (cell.seconds_mean, format_seconds(cell.seconds_mean))
        assert (int(n[0]), "not finished" in n[1]) == (cell.n, not cell.finished)
        facts = dict(numbers[key]["facts"])
        assert facts["groups"] == str(cell.n)
        assert len(facts["seeds"].split(", ")) == cell.seeds
        assert facts["accuracy"].startswith(accuracy[1])
        assert facts["device"] == cell.device
    classes = [own.get("class", "") for tag, own, _ in parsed.elements if tag == "td"]
    for rank in ("best", "second"):
        assert sum(rank in str(name).split() for name in classes) == sum(cell.rank == rank for cell in measured) > 0


def place_of(cell: TableCell) -> tuple[str, str]:
    return cell.row.method, cell.row.snapshot


SPLITS = {0: (0, 1, 2, 3), 1: (2, 3, 4, 5), 2: (6, 7, 8, 9)}
NAMES = tuple(f"class {letter}" for letter in "abcdefghij")


@pytest.fixture
def several(make_row: Callable[..., dict[str, Any]], layout: TableLayout) -> ReportedRun:
    """PudNet far better than ProtoNet, MUSML as good as that, on 6 groups of each of three class splits."""
    draw = np.random.default_rng(0)
    rows = [
        make_row(
            cell=f"{method}-c{split}", method=method, split=split, seed=split, group=group, classes=f"{b} {a}",
            accuracy=level + 0.01 * a + draw.uniform(0, 0.02), family="fashion",
        )
        for method, level in (("pudnet", 0.8), ("protonet", 0.5), ("musml", 0.5))
        for split, classes in SPLITS.items()
        for group, (a, b) in enumerate(itertools.combinations(classes, 2))
    ]  # fmt: skip
    frame = pd.DataFrame(rows).assign(finished=True)
    record = record_of(layout, frame)
    plan = replace(record.plan, class_names={"fashion": NAMES})
    return ReportedRun("runs/splits", replace(record, plan=plan), frame, [layout], paper.load("table1"))


def test_a_number_lists_its_splits_their_classes_and_what_its_interval_is_about(several: ReportedRun) -> None:
    parsed = Parsed(page([several]))
    claim = "new classes and trainings: class-effects model, 10 classes of 3 class splits"
    facts = [dict(number["facts"]) for key, number in parsed.data()["numbers"].items() if key.startswith("n")]
    assert len(facts) == 3
    for number in facts:
        assert number["accuracy"].endswith(f" % (95% interval for {claim})")
        assert number["class splits"] == number["seeds"] == "0, 1, 2"
        for split, classes in SPLITS.items():
            assert number[f"unseen classes of split {split}"] == ", ".join(NAMES[each] for each in classes)
        assert "other 95% intervals" not in number  # three splits give none of their own
    notes = parsed.texts("p")
    assert any(
        f"3 class splits, each of which weighs the same. ± is the 95% interval for {claim}." in one for one in notes
    )
    assert (
        sum(text.startswith(f"Means over 3 class splits. Bars are 95% intervals for {claim}.") for text in notes) == 2
    )
    heads = [text.removesuffix(" ↕") for text in parsed.texts("th")]
    assert "Class split" in heads


def test_the_other_intervals_of_a_number_are_told_too(several: ReportedRun) -> None:
    one = replace(several, frame=several.frame[several.frame["split"] == 0])
    key = next(iter(one.estimates))
    rows = one.frame[one.frame["method"] == key[2]]
    (numbers,) = [
        dict(number["facts"]) for number in Parsed(page([one])).data()["numbers"].values()
        if number["title"] == "PudNet, Fashion-set"
    ]  # fmt: skip
    half = mean_ci(100 * rows["accuracy"].to_numpy()).half_width
    assert "for new classes: class-effects model, 4 classes" in numbers["accuracy"]
    assert numbers["other 95% intervals"] == (f"± {half:.2f} for these classes and this training only: t over groups")


def test_rows_without_class_ids_claim_no_more_than_their_groups(several: ReportedRun) -> None:
    old = replace(several, frame=several.frame.assign(classes="", split=0, seed=several.frame["split"]))
    text = page([old])
    assert "± is the 95% interval for these classes and these trainings only: t over groups." in text
    assert "unseen classes of split" not in text
    few = replace(several, frame=several.frame[several.frame["group"] < 1], printed=several.printed[:0])
    text = page([few])
    assert NONE in text
    assert "±" not in "".join(Parsed(text).texts("td"))


def test_pairs_of_methods_have_verdicts_that_their_intervals_agree_with(several: ReportedRun) -> None:
    (scatter,) = Parsed(page([several])).data()["scatters"]
    (family,) = scatter["families"]
    assert [len(line) for line in family["pairs"]] == [0, 1, 2]
    rows = {label: several.frame[several.frame["method"] == method] for method, label in zip(
        ("protonet", "musml", "pudnet"), scatter["rows"], strict=True)}  # fmt: skip
    for i, line in enumerate(family["pairs"]):
        for j, pair in enumerate(line):
            found = estimate_difference(rows[scatter["rows"][i]], rows[scatter["rows"][j]])
            if not found.unit:
                assert (pair["low"], pair["high"], pair["differs"], pair["about"]) == (None, None, False, "")
                continue
            half = found.half_width(pair["confidence"] / 100)
            assert pair["mean"] == pytest.approx(found.mean, abs=1e-3)
            assert [pair["low"], pair["high"]] == pytest.approx([found.mean - half, found.mean + half], rel=0.01)
            assert pair["differs"] == (not pair["low"] <= 0 <= pair["high"])
            assert pair["differs"] == ("PudNet" in (scatter["rows"][i], scatter["rows"][j]))
            assert pair["about"].startswith("new classes and trainings: class-effects model")
    few = replace(several, frame=several.frame[several.frame["group"] < 1])
    (pair, *_) = Parsed(page([few])).data()["scatters"][0]["families"][0]["pairs"][1]
    assert (pair["low"], pair["high"], pair["differs"], pair["about"]) == (None, None, False, "")


def test_every_number_says_where_it_comes_from(run: ReportedRun) -> None:
    parsed = Parsed(page([run]))
    data = parsed.data()
    keys = {own["data-key"] for _, own, _ in parsed.elements if "data-key" in own}
    assert keys == set(data["numbers"])
    for key, number in data["numbers"].items():
        facts = dict(number["facts"])
        if key.startswith("p"):
            assert facts["source"] == "the paper's table1, as printed"
            continue
        assert re.search(r"cells/\S+\.parquet", facts["file"])
        common = dict(data["runs"][number["run"]]["facts"])
        assert common["commit, one of"] == "abc123; def456"
        assert {"command, one of", "versions", "device of the run", "precision", "profile"} <= common.keys()
    numeric = [own for tag, own, text in parsed.elements if tag == "td" and re.match(r"\d+\.\d\d ± ", "".join(text))]
    assert numeric
    assert all("data-key" in own for own in numeric)
    text = " ".join(parsed.texts("section"))
    for cell in run.frame["cell"].unique():  # and once more in full, for paper and for browsers without scripts
        assert f"cells/{cell}" in text


def test_the_papers_numbers_are_a_layer_where_there_are_any(run: ReportedRun) -> None:
    parsed = Parsed(page([run]))
    assert parsed.texts("input", id="paper") == [""]
    printed = [text for text in parsed.texts("td") if text == "96.64 ± 0.34"]
    assert printed  # PudNet on Fashion-set, as the paper prints it
    bare = Parsed(page([replace(run, printed=paper.load("no such table"))]))
    assert not bare.texts("input", id="paper")
    assert not [
        own for tag, own, _ in bare.elements if tag in ("td", "th") and "paper" in str(own.get("class")).split()
    ]


def test_costs_and_break_evens_are_those_of_costs(run: ReportedRun) -> None:
    parsed = Parsed(page([run]))
    tables = [text for text in parsed.texts("table") if text.startswith("Break-even with PudNet")]
    assert len(tables) == 1
    values = [float(own["data-value"] or "nan") for tag, own, _ in parsed.elements if tag == "td" and "data-value" in own
              and re.fullmatch(r"[\d.e+-]*", str(own["data-value"]))]  # fmt: skip
    for row in costs.break_evens(run.frame, "pudnet").to_dict("records"):
        for name in ("fit_seconds", "reference_accuracy"):
            assert row[name] in values
        if not math.isnan(row["break_even_epoch"]):
            assert row["break_even_epoch"] in values
    for row in costs.method_costs(run.frame).to_dict("records"):
        for name in ("fit_seconds", "evaluation_seconds", "peak_memory_bytes", "fit_flops", "test_flops", "parameters"):
            assert row[name] in values


def test_the_reference_is_called_by_its_label(run: ReportedRun) -> None:
    plan = run.record.plan
    text = page([replace(run, record=replace(run.record, plan=replace(plan, reference="protonet")))])
    names = [text for text in Parsed(text).texts("caption") if text.startswith("Break-even")]
    assert names == ["Break-even with protonet"]
    text = page([replace(run, record=replace(run.record, plan=replace(plan, reference="")))])
    assert "Break-even" not in text


def test_times_of_two_thread_counts_are_marked(run: ReportedRun) -> None:
    assert "(t=" not in page([run])
    ours = run.frame.index[(run.frame["method"] == "pudnet") & (run.frame["family"] == "fashion")]
    mixed = run.frame.copy()
    mixed.loc[ours[0], ["threads", "seconds"]] = [8, 1000.0]
    parsed = Parsed(page([replace(run, frame=mixed)]))
    mean = mixed.loc[ours[1:], "seconds"].mean()
    assert f"{format_seconds(mean)} (t=2)" in parsed.texts("td")
    assert any("others had another thread count" in text for text in parsed.texts("p"))
    assert f"{len(ours)} ({len(ours) - 1} with 2 threads)" in parsed.texts("td")  # of the costs
    (facts,) = [dict(number["facts"]) for number in parsed.data()["numbers"].values() if "threads" in str(number["facts"])
                and dict(number["facts"])["threads"] == "2, 8"]  # fmt: skip
    assert facts["time"].endswith(f"over the {len(ours) - 1} groups with 2 threads")


def cost_table(run: ReportedRun) -> tuple[list[str], str]:
    """The heads of the table of costs, and the note below it."""
    parsed = Parsed(page([run]))
    tags = [(tag, "".join(text).strip()) for tag, _, text in parsed.elements]
    first = tags.index(("caption", "Costs"))
    heads = [text for tag, text in tags[first : tags.index(("th", "n"), first) + 1] if tag == "th"]
    return heads, next(text for tag, text in tags[first:] if tag == "p")


def test_costs_have_the_columns_of_which_something_is_known(run: ReportedRun) -> None:
    heads, note = cost_table(run)
    assert heads == [
        "Method", "Family", "meta-training", "fit", "evaluation", "data", "peak memory MB", "parameters million",
        "fit GFLOPs", "test image MFLOPs", "n",
    ]  # fmt: skip
    assert note.startswith("ConvNet-3, cpu. Means over the n groups")  # what all rows share
    assert note.endswith("Not known of this run: energy (J).")
    with_energy = replace(run, frame=run.frame.assign(energy_joules=1.5, fit_flops=math.nan, test_flops=math.nan))
    heads, note = cost_table(with_energy)
    assert "energy J" in heads
    assert not any("FLOPs" in head for head in heads)
    assert "other work and idling included" in note
    assert note.endswith("Not known of this run: fit (GFLOPs), test image (MFLOPs).")


def test_accuracy_against_flops_where_they_are_known(run: ReportedRun) -> None:
    def titles(frame: pd.DataFrame) -> list[str]:
        found = Parsed(page([replace(run, frame=frame)])).texts("figcaption")
        return [title for title in found if title.startswith("Accuracy against FLOPs")]

    families = ["Accuracy against FLOPs, Fashion-set", "Accuracy against FLOPs, CIFAR100-set"]
    assert titles(run.frame) == families
    shown_titles = Parsed(page([run])).texts("title")
    assert any(re.search(r"PudNet: .* % in 0\.05 GFLOPs \(n = \d+\)", text) for text in shown_titles)
    partly = run.frame.assign(fit_flops=run.frame["fit_flops"].mask(run.frame["family"] == "fashion"))
    assert titles(partly) == families[1:]
    assert titles(run.frame.assign(fit_flops=math.nan)) == []


def test_hostile_names_are_text(run: ReportedRun, make_row: Callable[..., dict[str, Any]]) -> None:
    plain = [own.keys() | {tag} for tag, own, _ in Parsed(page([run])).elements]
    for name in HOSTILE:
        safe = name.encode(errors="replace").decode()  # a column of text takes no half of a character, a record does
        rows = [
            make_row(
                cell="c", method=method, snapshot=safe, family=safe, target=safe, device=safe, group=group,
                accuracy=0.5 + 0.1 * group, epochs=epochs, artifact=safe,
            )
            for method, epochs in ((safe, 1.0), ("pudnet", math.nan)) for group in range(3)
        ]  # fmt: skip
        frame = pd.DataFrame(rows).assign(finished=True)
        layout = TableLayout(safe, name, (TableRow(safe, safe, safe, name, name),), ((safe, name),), safe)
        words = dict.fromkeys(("table", "row", "column", "target", "printed", "note"), safe)
        printed = pd.DataFrame([{**words, "value": 1.0, "ci": 0.1, "seconds": 2.0}])
        points = pd.DataFrame([{"curve": safe, "column": safe, "target": safe, "x": 3.0, "value": 1.0, "ci": 0.1}])
        hostile = ReportedRun(
            name,
            record_of(layout, frame, device=name, invocations=(
                Invocation(command=name, started=name, commit=name, platform=name, versions={name: name}, driver=name),
            )),
            frame, [layout], printed,
            LearningCurve(name, True, {safe: (safe, 1.0), "pudnet": (safe, 2.0)}, points),
            losses().assign(family_label=safe, target_label=safe), {name: correlations()},
        )  # fmt: skip
        text = page([hostile, hostile])
        assert text.replace("\n", "").isprintable()
        parsed = Parsed(text)
        text.encode()
        assert {tag for tag, _, _ in parsed.elements} <= set().union(*plain) | {"nav", "li", "ul", "rect", "polygon"}
        assert not [key for _, own, _ in parsed.elements for key in own if key.startswith("on")]
        assert [own.get("type") for tag, own, _ in parsed.elements if tag == "script"] == ["application/json", None]
        assert "49" not in parsed.texts("h1")[0]
        assert len(parsed.data()["runs"]) == 2
        links = [str(own.get("href")) for _, own, _ in parsed.elements if "href" in own]
        assert all(link.startswith(("#", "data:,")) for link in links)


def test_nothing_is_loaded(run: ReportedRun) -> None:
    text = page([run])
    parsed = Parsed(text)
    (policy,) = [own["content"] for _, own, _ in parsed.elements if own.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    assert not [own for _, own, _ in parsed.elements if "src" in own or "srcset" in own or "xlink:href" in own]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg"
    }  # the name of SVG in the script


def test_ids_are_unique_with_several_runs(run: ReportedRun) -> None:
    ids = [own["id"] for _, own, _ in Parsed(page([run, run, run])).elements if "id" in own]
    assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_page(run: ReportedRun) -> None:
    assert page([run]) == page([run])


def test_devices_have_tables_of_their_own(run: ReportedRun) -> None:
    slow = run.frame.assign(device="another, slower")
    parsed = Parsed(page([replace(run, frame=pd.concat([run.frame, slow], ignore_index=True))]))
    assert [text for text in parsed.texts("h3") if text.startswith("ConvNet-3")] == [
        "ConvNet-3, on another, slower",
        "ConvNet-3, on cpu",
    ]


def test_the_effect_of_what_controls_are_denied_comes_before_the_table(several: ReportedRun) -> None:
    (layout,) = several.layouts
    rows = tuple(replace(row, section="Controls" if row.method == "musml" else "") for row in layout.rows)
    effect = Effect("<the dataset>", "pudnet", "musml")
    shown = replace(layout, rows=rows, effects=(effect,), labels={"pudnet": "PudNet", "musml": "MUSML"})
    text = page([replace(several, layouts=(shown,))])
    (sentence,) = Parsed(text).texts("p", **{"class": "effect"})
    (expected,) = notes(several.frame, shown)["cpu"]
    assert sentence == expected
    assert sentence.startswith("Effect of <the dataset> (PudNet minus MUSML): +")
    assert text.index('class="effect"') < text.index("<table>")
    assert "MUSML (controls)" in Parsed(text).texts("th", scope="row")
    assert not Parsed(page([several])).texts("p", **{"class": "effect"})


def test_a_run_without_rows_says_so(run: ReportedRun) -> None:
    parsed = Parsed(page([replace(run, frame=run.frame[:0])]))
    assert any(text.startswith("Nothing is measured yet") for text in parsed.texts("p"))
    assert not parsed.texts("figure")
    with pytest.raises(ValueError, match="no runs"):
        page([])


def test_the_scatter_has_every_group_of_every_row(run: ReportedRun) -> None:
    (scatter,) = Parsed(page([run])).data()["scatters"]
    assert "PudNet" in scatter["rows"][scatter["y"]]
    for family, name in zip(scatter["families"], ("fashion", "cifar100"), strict=True):
        rows = run.frame[run.frame["family"] == name]
        assert len(family["groups"]) == len(rows[PAIR].drop_duplicates())
        safe = [value for row in family["accuracies"] for value in row if value is not None]
        assert sorted(safe) == sorted((100 * rows["accuracy"]).round(3).tolist())


def test_accuracy_against_epochs_only_where_something_trains_from_scratch(run: ReportedRun) -> None:
    assert any(text.startswith("Accuracy against epochs") for text in Parsed(page([run])).texts("figcaption"))
    still = replace(run, frame=run.frame[run.frame["epochs"].isna()])
    titles = Parsed(page([still])).texts("figcaption")
    assert any(text.startswith("Accuracy against time") for text in titles)
    assert not any(text.startswith("Accuracy against epochs") for text in titles)


def test_learning_curves_with_the_papers_points(run: ReportedRun) -> None:
    points = pd.DataFrame(
        [{"curve": "PudNet", "column": "fashion", "target": "convnet3", "x": 50, "value": 45.0, "ci": 0.5}]
    )
    curve = LearningCurve("groups seen", True, {"protonet": ("Net", 10.0), "pudnet": ("Net", 100.0)}, points)
    parsed = Parsed(page([replace(run, printed=run.printed[:0], curve=curve)]))
    assert "Accuracy against groups seen" in parsed.texts("h3")
    assert parsed.texts("input", id="paper") == [""]
    shown_titles = parsed.texts("title")
    assert any(text.startswith("Net at 100: ") and text.endswith(")") for text in shown_titles)
    assert "PudNet at 50: 45.00 ± 0.50 %" in shown_titles


def losses(steps: int = 40, **changes: Any) -> pd.DataFrame:
    """Of one meta-training: falling, with one spike of a single step."""
    groups = 10 * np.arange(1, steps + 1)
    metric = np.exp(-groups / groups[-1])
    metric[steps // 2] = 50.0
    place = {
        "family": "fashion",
        "family_label": "Fashion-set",
        "target": "convnet3",
        "target_label": "ConvNet-3",
        "split": 0,
        "seed": 0,
    }
    return pd.DataFrame({"groups": groups, "metric_loss": metric, "loss": metric + 1.0}).assign(**{**place, **changes})


def correlations() -> pd.DataFrame:
    pairs = np.arange(1, 4)
    table = pd.DataFrame({"pair": pairs, "n": 50})
    for suffix, height in (("", 0.6), ("_held_out", 0.0)):
        table[f"learned{suffix}"] = height + 0.1 - 0.05 * pairs
        for end, by in (("mean", 0.0), ("low", -0.2), ("high", 0.3)):
            table[f"random{suffix}_{end}"] = height + by
    return table


def drawings(parsed: Parsed) -> list[tuple[str, dict[str, str | None]]]:
    return [(tag, own) for tag, own, _ in parsed.elements if tag in ("polyline", "polygon", "circle", "line")]


def test_losses_of_each_training_with_their_means_by_quarter(run: ReportedRun) -> None:
    both = pd.concat([losses(), losses(seed=1), losses(1000, family="cifar100", family_label="CIFAR100-set")])
    text = page([replace(run, losses=both)])
    parsed = Parsed(text)
    assert "Losses in meta-training" in parsed.texts("h3")
    titles = [text for text in parsed.texts("figcaption") if "seed" in text]
    assert titles == ["Fashion-set, ConvNet-3, seed 0", "CIFAR100-set, ConvNet-3, seed 0"]
    lines = [
        own for tag, own in drawings(parsed) if tag == "polyline" and own["class"] in ("line d0", "line d6", "faint")
    ]
    assert [line["class"] for line in lines] == ["faint", "faint", "line d0", "line d6"] * 2
    assert len(str(lines[4]["points"]).split()) <= 500
    assert all(12 <= float(place.split(",")[1]) <= 280 for line in lines for place in str(line["points"]).split())
    shown_titles = parsed.texts("title")
    first = losses()["metric_loss"].iloc[0]
    assert f"L1 metric at 10 groups: {first:.3g}" in shown_titles
    assert sum(text.startswith("total at ") for text in shown_titles) == 40 + 100
    (table,) = [text for text in parsed.texts("table") if text.startswith("Mean losses by quarter")]
    for quarter in np.split(losses()["loss"].to_numpy(), 4):
        assert f"{quarter.mean():.3g}" in table
    assert "L3" not in table  # the others were not trained on


def test_correlations_with_what_shuffled_pairs_have(run: ReportedRun) -> None:
    parsed = Parsed(page([replace(run, correlations={"Fashion-MNIST": correlations()})]))
    assert "Correlation of datasets and trained parameters" in parsed.texts("h3")
    assert "Fashion-MNIST (n = 50)" in parsed.texts("figcaption")
    bands = [own for tag, own in drawings(parsed) if own.get("class") == "band"]
    assert [len(str(band["points"]).split()) for band in bands] == [6, 6]
    shown_titles = parsed.texts("title")
    assert "learned, pair 1: 0.650" in shown_titles
    assert "random, held out, pair 3: 0.000 (-0.200 to 0.300)" in shown_titles
    (table,) = [
        text.split() for text in parsed.texts("table") if text.startswith("Canonical correlations, Fashion-MNIST")
    ]
    assert table[-10:] == ["0.550", "0.600", "0.400", "to", "0.900", "-0.050", "0.000", "-0.200", "to", "0.300"]


def test_one_method_alone_is_compared_with_nothing(run: ReportedRun) -> None:
    alone = run.frame[(run.frame["method"] == "adam") & (run.frame["snapshot"] == "1 epochs")]
    assert not [t for t in Parsed(page([replace(run, frame=alone)])).texts("figcaption") if t.startswith("Accuracy")]


def test_five_hundred_groups_of_twenty_rows_are_small(make_row: Callable[..., dict[str, Any]]) -> None:
    draw = np.random.default_rng(0)
    families = (("fashion", "Fashion-set"), ("cifar100", "CIFAR100-set"), ("imagenet", "ImageNet-set"))
    rows = tuple(TableRow(f"m{number}", f"m{number}", "", f"Method {number}") for number in range(19))
    rows = (*rows, TableRow("pudnet", "pudnet", "", "PudNet"))
    layout = TableLayout("table1", "Everything", rows, families, "convnet3")
    parts = []
    for row in rows:
        for family, _ in families:
            base = make_row(cell=f"{row.method}-{family}", method=row.method, family=family, meta_train_seconds=10.0)
            part = pd.DataFrame([base] * 500)
            noise = draw.uniform(0.5, 1, 500), draw.uniform(0.01, 0.02, 500)
            epochs = 5.0 if row.method in ("m3", "m4") else math.nan
            parts.append(
                part.assign(group=range(500), accuracy=noise[0], seconds=noise[1], epochs=epochs, finished=True)
            )
    frame = pd.concat(parts, ignore_index=True)
    run = ReportedRun("runs/large", record_of(layout, frame), frame, [layout], paper.load("table1"))
    started = time.perf_counter()
    text = page([run])
    seconds = time.perf_counter() - started
    print(f"500 groups of 20 rows in 3 families: {len(text.encode()) / 1e6:.2f} MB in {seconds:.2f} s")
    assert len(text.encode()) < 4e6


# --- Charts -------------------------------------------------------------------------------------------------------


NUMBERS = st.floats(1e-6, 1e6)
POINTS = st.lists(
    st.builds(Point, NUMBERS, st.floats(0, 100), st.floats(0, 50) | st.just(math.nan)), min_size=1, max_size=8
)


@settings(deadline=None)
@given(POINTS, st.booleans(), st.sampled_from(HOSTILE))
def test_charts_stay_inside_and_are_xml(points: list[Point], log_x: bool, name: str) -> None:
    series = [Series(name, tuple(replace(point, title=name) for point in points), style) for style in range(9)]
    drawing = chart(name, series, name, name, x_scale="log" if log_x else "linear", levels=[Level(name, 50.0, 60.0, 0)])
    root = ET.fromstring(f"<div>{drawing}</div>")
    svg = root.find(".//svg[@viewBox='0 0 480 330']")
    assert svg is not None
    for element in svg.iter():
        for attribute, most in (
            ("x", 480),
            ("x1", 480),
            ("x2", 480),
            ("cx", 480),
            ("y", 330),
            ("y1", 330),
            ("y2", 330),
        ):
            if attribute in element.attrib:
                assert -0.1 <= float(element.attrib[attribute]) <= most + 0.1
    labels = [text for text in svg.iter("text") if text.get("text-anchor") == "middle"]
    assert 1 <= len(labels) - 2 <= 8  # ticks, beside the names of the two axes


def test_a_given_range_is_the_whole_axis() -> None:
    points = tuple(Point(x, y) for x, y in ((1, 0.5), (2, 0.7), (3, 99.0)))
    drawing = chart("a", [Series("a", points, 0, "line")], "x", "y", y_range=(0.0, 1.0))
    root = ET.fromstring(f"<div>{drawing}</div>")
    assert [text.text for text in root.iter("text") if text.get("text-anchor") == "end"] == [
        "0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1",
    ]
    (line,) = root.iter("polyline")
    heights = [float(place.split(",")[1]) for place in line.attrib["points"].split()]
    assert heights[0] > heights[1] > heights[2] == 12.0  # what is beyond it ends at its edge


def test_ticks_are_round_numbers() -> None:
    def ticks(x: list[float], **options: Any) -> list[str]:
        points = tuple(Point(value, 50.0) for value in x)
        root = ET.fromstring(f"<div>{chart('a', [Series('a', points, 0)], 'x', 'y', **options)}</div>")
        return [str(text.text) for text in root.iter("text") if text.get("text-anchor") == "middle"][:-2]

    assert ticks([0, 10]) == ["0", "2", "4", "6", "8", "10"]
    assert ticks([1, 2], x_scale="whole") == ["1", "2"]
    assert ticks([0.001, 1], x_scale="log") == ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1"]
    assert ticks([0.016, 0.028], x_scale="log") == ["0.016", "0.018", "0.02", "0.022", "0.024", "0.026", "0.028"]
    assert ticks([100, 100_000], x_scale="log") == ["100", "300", "1k", "3k", "10k", "30k", "100k"]
    assert len(ticks([1e-6, 1e9], x_scale="log")) <= 8


def test_charts_refuse_what_they_cannot_show() -> None:
    with pytest.raises(ValueError, match="no points"):
        chart("none", [], "x", "y")
    with pytest.raises(ValueError, match="positive"):
        chart("zero", [Series("a", (Point(0.0, 1.0),), 0)], "x", "y", x_scale="log")
