"""The tables in a terminal, with the curve as small bars; in a pipe the same as plain aligned text."""

import math
from collections.abc import Sequence
from typing import Literal

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sparq_eval.report.findings import Findings
from sparq_eval.report.text import HEADLINE, WORDS, Group, groups, headline_table, legend, without_common

BAR = 10  # characters
VALUE = "value"  # the column that the bars stand beside
HIGHEST = 1.5  # of dense's value that a bar shows
# what gives way in a narrow terminal, first to last; settings become as narrow as NARROW, other columns are left out
GIVING_WAY = ("nominal ratio", "seconds", "stderr", "samples", "settings", "ms a token", "95 % interval", "to dense")
NARROW = 22


def terminal_table(findings: Findings, console: Console) -> None:
    """Print a table for each model and task, and the headline below them."""
    for group in groups(findings):
        if console.is_terminal:
            shorter, common = without_common(group)
            console.print(rich_table(shorter, console.width))
            if common:
                console.print(Text(f"all of {', all of '.join(common)}\n", style="dim"))
        else:
            write_plain(console, aligned(group.title, group.header, group.rows))
    header, rows = headline_table(findings)
    if rows and console.is_terminal:
        console.print(rich_headline(header, rows, console.width))
        console.print("\n".join(legend(findings)), style="dim", highlight=False)
    elif rows:
        write_plain(console, "\n".join([aligned(HEADLINE, header, rows), *legend(findings)]))


def rich_table(group: Group, width: int) -> Table:
    """As many columns as fit."""
    kept = fitting(group, width)
    table = blank(group.title)
    for place in kept:
        name = group.header[place]
        table.add_column(heading(name), justify=side(place), no_wrap=name != "settings", overflow="fold")
        if name == VALUE:
            table.add_column("of dense")
    known = [share for share in group.shares if not math.isnan(share)]
    scale = min(max([1.0, *known]), HIGHEST)
    for row, share in zip(group.rows, group.shares, strict=True):
        cells: list[RenderableType] = []
        for place in kept:
            cells.append(Text(row[place], style=colour(row[place])))
            if group.header[place] == VALUE:
                cells.append("" if math.isnan(share) else Bar(scale, 0, min(share, scale), width=BAR, color="cyan"))
        table.add_row(*cells, style="bold" if row[0] == "dense" else None)
    return table


def fitting(group: Group, width: int) -> list[int]:
    """The columns to show in `width` characters."""
    columns = zip(group.header, *group.rows, strict=True)
    needed = [max(*map(len, name.rsplit(" ", 1)), *map(len, cells)) + 2 for name, *cells in columns]
    kept = list(range(len(group.header)))
    for name in GIVING_WAY:
        if sum(needed[column] for column in kept) + BAR + 2 <= width:
            break
        if name == "settings":
            needed[group.header.index(name)] = NARROW + 2
        else:
            kept = [column for column in kept if group.header[column] != name]
    return kept


def rich_headline(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Intervals are left out where the table does not fit with them."""
    if sum(max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)) > width:
        rows = [[cell.partition(" (")[0] if place > WORDS else cell for place, cell in enumerate(row)] for row in rows]
    table = blank(HEADLINE)
    for place, name in enumerate(header):
        table.add_column(heading(name), justify=side(place), overflow="fold")
    for row in rows:
        shown = [place > WORDS and not cell[:1].isalpha() for place, cell in enumerate(row)]
        table.add_row(*(Text(cell, style="green" if good else "") for cell, good in zip(row, shown, strict=True)))
    return table


def blank(title: str) -> Table:
    text = Text(title, style="bold")
    return Table(title=text, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def heading(name: str) -> Text:
    """Its last word in a second line."""
    return Text("\n".join(name.rsplit(" ", 1)))


def side(place: int) -> Literal["left", "right"]:
    return "left" if place < WORDS else "right"


def colour(cell: str) -> str:
    return "red" if cell.startswith("↓ ") else "magenta" if cell.startswith("↑ ") else ""


def write_plain(console: Console, text: str) -> None:
    """What the encoding of the pipe lacks becomes a question mark."""
    text = text.encode(console.encoding, "replace").decode(console.encoding)
    console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def aligned(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [title]
    for row in (header, *rows):
        columns = enumerate(zip(row, widths, strict=True))
        cells = [cell.ljust(width) if place < WORDS else cell.rjust(width) for place, (cell, width) in columns]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, ""])
