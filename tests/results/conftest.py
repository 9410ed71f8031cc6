from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.tables import TableLayout, TableRow

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """A row of a cell as the harness writes it, with any column replaced."""

    def make(**changes: Any) -> dict[str, Any]:
        row = {
            "cell": "pudnet-fashion",
            "suite": "table1",
            "method": "pudnet",
            "family": "fashion",
            "target": "convnet3",
            "seed": 0,
            "group": 0,
            "snapshot": "",
            "accuracy": 0.9,
            "seconds": 0.03,
            "wall_seconds": 0.04,
            "evaluation_seconds": 0.5,
            "data_seconds": 0.01,
            "peak_memory_bytes": 1000,
            "n_fit": 600,
            "n_test": 600,
            "n_classes": 2,
            "device": "cpu",
            "artifact": "",
            "meta_train_seconds": float("nan"),
            "training_groups": float("nan"),
            "epochs": float("nan"),
        }
        assert changes.keys() <= row.keys()
        return row | changes

    return make


@pytest.fixture
def golden_frame() -> pd.DataFrame:
    """Two families, two seeds; CIFAR100-set has no ProtoNet, a half-measured Adam and a user's own method."""
    return pd.read_csv(GOLDEN / "frame.csv", keep_default_na=False, na_values={"meta_train_seconds": "", "epochs": ""})


@pytest.fixture
def layout() -> TableLayout:
    return TableLayout(
        name="table1",
        title="Target network ConvNet-3",
        rows=(
            TableRow("protonet", "protonet", "", "ProtoNet"),
            TableRow("musml", "musml", "", "MUSML"),
            TableRow("adam@1", "adam", "1 epochs", "1 epochs", "Adam scratch"),
            TableRow("adam@30", "adam", "30 epochs", "30 epochs", "Adam scratch"),
            TableRow("pudnet", "pudnet", "", "PudNet"),
        ),
        columns=(("fashion", "Fashion-set"), ("cifar100", "CIFAR100-set")),
        target="convnet3",
    )
