"""A figure of line charts with one legend, and the same numbers as a table, written together."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, log10
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sparq_eval.report.bench.sheet import write_sheet
from sparq_eval.report.figures import COLUMN, blank
from sparq_eval.report.panel import powers
from sparq_eval.report.style import RC, drawable

Colour = str | tuple[float, float, float]


@dataclass(frozen=True)
class Series:
    """points: the columns x and y, perhaps low and high. dashes: "" joins no points. under: drawn below the others and
    last in the legend. listed: whether it is in the legend; all are in the tables.
    """

    label: str
    points: pd.DataFrame
    colour: Colour
    marker: str = ""
    dashes: object = "-"
    width: float = 1.3
    under: bool = False
    listed: bool = True

    @property
    def style(self) -> dict[str, Any]:
        """How matplotlib draws it."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
        dashes = self.dashes or "none"
        return edge | {"color": self.colour, "marker": self.marker, "linestyle": dashes, "linewidth": self.width}


@dataclass(frozen=True)
class Chart:
    """x is logarithmic to base 2; y is linear from zero, or logarithmic. level: a thin line across, or None."""

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: bool = False
    level: float | None = None


@dataclass(frozen=True)
class Plot:
    """name: of its files. notes: legend entries that belong to no series: label and dashes."""

    name: str
    title: str
    charts: Sequence[Chart]
    columns: int
    notes: Sequence[tuple[str, object]] = ()


def write_plot(plot: Plot, out: Path) -> None:
    """Write `out`/<name>.svg, .png, .csv and .md. A plot without a point writes nothing."""
    if not any(len(series.points) for chart in plot.charts for series in chart.series):
        return
    with matplotlib.rc_context(RC):
        figure = compose(plot)
        # neither file says when it was made: the same records give the same bytes
        figure.savefig(out / f"{plot.name}.svg", metadata={"Date": None})
        figure.savefig(out / f"{plot.name}.png")
    write_sheet(long_table(plot), wide_tables(plot), plot.title, out / plot.name)


def compose(plot: Plot) -> Figure:
    rows = ceil(len(plot.charts) / plot.columns)
    width = COLUMN if plot.columns == 1 else 2.5 * plot.columns + 0.2
    handles, labels = entries(plot)
    columns = fitting(labels, width)
    depth = 0.17 * ceil(len(labels) / columns)
    figure = blank(width, (2.2 if plot.columns == 1 else 2.0) * rows + 0.5 + depth)
    figure.suptitle(drawable(plot.title, int(width * 15)), fontsize=8.5)
    places = list(figure.subplots(rows, plot.columns, squeeze=False).flat)
    for place, (axes, chart) in enumerate(zip(places, plot.charts, strict=False)):
        lowest = place + plot.columns >= len(plot.charts)
        first = place % plot.columns == 0 or chart.ylabel != plot.charts[place - 1].ylabel
        draw(axes, chart, chart.xlabel if lowest else "", chart.ylabel if first else "")
    for axes in places[len(plot.charts) :]:
        axes.set_axis_off()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.2)
    return figure


def draw(axes: Axes, chart: Chart, xlabel: str, ylabel: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_title("\n".join(drawable(line, 44) for line in chart.title.splitlines()))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if chart.log:
        axes.set_yscale("log")
    for series in chart.series:
        x, y = series.points["x"].to_numpy(dtype=float), series.points["y"].to_numpy(dtype=float)
        if "low" in series.points:
            low, high = series.points["low"].to_numpy(dtype=float), series.points["high"].to_numpy(dtype=float)
            axes.fill_between(x, low, high, color=series.colour, alpha=0.14, linewidth=0)
        axes.plot(x, y, zorder=1.8 if series.under else 2, **series.style)
    if chart.level is not None:
        axes.axhline(chart.level, color="#333333", linewidth=0.6, zorder=1)
    if not chart.log:
        axes.set_ylim(bottom=0)
    scale(axes, chart)


def scale(axes: Axes, chart: Chart) -> None:
    """Ticks as plain numbers: powers of two along x, decades (with 2 and 5, if they are few) along y."""
    ticks = powers(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(list(map(short, ticks))))
    axes.xaxis.set_minor_locator(NullLocator())
    if chart.log:
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(10, subs=subdivisions(log10(high / low))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def subdivisions(decades: float) -> tuple[int, ...]:
    """Which multiples of a power of ten are ticks."""
    if decades < 0.9:
        return 1, 2, 3, 5, 7
    return (1, 2, 5) if decades < 2.2 else (1,)


def short(number: float) -> str:
    """4096 as 4k, a fraction as 1/4."""
    if number >= 1024 and log2(number) % 1 == 0:
        return f"{number / 1024:g}k"
    return f"1/{1 / number:g}" if number < 1 else f"{number:g}"


def entries(plot: Plot) -> tuple[list[Line2D], list[str]]:
    """The legend: each label once, as it is first drawn, then the notes."""
    shown: dict[str, Series] = {}
    for chart in plot.charts:
        for series in chart.series:
            if series.listed and len(series.points):
                shown.setdefault(series.label, series)
    ranked = sorted(shown.values(), key=lambda series: series.under)
    handles = [Line2D([], [], **series.style) for series in ranked]
    handles += [Line2D([], [], color="#555555", linestyle=dashes, linewidth=0.9) for _, dashes in plot.notes]
    return handles, [drawable(label, 60) for label in (*(one.label for one in ranked), *dict(plot.notes))]


def fitting(labels: Sequence[str], width: float) -> int:
    """How many columns of the legend fit into a width in inches, filled downwards as matplotlib does."""
    for columns in range(min(len(labels), 4), 1, -1):
        parts = np.array_split(list(map(len, labels)), columns)
        if sum(max(part) + 7 for part in parts) <= width * 18:
            return columns
    return 1


def long_table(plot: Plot) -> pd.DataFrame:
    """One row a point: panel, line, x and y with their names, low and high."""
    rows = [
        {
            "panel": flat(chart.title),
            "line": series.label,
            "x_is": flat(chart.xlabel),
            "y_is": flat(chart.ylabel),
            **point,
        }
        for chart in plot.charts
        for series in chart.series
        for point in series.points.to_dict("records")
    ]
    names = [name for name in ("low", "high") if any(name in row for row in rows)]
    return pd.DataFrame(rows)[["panel", "line", "x_is", "x", "y_is", "y", *names]]


def wide_tables(plot: Plot) -> list[tuple[str, pd.DataFrame]]:
    """For each panel its name and a table: x down, lines across."""
    tables = []
    for chart in plot.charts:
        if not any(len(series.points) for series in chart.series):
            continue
        columns = {series.label: series.points.groupby("x")["y"].first() for series in chart.series}
        table = pd.DataFrame(columns).sort_index().rename_axis(flat(chart.xlabel)).reset_index()
        title = ", ".join(part for part in (flat(chart.title), flat(chart.ylabel)) if part)
        tables.append((title, table.replace([np.inf, -np.inf], np.nan)))
    return tables


def flat(text: str) -> str:
    return ", ".join(" ".join(line.split()) for line in text.splitlines())
