r"""Tables for a paper: one booktabs tabular per model, and the headline's, to be \input in tables of the author's."""

import re
from itertools import groupby

from sparq_eval.report.findings import Findings
from sparq_eval.report.text import HEADLINE, LEGEND, WORDS, Group, groups, headline_table

SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    # at the start of a row, a bracket or a star would be read as an argument of the line end before it
    **{character: f"{{{character}}}" for character in "[]*"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "≥": r"$\geq$"},
}
NUMBERS = re.compile(r"(\$\\(up|down)arrow\$ )?(\{\[\})?[-+]?\d[-+\d., ]*(\{\]\})?")
PACKAGES = "% \\usepackage{booktabs}\n"


def latex(findings: Findings) -> str:
    r"""Compiles with any LaTeX that loads booktabs, in any encoding: all that comes out is ASCII."""
    tables = [tabular(list(of_model)) for _, of_model in groupby(groups(findings), key=lambda group: group.model)]
    return PACKAGES + "\n\\bigskip\n\n".join(tables)


def latex_headline(findings: Findings) -> str:
    """Only a comment where there is nothing but dense. What is not shown is that and no more: a page is narrow."""
    header, rows = headline_table(findings)
    if not rows:
        return PACKAGES
    rows = [
        tuple(cell.partition(" (may lose")[0] if place > WORDS else cell for place, cell in enumerate(cells))
        for cells in rows
    ]
    lines = [rf"\begin{{tabular}}{{{'l' * WORDS}{'r' * (len(header) - WORDS)}}}", r"\toprule", row(header), r"\midrule"]
    return "\n".join(
        [f"{PACKAGES}% {HEADLINE}\n% {LEGEND[0]}", *lines, *map(row, rows), r"\bottomrule", r"\end{tabular}", ""]
    )


def tabular(parts: list[Group]) -> str:
    header = max((part.header for part in parts), key=len)
    columns = "l" * WORDS + "r" * (len(header) - WORDS)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(header)]
    for part in parts:
        lines += [r"\midrule", rf"\multicolumn{{{len(header)}}}{{l}}{{{escape(part.title)}}} \\", r"\addlinespace"]
        lines += [row((*cells, *[""] * (len(header) - len(cells)))) for cells in part.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(minus, map(escape, cells))) + r" \\"


def minus(cell: str) -> str:
    """A number's hyphen as a minus, in what is nothing but numbers."""
    return cell.replace("-", "$-$") if NUMBERS.fullmatch(cell) else cell


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, in one line; other than ASCII as its code point, which any font has."""
    return "".join(map(escape_character, " ".join(text.split()))).replace("--", "-{}-")


def escape_character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    return character if " " <= character <= "~" else f"U+{ord(character):04X}"
