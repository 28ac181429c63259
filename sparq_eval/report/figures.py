"""Trade-off figures: one for each model and task, and one grid for each model, as SVG and PNG."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sparq_eval.progress import progress, say
from sparq_eval.report.canvas import COLUMN, FULL, compose, save
from sparq_eval.report.curves import curves
from sparq_eval.report.panel import Panel, panel_cells
from sparq_eval.report.style import RC
from sparq_eval.results.record import safe

UNIT = 2**20
XLABEL = {
    "counted": "transfers per token\n(counted, 2²⁰ elements)",
    "nominal": "transfers per token\n(formula, 2²⁰ elements)",
}
GRID_COLUMNS = 3


def draw_all(records: pd.DataFrame, out: Path, transfers: str) -> None:
    """Draw `out`/<model>_<task>.svg and .png for each model, task and variant, and `out`/<model>.svg and .png."""
    plans = list(plan(records, transfers))
    names = distinct([name for name, _, _ in plans])
    with progress("plots", len(plans), "figures") as advance, matplotlib.rc_context(RC):
        for name, (_, title, panels) in zip(names, plans, strict=True):
            figure = single(panels[0], XLABEL[transfers]) if title is None else grid(title, panels, XLABEL[transfers])
            save(figure, out / name)
            advance(1)


def plan(records: pd.DataFrame, transfers: str) -> Iterator[tuple[str, str | None, list[Panel]]]:
    """Figures to draw: file name, title if it is a grid, panels."""
    placed = records.assign(x=records[transfers] / UNIT, x_dense=records[f"{transfers}_dense"] / UNIT)
    for model, of_model in placed.groupby("model", sort=False):
        panels = []
        for (task, variant), group in of_model.groupby(["task", "variant"], sort=False):
            # what moves nothing has no place on an axis of powers of two
            known = group[group["x"].gt(0) & np.isfinite(group["x"])]
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
    return compose("", panel_cells([panel], xlabel, COLUMN), 1, row=2.7)


def grid(title: str, panels: Sequence[Panel], xlabel: str) -> Figure:
    columns = min(GRID_COLUMNS, len(panels))
    width = COLUMN if columns == 1 else FULL / columns
    return compose(title, panel_cells(panels, xlabel, width), columns)


def count(samples: pd.Series) -> str:
    few, many = samples.min(), samples.max()
    return f"{few}" if few == many else f"{few}-{many}"


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
