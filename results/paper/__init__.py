"""The paper's printed numbers, as CSV files in this folder: one row per printed accuracy.

Columns: `table` ("table1"), `row` (id such as "adam@30"), `column` (family id), `target`, `value` and `ci` (percent, as
printed; `ci` is empty where the paper prints none), `seconds` (empty where the paper prints "-"), `printed` (the row
label as the paper prints it; where a table is rotated, the column's), `note`.

Numbers and labels are as printed, errors included: the paper writes "Meta-DeepDBC" for Meta-DeepBDC. Where a number
contradicts another number or the text, or a setting behind it is not given, `note` says so.

The paper prints no numbers in its figures. The `figure*.csv` files hold the points that a table prints all the same:
`figure`, `curve`, `column`, `target`, `x`, `value`, `ci`, `source` (table and row, "table10 pudnet-50-groups"), `note`.
x is the number of training groups in figures 6 and 7, and eta in figure 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("table", "row", "column", "target", "value", "ci", "seconds", "printed", "note")
POINT_COLUMNS = ("figure", "curve", "column", "target", "x", "value", "ci", "source", "note")
_NUMBERS = ("value", "ci", "seconds", "x")


def load(table: str) -> pd.DataFrame:
    """The paper's numbers of a table ("table1"); an empty frame if the paper has no such table.

    `value` and `ci` in percent; `ci` is NaN where the paper prints none, `seconds` where it prints "-".
    """
    return _read("table*.csv", table, COLUMNS)


def load_points(figure: str) -> pd.DataFrame:
    """The points of a figure ("figure6") that the paper's tables print; an empty frame if there are none.

    `value` and `ci` in percent.
    """
    return _read("figure*.csv", figure, POINT_COLUMNS)


def _read(files: str, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    kinds = {column: "float64" if column in _NUMBERS else "str" for column in columns}
    # Looked up by name, not built from it: a name such as "../x" is simply not there.
    path = {path.stem: path for path in Path(__file__).parent.glob(files)}.get(name)
    if path is None:
        return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in kinds.items()})
    # An empty note stays "": only an empty number is NaN.
    blank = {column: [""] for column in columns if column in _NUMBERS}
    return pd.read_csv(path, dtype=kinds, na_values=blank, keep_default_na=False)
