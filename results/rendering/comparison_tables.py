"""A comparison of two runs as LaTeX, Markdown or CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pudnet_bench.results.rendering.escaping import Format, escape_latex, escape_markdown, markdown_table
from pudnet_bench.results.rendering.latex import table_environment

if TYPE_CHECKING:
    import pandas as pd

_HEADS = ["Method", "Family", "Target", "n", "A (%)", "B (%)", "B - A (95% CI)", "p (Holm)", "Verdict", "time B / A"]
_OTHER_THREADS = "Times with an asterisk are not of one thread count: medians over the most frequent one of A and of B."


def text(table: pd.DataFrame, runs: dict[str, str], format: Format) -> str:
    """The result of `comparison.compare` as text, ending in a newline.

    `runs` says what A and B are, above the table; CSV has full precision and no such lines.
    """
    if format == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    lines = []
    for row in table.to_dict("records"):
        name = ", ".join(filter(None, (row["method"], row["snapshot"])))
        difference = f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        accuracies = [f"{row['accuracy_a']:.2f}", f"{row['accuracy_b']:.2f}", difference, f"{row['p_holm']:.3g}"]
        ratio = f"{row['ratio']:.3g}" + ("" if row["same_threads"] else "*")
        values = accuracies if row["n"] else [""] * 4
        lines.append([name, row["family"], row["target"], str(row["n"]), *values, row["verdict"], ratio])
    marked = not table["same_threads"].all()
    if format == "markdown":
        notes = [f"{name}: {escape_markdown(run)}  " for name, run in runs.items()]
        notes += [_OTHER_THREADS] if marked else []
        grid = [_HEADS, [":--"] * 3 + ["--:"] * 5 + [":--", "--:"]]
        grid += [[escape_markdown(value) for value in line] for line in lines]
        return "\n".join([*notes, "", markdown_table(grid)])
    notes = [f"{name}: {escape_latex(run)}." for name, run in runs.items()] + ([_OTHER_THREADS] if marked else [])
    rows = [" & ".join(escape_latex(value) for value in line) + r" \\" for line in [_HEADS, *lines]]
    return table_environment(" ".join(notes), "", "@{}lllrrrrrlr@{}", [rows[0], r"\midrule", *rows[1:]])
