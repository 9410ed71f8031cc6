"""Tables of costs, break-evens and differences as CSV and Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pudnet_bench.results.analysis.costs import METHOD_COSTS, TIMED
from pudnet_bench.results.rendering.escaping import escape_markdown, markdown_table
from pudnet_bench.results.rendering.tables import format_seconds


@dataclass(frozen=True)
class Cost:
    """How a cost is shown: its name, and numbers in units of `scale`; without a unit it is a duration (s or ms)."""

    name: str
    unit: str = ""
    scale: float = 1.0

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: float) -> str:
        """Three digits: "3.18 ms", "43.4 s", "0.0312"."""
        if not self.unit:
            return f"{format_seconds(1e3 * value)} ms" if value < 1 else f"{format_seconds(value)} s"
        amount = value / self.scale
        return f"{amount:,.0f}" if amount >= 1000 else f"{float(f'{amount:.3g}'):.10g}"


COSTS = {
    "meta_train_seconds": Cost("meta-training"),
    "fit_seconds": Cost("fit"),
    "evaluation_seconds": Cost("evaluation"),
    "data_seconds": Cost("data"),
    "peak_memory_bytes": Cost("peak memory", "MB", 1e6),
    "parameters": Cost("parameters", "million", 1e6),
    "fit_flops": Cost("fit", "GFLOPs", 1e9),
    "test_flops": Cost("test image", "MFLOPs", 1e6),
    "energy_joules": Cost("energy", "J"),
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
