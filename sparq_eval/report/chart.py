"""A figure of line charts with one legend, and the same numbers as a table, written together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sparq_eval.report import canvas
from sparq_eval.report.canvas import COLUMN, FULL, Cell, Key
from sparq_eval.report.panel import powers
from sparq_eval.report.sheet import write_sheet
from sparq_eval.report.style import PALE, PUBLISHED, RC, drawable, paler

MARGIN = 0.3  # inches of a panel that its title has not
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


def published(label: str, points: pd.DataFrame, colour: Colour, marker: str) -> Series:
    """What was published of a line, under it."""
    look = paler(colour, PALE), marker, PUBLISHED["linestyle"], PUBLISHED["linewidth"]
    return Series(f"published: {label}", points, *look, under=True)


@dataclass(frozen=True)
class Chart:
    """x is logarithmic to base 2, or `linear`, or has `names` for its whole numbers; y is logarithmic, or linear `zero`
    upwards. level: a thin line across, or None.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: bool = False
    level: float | None = None
    linear: bool = False
    names: Mapping[int, str] | None = None
    zero: bool = True


@dataclass(frozen=True)
class Plot:
    """name: of its files. notes: legend entries that belong to no series: label and dashes. records: keys of those that
    its numbers are from.
    """

    name: str
    title: str
    charts: Sequence[Chart]
    columns: int
    notes: Sequence[tuple[str, object]] = ()
    records: Sequence[str] = ()

    @property
    def empty(self) -> bool:
        return not any(len(series.points) for chart in self.charts for series in chart.series)


def write_plot(plot: Plot, out: Path) -> None:
    """Write `out`/<name>.svg, .png, .csv and .md. A plot without a point writes nothing."""
    if plot.empty:
        return
    with matplotlib.rc_context(RC):
        canvas.save(compose(plot), out / plot.name)
    write_sheet(long_table(plot), wide_tables(plot), plot.title, out / plot.name)


def compose(plot: Plot) -> Figure:
    notes = [
        Key(name, {"color": "#555555", "linestyle": dashes, "linewidth": 0.9}, True) for name, dashes in plot.notes
    ]
    width = COLUMN if plot.columns == 1 else FULL / plot.columns
    return canvas.compose(plot.title, [cell(chart, width, notes) for chart in plot.charts], plot.columns)


def cell(chart: Chart, width: float = COLUMN, notes: Sequence[Key] = ()) -> Cell:
    """width: of the panel in inches, which its title has to fit."""
    listed = [series for series in chart.series if series.listed and len(series.points)]
    keys = [Key(series.label, series.style, series.under) for series in listed]
    return Cell(partial(draw, chart=chart, width=width), chart.xlabel, chart.ylabel, (*keys, *notes))


def draw(axes: Axes, chart: Chart, width: float) -> None:
    if not (chart.linear or chart.names):
        axes.set_xscale("log", base=2)
    lines = [line for part in chart.title.splitlines() for line in canvas.wrapped(part, width - MARGIN)]
    axes.set_title("\n".join(drawable(line) for line in lines))
    if chart.log:
        axes.set_yscale("log")
    for series in chart.series:
        draw_series(axes, series, bars=chart.names is not None)
    if chart.level is not None:
        axes.axhline(chart.level, color="#333333", linewidth=0.6, zorder=1)
    if chart.zero and not chart.log:
        # a range of nothing, as of a single point, leaves no room above it
        axes.set_ylim(0, max(axes.get_ylim()[1], axes.dataLim.y1 * 1.05))
    scale(axes, chart)


def draw_series(axes: Axes, series: Series, bars: bool) -> None:
    """low and high as a band, or as bars of error."""
    x, y = series.points["x"].to_numpy(dtype=float), series.points["y"].to_numpy(dtype=float)
    if "low" in series.points:
        low, high = series.points["low"].to_numpy(dtype=float), series.points["high"].to_numpy(dtype=float)
        if bars:
            axes.vlines(x, low, high, color=series.colour, linewidth=0.8, zorder=1.9)
        else:
            axes.fill_between(x, low, high, color=series.colour, alpha=0.14, linewidth=0)
    axes.plot(x, y, zorder=1.8 if series.under else 2, **series.style)


def scale(axes: Axes, chart: Chart) -> None:
    """Ticks as plain numbers: powers of two along x, decades (with 2 and 5, if they are few) along y."""
    if chart.names:
        axes.set_xticks(list(chart.names), list(chart.names.values()))
        axes.set_xlim(min(chart.names) - 0.5, max(chart.names) + 0.5)
    elif chart.linear:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.set_xlim(left=0)
        step = 2.0 ** np.ceil(np.log2(max(axes.get_xlim()[1], 1) / 5))
        axes.xaxis.set_major_locator(FixedLocator(list(np.arange(0, axes.get_xlim()[1], step))))
    else:
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
    if number >= 1024 and number % 1024 == 0:
        return f"{number / 1024:g}k"
    return f"1/{1 / number:g}" if 0 < number < 1 else f"{number:g}"


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
