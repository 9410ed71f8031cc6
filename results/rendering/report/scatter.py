"""Data of a report page's scatter: accuracy of every row on every group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.analysis.comparison import PAIR
from pudnet_bench.results.rendering.report.model import labels_by_column, row_label
from pudnet_bench.results.rendering.tables import TableCell, TableLayout

if TYPE_CHECKING:
    import pandas as pd


def scatter(
    cells: Sequence[TableCell], layout: TableLayout, frame: pd.DataFrame, reference: str
) -> dict[str, Any] | None:
    """Accuracy (percent) of every row on every group, first of all against `reference`. None for fewer than two rows."""
    labels = labels_by_column(cells, layout)
    rows = {(cell.row.method, cell.row.snapshot): cell.row for cell in cells if cell.n}
    if len(rows) < 2:
        return None
    families = []
    for family, label in labels.items():
        here = frame[frame["family"] == family]
        if here.empty:
            continue
        wide = here.pivot_table(index=PAIR, columns=["method", "snapshot"], values="accuracy", aggfunc="first")
        families.append(
            {
                "label": label,
                "groups": [[int(seed), int(group)] for seed, group in wide.index],
                "accuracies": [
                    [round(100 * float(value), 3) for value in wide[place]] if place in wide else [] for place in rows
                ],
            }
        )
    methods = [method for method, _ in rows]
    y = methods.index(reference) if reference in methods else len(methods) - 1
    return {
        "rows": [row_label(row) for row in rows.values()],
        "families": families,
        "x": next(place for place in range(len(methods)) if place != y),
        "y": y,
    }
