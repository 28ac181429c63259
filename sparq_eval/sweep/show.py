"""A sweep's standing for people: a table that keeps itself up to date in a terminal, lines of text in a pipe."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparq_eval.progress import clock
from sparq_eval.sweep.status import Standing, summary

STYLES = {"done": "green", "running": "bold cyan", "waiting": "yellow", "failed": "bold red", "missing": "red"}
HEADER = ("cell", "model", "task", "state", "answers", "left", "why")


def cells_of(each: Standing) -> tuple[str, ...]:
    answers = f"{each.rows:,}/{each.of:,}" if each.of else "-"
    left = clock(each.left) if each.left is not None and each.live else "-"
    return str(each.cell.number), each.cell.model, each.cell.task, each.state, answers, left, " ".join(each.why.split())


def plain(standings: Sequence[Standing]) -> str:
    """Columns of text, the reason last, so that grep and awk have it easy."""
    rows = [HEADER, *map(cells_of, standings)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADER) - 1)]
    lines = ["  ".join([*(row[n].ljust(width) for n, width in enumerate(widths)), row[-1]]).rstrip() for row in rows]
    return "\n".join([*lines, summary(standings)])


def table(standings: Sequence[Standing]) -> Group:
    drawn = Table(box=None, pad_edge=False)
    for name in HEADER:
        drawn.add_column(name, overflow="fold", justify="right" if name in ("answers", "left") else "left")
    for each in standings:
        words = cells_of(each)
        # text, not markup: a reason may have brackets in it
        drawn.add_row(*(Text(word, STYLES[each.state] if n == 3 else "") for n, word in enumerate(words)))
    return Group(drawn, Text(summary(standings), "bold"))


def show(look: Callable[[], Sequence[Standing]], console: Console | None = None, every: float = 2.0) -> None:
    """The standing as it is; in a terminal again and again until nothing is live or the user has seen enough."""
    console = console or Console()
    standings = look()
    if not console.is_terminal:
        print(plain(standings))
        return
    with Live(table(standings), console=console, auto_refresh=False) as live:
        while any(each.live for each in standings):
            time.sleep(every)
            standings = look()
            live.update(table(standings), refresh=True)
