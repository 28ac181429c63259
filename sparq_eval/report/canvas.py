"""What all figures share: their sizes, one legend below panels side by side, and how they are written."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparq_eval.report.style import drawable

COLUMN, FULL = 3.4, 7.0  # inches: a column of a paper, both of them
ROW, ROW_ALONE = 2.0, 2.3
ACROSS = 14  # characters of a title in an inch


@dataclass(frozen=True)
class Key:
    """An entry of the legend. style: of matplotlib's line. last: behind all that are not."""

    label: str
    style: Mapping[str, Any]
    last: bool = False


@dataclass(frozen=True)
class Cell:
    """A panel: `paint` draws all but the labels of the axes, which neighbours with the same share."""

    paint: Callable[[Axes], None]
    xlabel: str = ""
    ylabel: str = ""
    keys: Sequence[Key] = ()


def blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def compose(title: str, cells: Sequence[Cell | None], columns: int, row: float | None = None) -> Figure:
    """Panels row by row, None where there is none, under a title (or none, if it is "") and above one legend.

    row: height of a row in inches.
    """
    columns = min(columns, len(cells))
    rows = ceil(len(cells) / columns)
    width = COLUMN if columns == 1 else FULL
    heading = wrapped(title, width)
    keys = merged(cells)
    across = fitting([key.label for key in keys], width)
    depth = 0.17 * ceil(len(keys) / across) + 0.17 * len(heading)
    figure = blank(width, (row or (ROW_ALONE if columns == 1 else ROW)) * rows + 0.35 + depth)
    if heading:
        figure.suptitle("\n".join(heading), fontsize=8.5)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        cell = cells[place] if place < len(cells) else None
        if cell is None:
            axes.set_axis_off()
            continue
        cell.paint(axes)
        below = cells[place + columns] if place + columns < len(cells) else None
        left = cells[place - 1] if place % columns else None
        axes.set_xlabel("" if below is not None and below.xlabel == cell.xlabel else cell.xlabel)
        axes.set_ylabel("" if left is not None and left.ylabel == cell.ylabel else cell.ylabel)
    if keys:
        handles = [Line2D([], [], **key.style) for key in keys]
        labels = [drawable(key.label) for key in keys]
        figure.legend(handles, labels, loc="outside lower center", ncols=across, handlelength=2.2, columnspacing=1.2)
    return figure


def wrapped(title: str, width: float) -> list[str]:
    """A title in as many lines as it needs."""
    return textwrap.wrap(drawable(title, 240), int(width * ACROSS))


def merged(cells: Sequence[Cell | None]) -> list[Key]:
    """Each label once, as it comes first; those that are to be last behind the others."""
    shown: dict[str, Key] = {}
    for cell in cells:
        for key in cell.keys if cell else ():
            shown.setdefault(key.label, key)
    return sorted(shown.values(), key=lambda key: key.last)


def fitting(labels: Sequence[str], width: float) -> int:
    """How many columns of the legend fit into a width in inches, filled downwards as matplotlib does."""
    for columns in range(min(len(labels), 6), 1, -1):
        parts = np.array_split(list(map(len, labels)), columns)
        if sum(max(part) + 7 for part in parts) <= width * 18:
            return columns
    return 1


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.svg and .png. Neither says when it was made: the same records give the same bytes."""
    svg, png = (path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png"))
    figure.savefig(svg, metadata={"Date": None})
    figure.savefig(png)
    return [svg, png]
