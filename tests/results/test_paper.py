import math
from pathlib import Path

import pandas as pd
import pytest

from results import paper

METHODS = ["pretrained", "matchnet", "protonet", "meta-baseline", "meta-deepbdc", "musml"]
SCRATCH = [f"{method}@{epochs}" for method in ("adam", "gc") for epochs in (1, 30, 50)]
ROWS = [*METHODS, *SCRATCH, "pudnet"]
UNTIMED = METHODS[:5]
TABLES = [("table1", "convnet3"), ("table2", "resnet18")]

# Read off the printed tables by eye: row, column, ACC, +-, seconds (None where the paper prints "-").
BY_HAND = {
    "table1": [
        ("pretrained", "fashion", 94.12, 0.63, None),
        ("matchnet", "cifar100", 47.75, 0.73, None),
        ("protonet", "imagenet", 49.59, 0.88, None),
        ("meta-baseline", "fashion", 94.85, 0.31, None),
        ("meta-deepbdc", "cifar100", 60.52, 0.41, None),
        ("musml", "imagenet", 54.03, 0.94, 1.22),
        ("adam@1", "fashion", 91.07, 1.11, 0.87),
        ("adam@30", "cifar100", 64.54, 0.40, 28.37),
        ("adam@50", "imagenet", 67.25, 0.69, 133.48),
        ("gc@1", "imagenet", 40.74, 1.32, 2.67),
        ("gc@30", "fashion", 99.98, 0.01, 26.01),
        ("gc@50", "cifar100", 71.56, 0.63, 50.22),
        ("pudnet", "fashion", 96.64, 0.34, 0.03),
        ("pudnet", "imagenet", 59.31, 0.64, 0.03),
    ],
    "table2": [
        ("pretrained", "imagenet", 65.67, 0.73, None),
        ("matchnet", "fashion", 90.16, 0.53, None),
        ("protonet", "cifar100", 60.29, 0.59, None),
        ("meta-deepbdc", "imagenet", 68.48, 0.60, None),
        ("musml", "fashion", 95.87, 0.44, 2.55),
        ("adam@1", "cifar100", 52.82, 1.01, 3.96),
        ("adam@30", "fashion", 99.91, 0.05, 54.22),
        ("adam@50", "fashion", 99.87, 0.11, 91.19),
        ("gc@1", "cifar100", 53.21, 1.23, 4.01),
        ("gc@30", "imagenet", 72.89, 0.73, 140.98),
        ("gc@50", "fashion", 99.96, 0.03, 91.73),
        ("pudnet", "cifar100", 73.33, 0.54, 0.49),
        ("pudnet", "imagenet", 71.57, 0.71, 0.50),
    ],
}


@pytest.mark.parametrize(("table", "target"), TABLES)
def test_every_printed_cell_is_there_once(table: str, target: str) -> None:
    frame = paper.load(table)
    assert tuple(frame.columns) == paper.COLUMNS
    printed = list(zip(frame["row"], frame["column"], strict=True))
    assert printed == [(row, column) for row in ROWS for column in ("fashion", "cifar100", "imagenet")]
    assert set(frame["table"]) == {table}
    assert set(frame["target"]) == {target}


@pytest.mark.parametrize(("table", "target"), TABLES)
def test_values_are_in_range(table: str, target: str) -> None:
    frame = paper.load(table)
    assert frame["value"].between(40, 100).all()
    assert frame["ci"].between(0.01, 1.4).all()
    assert (frame["value"] + frame["ci"] <= 100).all()
    untimed = frame["row"].isin(UNTIMED)
    assert frame.loc[untimed, "seconds"].isna().all()
    assert frame.loc[~untimed, "seconds"].between(0.03, 240).all()
    # Fifty epochs take longer than thirty, and thirty longer than one.
    seconds = frame.set_index(["row", "column"])["seconds"]
    for method in ("adam", "gc"):
        for column in ("fashion", "cifar100", "imagenet"):
            assert seconds[f"{method}@1", column] < seconds[f"{method}@30", column] < seconds[f"{method}@50", column]


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "ci", "seconds"),
    [(table, *numbers) for table, rows in BY_HAND.items() for numbers in rows],
)
def test_values_by_hand(table: str, row: str, column: str, value: float, ci: float, seconds: float | None) -> None:
    numbers = {(number["row"], number["column"]): number for number in paper.load(table).to_dict("records")}
    number = numbers[row, column]
    assert (number["value"], number["ci"]) == (value, ci)
    assert math.isnan(number["seconds"]) if seconds is None else number["seconds"] == seconds


@pytest.mark.parametrize(("table", "target"), TABLES)
def test_numbers_stand_in_the_file_as_printed(table: str, target: str) -> None:
    text = (Path(paper.__file__).parent / f"{table}.csv").read_text().splitlines()[1:]
    for line in text:
        for number in line.split(",")[4:7]:
            assert number == "" or len(number.split(".")[1]) == 2  # two decimals, "0.40" too


@pytest.mark.parametrize("table", ["table99", "", "../paper/table1"])
def test_a_table_the_paper_lacks_is_empty(table: str) -> None:
    frame = paper.load(table)
    assert frame.empty
    assert tuple(frame.columns) == paper.COLUMNS
    assert frame["value"].dtype == "float64"


def test_table4_has_both_targets_and_table5_the_fine_tuned_networks() -> None:
    ablations = paper.load("table4")
    assert len(ablations) == 6 * 2 * 3
    found = ablations.set_index(["row", "column", "target"])["value"]
    assert found.index.is_unique
    assert found["pudnet-random", "imagenet", "convnet3"] == 52.88
    assert found["pudnet-metric", "fashion", "resnet18"] == 94.75
    assert found["pudnet-wo-kl", "cifar100", "resnet18"] == 70.27
    main = pd.concat([paper.load("table1"), paper.load("table2")])
    printed = main[main["row"] == "pudnet"].set_index(["column", "target"])["value"]
    assert found["pudnet"].to_dict() == printed.to_dict()  # the paper prints the same numbers in both places
    tuned = paper.load("table5").set_index(["row", "target"])
    assert len(tuned) == 8
    assert tuned.loc[("finetune-pudnet", "convnet3"), "value"] == 55.21
    assert tuned.loc[("scratch", "resnet18"), "ci"] == 0.30
    assert tuned["seconds"].isna().all()
