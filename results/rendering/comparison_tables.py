"""A comparison of two runs as LaTeX, Markdown or CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pudnet_bench.results.rendering.escaping import Format, escape_latex, escape_markdown, markdown_table
from pudnet_bench.results.rendering.latex import table_environment

if TYPE_CHECKING:
    import pandas as pd

_HEADS = {
    "Method": ":--", "Family": ":--", "Target": ":--", "Cell": ":--", "n": "--:", "A (%)": "--:", "B (%)": "--:",
    "B - A (interval)": "--:", "Over": ":--", "p (Holm)": "--:", "Verdict": ":--", "time B / A": "--:",
}  # fmt: skip
_INTERVALS = (
    "Intervals are of t tests over splits, classes or groups, at the confidence of Holm's procedure over all rows: one "
    "excludes 0 exactly where the verdict is better or worse (5%)."
)
_OTHER_THREADS = "Times with an asterisk are not of one thread count: medians over the most frequent one of A and of B."


def text(table: pd.DataFrame, runs: Mapping[str, str], differing: Sequence[str], format: Format) -> str:
    """The result of `comparison.compare` as text, ending in a newline.

    Above the table, `runs` says what A and B are, and `differing` what differs between them, in lines. CSV has full
    precision and no such lines.
    """
    if format == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    lines = [_line(row) for row in table.to_dict("records")]
    about = [f"{name}: {run}" for name, run in runs.items()]
    about += [f"differs: {line}" for line in differing]
    if other := int(table["other_classes"].sum()):
        about.append(f"not paired: {other} groups of the same number, as their classes in A and B are not the same")
    notes = [_INTERVALS] if (table["interval"] != "").any() else []
    notes += [] if table["same_threads"].all() else [_OTHER_THREADS]
    if format == "markdown":
        grid = [[*_HEADS], [*_HEADS.values()], *([escape_markdown(value) for value in line] for line in lines)]
        return "\n".join([*(f"{escape_markdown(line)}  " for line in [*about, *notes]), "", markdown_table(grid)])
    caption = " ".join([*(f"{escape_latex(line)}." for line in about), *map(escape_latex, notes)])
    rows = [" & ".join(escape_latex(value) for value in line) + r" \\" for line in [[*_HEADS], *lines]]
    columns = "".join("l" if alignment == ":--" else "r" for alignment in _HEADS.values())
    return table_environment(caption, "", f"@{{}}{columns}@{{}}", [rows[0], r"\midrule", *rows[1:]])


def _line(row: Mapping[Any, Any]) -> list[str]:
    difference, p_value = f"{row['difference']:+.2f}", ""
    if row["interval"]:
        difference += f" ({row['low']:+.2f} to {row['high']:+.2f})"
        p_value = f"{row['p_holm']:.3g}"
    values = [f"{row['accuracy_a']:.2f}", f"{row['accuracy_b']:.2f}", difference] if row["n"] else [""] * 3
    return [
        ", ".join(filter(None, (row["method"], row["snapshot"]))), row["family"], row["target"],
        "same" if row["same_cell"] else "other", str(row["n"]), *values, row["interval"], p_value, row["verdict"],
        f"{row['ratio']:.3g}" + ("" if row["same_threads"] else "*"),
    ]  # fmt: skip
