"""Tables of costs, break-evens and differences as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.costs import METHOD_COSTS, TIMED
from pudnet_bench.results.rendering.escaping import escape_markdown, markdown_table
from pudnet_bench.results.rendering.tables import format_seconds


def duration(seconds: float) -> str:
    """Three digits, in milliseconds below a second: "3.18 ms", "43.4 s"."""
    return f"{format_seconds(1e3 * seconds)} ms" if seconds < 1 else f"{format_seconds(seconds)} s"


@dataclass(frozen=True)
class Cost:
    """How a cost is shown: its name, the unit of its numbers ("" where each has its own), and how they are formatted."""

    name: str
    unit: str
    text: Callable[[float], str]

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def _amount(value: float, of: float) -> str:
    amount = value / of
    return f"{amount:,.0f}" if amount >= 1000 else f"{float(f'{amount:.3g}'):.10g}"


COSTS = {
    "meta_train_seconds": Cost("meta-training", "", duration),
    "fit_seconds": Cost("fit", "", duration),
    "evaluation_seconds": Cost("evaluation", "", duration),
    "data_seconds": Cost("data", "", duration),
    "peak_memory_bytes": Cost("peak memory", "MB", partial(_amount, of=1e6)),
    "parameters": Cost("parameters", "million", partial(_amount, of=1e6)),
    "fit_flops": Cost("fit", "GFLOPs", partial(_amount, of=1e9)),
    "test_flops": Cost("test image", "MFLOPs", partial(_amount, of=1e6)),
    "energy_joules": Cost("energy", "J", partial(_amount, of=1)),
}
"""How each of `analysis.costs.COSTS` is shown."""

MIXED_THREADS = (
    "Some groups were fitted with another thread count: times marked (t=n) are over those with n threads alone, and unknown "
    "where there are none."
)


def csv_text(table: pd.DataFrame) -> str:
    """A frame of `analysis.costs` as CSV, full precision, empty where there is no value."""
    return table.drop(columns="n_timed", errors="ignore").to_csv(index=False, lineterminator="\n")


def markdown_text(table: pd.DataFrame) -> str:
    """A frame of `analysis.costs` as a Markdown table, "—" where there is no value.

    Costs have units for people (`COSTS`), other numbers four significant digits. Times over fewer than the n groups, as
    the others had another thread count, are marked, with a note above the table.
    """
    costs = COSTS if tuple(table.columns) == METHOD_COSTS else {}
    names = [name for name in table.columns if name not in TIMED]

    def shown(name: str, row: dict[Any, Any]) -> str:
        value = row[name]
        if pd.isna(value):
            return "—"
        mark = f" (t={row['threads']})" if name == "fit_seconds" and row["n_timed"] < row["n"] else ""
        if name in costs:
            return costs[name].text(value) + mark
        return f"{value:.4g}{mark}" if isinstance(value, float) else escape_markdown(str(value))

    lines = [[costs[name].heading if name in costs else name for name in names], ["---"] * len(names)]
    lines += [[shown(name, row) for name in names] for row in table.to_dict("records")]
    mixed = "n_timed" in table and bool((table["n_timed"] < table["n"]).any())
    return (f"{MIXED_THREADS}\n\n" if mixed else "") + markdown_table(lines)
