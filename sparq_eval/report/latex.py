r"""Tables for a paper: a longtable for each model, and the headline's tabular, narrow enough for a page of text."""

import re
from collections.abc import Sequence
from itertools import groupby

from sparq_eval.report.findings import Findings
from sparq_eval.report.text import HEADLINE, LEGEND, WORDS, Group, groups, headline_table, without_common

SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    # at the start of a row, a bracket or a star would be read as an argument of the line end before it
    **{character: f"{{{character}}}" for character in "[]*"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "≥": r"$\geq$"},
}
NUMBERS = re.compile(r"(\$\\(up|down)arrow\$ )?(\{\[\})?[-+]?\d[-+\d., ]*(\{\]\})?")
PACKAGES = "% \\usepackage{array,booktabs,longtable}\n"
TIGHT = r"\setlength{\tabcolsep}{2pt}"
SHORTER = {"counted ratio": "ratio", "95 % interval": "95 %"}
SETTINGS = r">{\raggedright\arraybackslash}p{0.2\linewidth}"
# which a paper seldom needs and a page has no room for; results.csv has them
LEFT_OUT = ("nominal ratio", "seconds")


def latex(findings: Findings) -> str:
    r"""Compiles with any LaTeX that loads these packages, in any encoding: all that comes out is ASCII."""
    tables = [longtable(list(of_model)) for _, of_model in groupby(groups(findings), key=lambda group: group.model)]
    return PACKAGES + (rf"{{\scriptsize{TIGHT}" + "\n" + "\n".join(tables) + "}\n" if tables else "")


def latex_headline(findings: Findings) -> str:
    """Only a comment where there is nothing but dense. Intervals have lines of their own; what is not shown is that and
    no more.
    """
    (_, task, margin, *methods), rows = headline_table(findings)
    if not rows:
        return PACKAGES
    columns = (task, margin, *methods)
    lines = [rf"{{{TIGHT}\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", row(columns)]
    for model, of_model in groupby(rows, key=lambda cells: cells[0]):
        lines += [r"\midrule", across(model, len(columns))]
        for _, task, margin, *cells in of_model:
            parts = [cell.partition(" (") for cell in cells]
            lines.append(row((task, margin, *(value for value, _, _ in parts))))
            intervals = [f"({end}" if end and not end.startswith("may lose") else "" for _, _, end in parts]
            if any(intervals):
                lines.append(row(("", "", *intervals)))
    return "\n".join([f"{PACKAGES}% {HEADLINE}\n% {LEGEND[0]}", *lines, r"\bottomrule", r"\end{tabular}}", ""])


def longtable(parts: list[Group]) -> str:
    """Of one model, a part a task. What all settings of a part or of a method share stands above them."""
    header = max((part.header for part in parts), key=len)
    samples = header.index("samples")
    counts = [{cells[samples] for cells in part.rows} for part in parts]
    left_out = (*LEFT_OUT, *(["samples"] if all(len(of) == 1 for of in counts) else []))
    kept = [place for place, name in enumerate(header) if name not in left_out]
    lines = [rf"\begin{{longtable}}{{l{SETTINGS}{'r' * (len(kept) - WORDS)}}}", r"\toprule"]
    names = [SHORTER.get(header[place], header[place]) for place in kept]
    lines += [row(names), r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    for number, (part, of) in enumerate(zip(parts, counts, strict=True)):
        shorter, common = without_common(part)
        title = f"{part.title}, n = {min(of)}" if "samples" in left_out else part.title
        lines += [r"\addlinespace"] * (number > 0) + [across(title, len(kept))]
        lines += [across(f"all of {said}", len(kept)) for said in common]
        for cells in shorter.rows:
            whole = (*cells, *[""] * (len(header) - len(cells)))
            lines.append(row([whole[place] for place in kept]))
    return "\n".join([*lines, r"\end{longtable}", ""])


def across(text: str, columns: int) -> str:
    """A line of text; one that is wider than the page is broken."""
    return rf"\multicolumn{{{columns}}}{{@{{}}p{{\linewidth}}@{{}}}}{{{escape(text)}}} \\"


def row(cells: Sequence[str]) -> str:
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
