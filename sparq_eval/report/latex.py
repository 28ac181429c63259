r"""The table for a paper: one booktabs tabular per model, to be \input inside a table of the author's."""

from itertools import groupby

import pandas as pd

from sparq_eval.report.text import WORDS, Group, groups

SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    # at the start of a row, a bracket or a star would be read as an argument of the line end before it
    **{character: f"{{{character}}}" for character in "[]*"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}"},
}


def latex(records: pd.DataFrame) -> str:
    r"""Compiles with any LaTeX that loads booktabs, in any encoding: all that comes out is ASCII."""
    tables = [tabular(list(of_model)) for _, of_model in groupby(groups(records), key=lambda group: group.model)]
    return "% \\usepackage{booktabs}\n" + "\n\\bigskip\n\n".join(tables)


def tabular(parts: list[Group]) -> str:
    header = max((part.header for part in parts), key=len)
    columns = "l" * WORDS + "r" * (len(header) - WORDS)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(header)]
    for part in parts:
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{{escape(part.title)}}} \\", r"\addlinespace"]
        lines += [row((*cells, *[""] * (len(header) - len(cells)))) for cells in part.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, in one line; other than ASCII as its code point, which any font has."""
    return "".join(map(escape_character, " ".join(text.split()))).replace("--", "-{}-")


def escape_character(character: str) -> str:
    if not " " <= character <= "~":
        return f"U+{ord(character):04X}"
    return SPECIAL.get(character, character)
