import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pudnet_bench.results.rendering.tables import TableLayout, TableRow

GOLDEN = Path(__file__).parent / "rendering" / "golden"


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
            "fit_flops": 2e9,
            "test_flops": 3e6,
            "parameters": 350_000.0,
            "energy_joules": float("nan"),
            "precision": "fp32",
            "threads": 2,
            "split": 0,
            "classes": "",
        }
        assert changes.keys() <= row.keys()
        return row | changes

    return make


@pytest.fixture
def frame(make_row: Callable[..., dict[str, Any]]) -> pd.DataFrame:
    """PudNet on groups 0 to 3 of two seeds, Adam (1 and 3 epochs) on groups 0 and 1 of the first."""
    rows = [
        make_row(
            seed=seed, group=group, accuracy=0.8, seconds=0.5, meta_train_seconds=100.0 + 50 * seed, peak_memory_bytes=7
        )
        for seed in (0, 1)
        for group in range(4)
    ]
    for group in (0, 1):
        for epochs, accuracy in ((1.0, 0.6), (3.0, 0.9)):
            rows.append(
                make_row(
                    method="adam",
                    group=group,
                    snapshot=f"{epochs:.0f} epochs",
                    epochs=epochs,
                    accuracy=accuracy + 0.01 * group,
                    seconds=epochs * (1 + group),
                    peak_memory_bytes=10 * (group + 1),
                )
            )
    return pd.DataFrame(rows)


@pytest.fixture
def measured(make_row: Callable[..., dict[str, Any]]) -> Callable[..., pd.DataFrame]:
    """`measured(pudnet=[0.9, ...], adam=[...])`: one family, group after group; keywords of rows after `with_`."""

    def make(with_: dict[str, Any] | None = None, **accuracies: list[float]) -> pd.DataFrame:
        rows = [
            make_row(**{"method": method, "group": group, "accuracy": float(value), "snapshot": "", **(with_ or {})})
            for method, values in accuracies.items()
            for group, value in enumerate(values)
        ]
        return pd.DataFrame(rows)

    return make


@dataclass(frozen=True)
class Typeset:
    """A page that TeX made: its text, its words with the height of each, and what is drawn on it.

    All in points; `ink` is (left, right) of all that is drawn, `block` of where a page of text has its lines.
    """

    text: str
    heights: list[tuple[str, float]]
    ink: tuple[float, float]
    block: tuple[float, float]


@pytest.fixture
def typeset(tmp_path: Path) -> Callable[..., list[Typeset]]:
    """`typeset(*tables)`: a paper with a table on each page, by the real TeX; fails for an error or an overfull box."""
    if shutil.which("pdflatex") is None or shutil.which("pdftoppm") is None:
        pytest.skip("pdflatex and pdftoppm (Debian's texlive-latex-recommended and poppler-utils) are not installed")

    def read(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    def make(*tables: str, preamble: str = r"\documentclass{article}") -> list[Typeset]:
        packages = r"\usepackage{booktabs,graphicx}\pagestyle{empty}\begin{document}"
        block = r"\typeout{BLOCK \the\dimexpr1in+\hoffset+\oddsidemargin\relax, \the\textwidth}"
        pages = [rf"{table}\clearpage" for table in tables]
        (tmp_path / "paper.tex").write_text("\n".join([preamble, packages, block, *pages, r"\end{document}"]))
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout
        (found,) = re.findall(r"BLOCK ([\d.]+)pt, ([\d.]+)pt", done.stdout)
        left, width = (72 / 72.27 * float(length) for length in found)  # TeX's points are smaller than PDF's
        made = []
        for number, _ in enumerate(tables, 1):
            only = ("-f", f"{number}", "-l", f"{number}", "paper.pdf")
            read("pdftoppm", "-png", "-gray", "-singlefile", "-r", f"{DOTS}", *only, f"page-{number}")
            dark = (np.asarray(Image.open(tmp_path / f"page-{number}.png")) < 200).any(axis=0).nonzero()[0]
            assert len(dark), f"page {number} is empty"
            ink = 72 / DOTS * float(dark[0]), 72 / DOTS * float(dark[-1] + 1)
            boxes = re.findall(
                r'yMin="(.*?)" xMax=".*?" yMax="(.*?)">(.*?)</word>', read("pdftotext", "-bbox", *only, "-")
            )
            heights = [(word, float(bottom) - float(top)) for top, bottom, word in boxes]
            made.append(Typeset(read("pdftotext", "-layout", *only, "-"), heights, ink, (left, left + width)))
        return made

    return make


DOTS = 150  # per inch of a page's picture


@pytest.fixture
def golden_frame() -> pd.DataFrame:
    """Two families, two seeds; CIFAR100-set has no ProtoNet, a half-measured Adam and a user's own method."""
    frame = pd.read_csv(GOLDEN / "frame.csv", keep_default_na=False, na_values={"meta_train_seconds": "", "epochs": ""})
    return frame.assign(
        evaluation_seconds=0.02,
        data_seconds=0.001,
        fit_flops=1e9 * frame["epochs"].fillna(0.05),
        test_flops=3e6,
        parameters=frame["method"].map({"pudnet": 350_000.0, "protonet": 75_000.0}).fillna(0.0),
        energy_joules=float("nan"),
        training_groups=float("nan"),
        precision="fp32",
        threads=2,
        split=0,
        classes="",
    )


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
