"""Trade-off figures: one for each model and task, and one grid for each model, as SVG and PNG."""

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparq_eval.progress import progress, say
from sparq_eval.report.curves import curves
from sparq_eval.report.panel import Panel, draw
from sparq_eval.report.style import DASHES, DENSE, RC, Look, drawable, label_of, looks
from sparq_eval.results.record import safe

UNIT = 2**20
XLABEL = {
    "counted": "transfers per token\n(counted, 2²⁰ elements)",
    "nominal": "transfers per token\n(formula, 2²⁰ elements)",
}
COLUMN = 3.5  # inches
GRID_COLUMNS = 3


def draw_all(records: pd.DataFrame, out: Path, transfers: str) -> None:
    """Draw `out`/<model>_<task>.svg and .png for each model, task and variant, and `out`/<model>.svg and .png."""
    plans = list(plan(records, transfers))
    names = distinct([name for name, _, _ in plans])
    with progress("plots", len(plans), "figures") as advance, matplotlib.rc_context(RC):
        for name, (_, title, panels) in zip(names, plans, strict=True):
            figure = single(panels[0], XLABEL[transfers]) if title is None else grid(title, panels, XLABEL[transfers])
            # neither file says when it was made: the same records give the same bytes
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            figure.savefig(out / f"{name}.png")
            advance(1)


def plan(records: pd.DataFrame, transfers: str) -> Iterator[tuple[str, str | None, list[Panel]]]:
    """Figures to draw: file name, title if it is a grid, panels."""
    placed = records.assign(x=records[transfers] / UNIT, x_dense=records[f"{transfers}_dense"] / UNIT)
    for model, of_model in placed.groupby("model", sort=False):
        panels = []
        for (task, variant), group in of_model.groupby(["task", "variant"], sort=False):
            known = group[group["x"].notna()]
            if missing := len(group) - len(known):
                few = f"{missing} of {len(group)} settings have no {transfers} transfers"
                say(f"note: {model}, {task}: {few} and are not drawn")
            if known.empty:
                continue
            name = f"{task} ({variant})" if variant else str(task)
            panel = Panel(f"{name}, n = {count(known['samples'])}", known, curves(known))
            panels.append(panel)
            suffix = f"_{variant}" if variant and variant != "A" else ""
            alone = Panel(f"{model}, {panel.title}", panel.records, panel.lines)
            yield f"{safe(str(model))}_{safe(str(task))}{suffix}", None, [alone]
        if panels:
            yield safe(str(model)), str(model), panels


def single(panel: Panel, xlabel: str) -> Figure:
    figure = blank(COLUMN, 3.1)
    shown = legend(figure, [panel])
    draw(figure.subplots(), panel, shown, xlabel)
    return figure


def grid(title: str, panels: Sequence[Panel], xlabel: str) -> Figure:
    columns = min(GRID_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    figure = blank(max(COLUMN, 2.5 * columns), 2.2 * rows + 0.85)
    figure.suptitle(drawable(title), fontsize=9)
    shown = legend(figure, panels)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (axes, panel) in enumerate(zip(places, panels, strict=False)):
        lowest = place + columns >= len(panels)
        draw(axes, panel, shown, xlabel if lowest else "")
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    return figure


def blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, panels: Sequence[Panel]) -> dict[str, Look]:
    """Put one legend for all panels below them; return how each label is drawn."""
    every = [line for panel in panels for line in panel.lines]
    methods = list(dict.fromkeys(line.method for line in every))
    lines = dict.fromkeys((line.method, line.label, line.rank) for line in every)
    shown = looks(sorted(lines, key=lambda line: (methods.index(line[0]), line[2])))
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markeredgecolor="white", markeredgewidth=0.4)
        for look in shown.values()
    ]
    labels = [drawable(label, 36) for label in shown]
    if any(len(panel.dense) for panel in panels):
        handles.insert(0, Line2D([], [], color=DENSE, linestyle=DASHES, linewidth=1))
        labels.insert(0, label_of("dense"))
    if not labels:
        return shown
    longest = max(map(len, labels))
    fitting = max(1, int(figure.get_figwidth() * 14 / (longest + 6)))
    columns = ceil(len(labels) / ceil(len(labels) / fitting))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.2)
    return shown


def count(samples: pd.Series) -> str:
    few, many = samples.min(), samples.max()
    return f"{few}" if few == many else f"{few} to {many}"


def distinct(names: Sequence[str]) -> list[str]:
    """Names as they are; one that was taken before, on a disk that ignores case too, gets a number."""
    taken: set[str] = set()
    result = []
    for name in names:
        free = next(option for option in numbered(name) if option.lower() not in taken)
        taken.add(free.lower())
        result.append(free)
    return result


def numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
