"""The table in a terminal; in a pipe the same as plain aligned text."""

from typing import Literal

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparq_eval.report.text import WORDS, Group, groups

WIDE = 100  # characters that leave room for a gap between columns


def terminal_table(records: pd.DataFrame, console: Console) -> None:
    """Print records (rows of Frames.records), a table for each model and task."""
    for group in groups(records):
        if console.is_terminal:
            console.print(rich_table(group, gap=console.width >= WIDE))
        else:
            console.print(aligned(group), markup=False, highlight=False, soft_wrap=True, emoji=False)


def rich_table(group: Group, gap: bool) -> Table:
    title = Text(group.title, style="bold")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, int(gap), 0, 0))
    for place, name in enumerate(group.header):
        # in a narrow terminal the settings give way, and at spaces
        side: Literal["left", "right"] = "left" if place < WORDS else "right"
        table.add_column(name.replace(" ", "\n"), justify=side, no_wrap=name != "settings", overflow="fold")
    for row in group.rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == "dense" else None)
    return table


def aligned(group: Group) -> str:
    widths = [max(map(len, column)) for column in zip(group.header, *group.rows, strict=True)]
    lines = [group.title]
    for row in (group.header, *group.rows):
        columns = enumerate(zip(row, widths, strict=True))
        cells = [cell.ljust(width) if place < WORDS else cell.rjust(width) for place, (cell, width) in columns]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, ""])
