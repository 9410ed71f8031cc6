"""The numbers the paper prints, as CSV files beside this one: one row per printed accuracy.

Columns: `table` ("table1"), `row` (id such as "adam@30"), `column` (family id), `target`, `value` and `ci` (percent, as
printed), `seconds` (empty where the paper prints "-"), `printed` (the row label as the paper prints it).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("table", "row", "column", "target", "value", "ci", "seconds", "printed")
_NUMBERS = ("value", "ci", "seconds")


def load(table: str) -> pd.DataFrame:
    """The paper's numbers of a table ("table1"); an empty frame if the paper has no such table.

    `value` and `ci` in percent, `seconds` NaN where the paper prints "-".
    """
    import pandas as pd

    kinds = {name: "float64" if name in _NUMBERS else "str" for name in COLUMNS}
    # Looked up by name, not built from `table`: a name such as "../x" is simply not there.
    path = {path.stem: path for path in Path(__file__).parent.glob("*.csv")}.get(table)
    if path is None:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
    return pd.read_csv(path, dtype=kinds)
