"""LaTeX `table` environment for a paper."""

from __future__ import annotations

from collections.abc import Sequence

# A table that is wider than the text is set smaller, as authors do; one that fits keeps its size.
_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"


def table_environment(caption: str, label: str, columns: str, lines: Sequence[str]) -> str:
    """A `table` no wider than the text, ending in a newline; the document needs the packages booktabs and graphicx.

    `caption`, `label` (may be "") and `columns` are LaTeX; `lines` are those between the top and the bottom rule.
    """
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}[tbp]",
            r"  \centering",
            r"  \setlength{\belowcaptionskip}{6pt}",  # the article class leaves none under a caption above the table
            rf"  \caption{{{caption}}}",
            *([rf"  \label{{{label}}}"] if label else []),
            r"  \small",
            r"  \setlength{\tabcolsep}{4pt}",
            r"  \sbox0{%",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}%",
            f"  {_FIT}",
            r"\end{table}",
            "",
        ]
    )
