"""One trade-off plot in the paper's form: score against transfers, log2 from dense downwards, dense as a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sparq_eval.report.canvas import ACROSS, Cell, Key
from sparq_eval.report.curves import Curve
from sparq_eval.report.style import DASHES, DENSE, METRICS, PALE, PUBLISHED, Look, drawable, label_of, looks, paler

# worst and best score shown, as multiples of dense: the paper's
RANGES = {"repetition": (0.0, 1.1), "needle": (0.0, 1.1)}
UPWARD, DOWNWARD = (0.5, 1.05), (1.25, 1 / 1.025)
SMALLEST = 1 / 10  # of dense's transfers


@dataclass(frozen=True)
class Panel:
    """The records of one model and task, their transfers in 2^20 elements as `x`, and their lines.

    published: lines of the same model and task that the paper has, laid under them.
    """

    title: str
    records: pd.DataFrame
    lines: Sequence[Curve]
    published: Sequence[Curve] = ()

    @property
    def dense(self) -> pd.DataFrame:
        return self.records[self.records["method"] == "dense"].head(1)

    @property
    def ylabel(self) -> str:
        metric = str(self.records["metric"].iloc[0])
        lower = "" if self.records["higher_is_better"].iloc[0] else "\nlower is better"
        return drawable(METRICS.get(metric, metric), 36).replace(" (", "\n(") + lower


def panel_cells(panels: Sequence[Panel], xlabel: str, width: float) -> list[Cell]:
    """Panels of one figure, a method looking the same in all of them. width: of each in inches."""
    shown = appearance([line for panel in panels for line in (*panel.lines, *panel.published)])
    cells = []
    for panel in panels:
        keys = (
            [Key(label_of("dense"), {"color": DENSE, "linestyle": DASHES, "linewidth": 1})] if len(panel.dense) else []
        )
        keys += [Key(drawable(line.label, 48), own_style(shown[line.label])) for line in panel.lines]
        keys += [
            Key(f"published: {drawable(line.label, 48)}", published_style(shown[line.label]), True)
            for line in panel.published
        ]
        paint = partial(draw, panel=panel, looks=shown, width=width)
        cells.append(Cell(paint, xlabel, panel.ylabel, keys))
    return cells


def appearance(lines: Sequence[Curve]) -> dict[str, Look]:
    methods = list(dict.fromkeys(line.method for line in lines))
    every = dict.fromkeys((line.method, line.label, line.rank) for line in lines)
    return looks(sorted(every, key=lambda line: (methods.index(line[0]), line[2])))


def own_style(look: Look) -> dict[str, Any]:
    return {"color": look.colour, "marker": look.marker, "markeredgecolor": "white", "markeredgewidth": 0.4}


def published_style(look: Look) -> dict[str, Any]:
    return {"color": paler(look.colour, PALE), "marker": look.marker, "markersize": 2.6, **PUBLISHED}


def draw(axes: Axes, panel: Panel, looks: dict[str, Look], width: float) -> None:
    worst, best = score_range(panel)
    left, right = transfer_range(panel)
    axes.set_xscale("log", base=2)
    axes.set_xlim(left, right)
    axes.set_ylim(worst, best)
    ticks = powers(right, left)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    names = [f"{tick:g}" if tick >= 0.25 else f"1/{1 / tick:g}" for tick in ticks]
    # at most as many as fit side by side
    apart = math.ceil(sum(len(name) + 2 for name in names) / (width * ACROSS))
    axes.xaxis.set_major_formatter(
        FixedFormatter([name if place % apart == 0 else "" for place, name in enumerate(names)])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    longest = int(width * ACROSS)
    axes.set_title("\n".join(drawable(line, longest) for line in panel.title.splitlines()))
    for line in panel.published:
        x, value = line.points["x"], line.points["value"]
        axes.plot(x, value, zorder=1.8, **published_style(looks[line.label]))
    for line in panel.lines:
        draw_line(axes, line, looks[line.label])
    for x, value in panel.dense[["x", "value"]].dropna().itertuples(index=False):
        axes.axhline(value, color=DENSE, linestyle=DASHES, linewidth=1)
        axes.plot(x, value, "o", color=DENSE)
    mark_hidden(axes, panel, looks, (worst, best), width)


def draw_line(axes: Axes, line: Curve, look: Look) -> None:
    x, value, error = (line.points[name].to_numpy(dtype=float) for name in ("x", "value", "stderr"))
    axes.fill_between(x, value - error, value + error, color=look.colour, alpha=0.14, linewidth=0)
    axes.plot(x, value, **own_style(look))


def mark_hidden(axes: Axes, panel: Panel, looks: dict[str, Look], ends: tuple[float, float], width: float) -> None:
    """An open triangle at the edge for each setting that the range leaves out, and a note that says how many: where it
    covers nothing, or below the title. ends: the worst and the best score that are shown.
    """
    worst, best = ends
    hidden = [
        (x, value, looks[line.label].colour)
        for line in panel.lines
        for x, value in zip(line.points["x"], line.points["value"], strict=True)
        if (value < worst if worst < best else value > worst)
    ]
    for x, _, colour in hidden:
        axes.plot(x, worst, "v", color="white", markeredgecolor=colour, markeredgewidth=1, clip_on=False, zorder=5)
    if hidden:
        values = [value for _, value, _ in hidden]
        furthest = min(values) if worst < best else max(values)
        text = f"▽ {len(hidden)} off the plot, to {furthest:.3g}"
        paper = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
        # what is beside the axes takes some of the panel's width
        size = min(len(text) / (1.5 * ACROSS * max(width - 0.7, 1)), 0.96), 0.12
        (x, y), covered = emptiest(on_axes(axes, panel, hidden, worst), size)
        if covered:
            axes.set_title(f"{axes.get_title()}\n{text}")
            return
        # a text may be somewhat longer than it was thought
        x, side = (0.02, "left") if x <= 0.02 else (x + size[0], "right")
        axes.annotate(text, (x, y), xycoords="axes fraction", ha=side, fontsize=6.5, color="#555555", bbox=paper)


def on_axes(axes: Axes, panel: Panel, hidden: Sequence[tuple], worst: float) -> np.ndarray:
    """What is drawn as points in fractions of the axes: marks, and lines between them."""
    data = [line.points[["x", "value"]].to_numpy(dtype=float) for line in panel.lines]
    data += [np.array([[x, worst]]) for x, _, _ in hidden]
    data += [np.array([[end, value] for end in axes.get_xlim()]) for value in panel.dense["value"].dropna()]
    found = []
    for points in data:
        placed = axes.transAxes.inverted().transform(axes.transData.transform(points))
        # a mark takes more room than a line
        found += [placed] * 5
        for one, other in pairwise(placed[np.isfinite(placed).all(axis=1)]):
            # as many points as the line is long
            steps = np.linspace(0, 1, min(2 + int(60 * np.hypot(*(other - one))), 1000))
            found.append(one + steps[:, None] * (other - one))
    return np.concatenate(found)


def emptiest(points: np.ndarray, size: tuple[float, float]) -> tuple[tuple[float, float], int]:
    """The lower left corner of a box of this size that covers the fewest points, the lowest of equal ones, and how many
    it covers. All in fractions of the axes.
    """
    across, up = np.linspace(0.02, max(0.02, 0.98 - size[0]), 7), np.linspace(0.04, 0.76, 13)
    places = [(float(x), float(y)) for y in up for x in across]
    pad = 0.03

    def covered(place: tuple[float, float]) -> int:
        inside = [(points[:, n] > place[n] - pad) & (points[:, n] < place[n] + size[n] + pad) for n in (0, 1)]
        return int((inside[0] & inside[1]).sum())

    best = min(places, key=covered)
    return best, covered(best)


def score_range(panel: Panel) -> tuple[float, float]:
    """The paper's range around dense, the better end moved to hold every point. Without a dense score: all points."""
    records = panel.records
    upward = bool(records["higher_is_better"].iloc[0])
    ends = records["value"] + records["stderr"] * (1 if upward else -1)
    dense = panel.dense["value"].dropna()
    values = pd.concat([ends, records["value"]]).dropna()
    if values.empty:
        return 0.0, 1.0
    if dense.empty or not dense.iloc[0] > 0:
        pad = (values.max() - values.min()) * 0.08 or abs(values.max()) * 0.05 or 0.5
        low, high = values.min() - pad, values.max() + pad
        # where no score is below zero, the axis hardly is
        low = max(low, -0.04 * high) if values.min() >= 0 else low
        return (low, high) if upward else (high, low)
    worst, best = RANGES.get(str(records["task"].iloc[0]), UPWARD) if upward else DOWNWARD
    anchor = float(dense.iloc[0])
    room = abs(best - worst) * anchor * 0.03
    if upward:
        return worst * anchor, max(best * anchor, values.max() + room)
    return worst * anchor, min(best * anchor, values.min() - room)


def transfer_range(panel: Panel) -> tuple[float, float]:
    """From just above dense to a tenth of it, wider where points lie outside. What is not above 0 lies nowhere."""
    x, dense, beside = (
        part[np.isfinite(part) & (part > 0)]
        for part in (panel.records["x"], panel.dense["x"], panel.records["x_dense"])
    )
    if x.empty:
        return 1.05, SMALLEST
    full = float(dense.iloc[0]) if len(dense) else float(max(beside.max(), x.max()) if len(beside) else x.max())
    return 1.05 * max(full, x.max()), min(SMALLEST * full, x.min() / 1.1)


def powers(low: float, high: float) -> list[float]:
    """Powers of two between low and high, at most about seven."""
    exponents = np.arange(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    return [float(2.0**exponent) for exponent in exponents[:: len(exponents) // 8 + 1]]
