"""The needle in a haystack: what was found at each length and depth, as heatmaps (Figure A4)."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sparq_eval.report.canvas import COLUMN, FULL, blank
from sparq_eval.report.needles import needles
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import NEEDLE_MODEL, Missing
from sparq_eval.report.paper.sources import Sources, plain
from sparq_eval.report.style import COLOURS, drawable, label_of
from sparq_eval.results.record import safe

QUESTION = 128  # tokens that are kept for the needle and the question: 896 of essays make a prompt of 1,024
WORSE_TO_BETTER = LinearSegmentedColormap.from_list("found", ["#F3F3F3", "#B5CFE3", COLOURS["sparq"], "#00304F"])


def cells(sources: Sources) -> pd.DataFrame:
    """model, method, settings, key, compression, length, depth, score: a row for each answer.

    compression: dense's transfers over the setting's, as the nearest power of two; length: of the prompt; depth: 0 at
    its beginning, 1 at its end.
    """
    names = ["model", "method", "settings", "key", "compression", "length", "depth", "score"]
    samples = sources.samples
    if samples.empty:
        return pd.DataFrame(columns=names)
    samples = needles(samples[(samples["task"] == "needle") & samples["variant"].isin(("", "A"))])
    samples = samples.assign(length=samples["length"] + QUESTION)
    levels = compressions(sources.records[sources.records["key"].isin(samples["key"])], sources.ratio)
    samples = samples[samples["key"].isin(levels)]
    return samples.assign(compression=samples["key"].map(levels))[names].reset_index(drop=True)


def compressions(records: pd.DataFrame, share: str = "counted_ratio") -> dict[str, int]:
    """Of each setting drawn, by key: of several of one model and method with the same compression the nearest to it.
    share: the column with transfers.
    """
    records = plain(records)
    records = records.assign(ratio=records[share].where(records["method"] != "dense", 1.0))
    records = records[records["ratio"] > 0]
    level = [2 ** max(0, round(-math.log2(ratio))) for ratio in records["ratio"]]
    far = [abs(math.log(ratio * one)) for ratio, one in zip(records["ratio"], level, strict=True)]
    chosen = records.assign(level=level, far=far).sort_values("far", kind="stable")
    chosen = chosen.drop_duplicates(["model", "method", "level"])
    return dict(zip(chosen["key"], chosen["level"], strict=True))


def lacking(sources: Sources) -> list[Missing]:
    return sources.missing(NEEDLE_MODEL.name, "needle", ("sparq", "h2o", "lm_infinite"))


def figure_a4(sources: Sources) -> Drawing:
    """A picture for each model: a row for each compression, a column for each method, dense at the left."""
    rows = cells(sources)
    pictures = []
    for model, of_model in rows.groupby("model", sort=False):
        scores = of_model.groupby(["method", "compression", "length", "depth"], sort=False)["score"]
        table = scores.agg(["mean", "count"]).reset_index()
        suffix = safe(str(model)) if rows["model"].nunique() > 1 else ""
        parts = [
            (f"{label_of(str(method))} at {share(int(str(compression)))}", grid(part).reset_index())
            for (method, compression), part in table.groupby(["method", "compression"], sort=False)
        ]
        pictures.append(Picture(f"{model}: needles found", table, parts, heatmaps(str(model), table), suffix))
    return Drawing(pictures, keys(rows["key"]), lacking(sources))


def grid(part: pd.DataFrame) -> pd.DataFrame:
    """depth down, length across."""
    return part.pivot_table(index="depth", columns="length", values="mean")


def heatmaps(model: str, table: pd.DataFrame) -> Figure:
    methods = [method for method in dict.fromkeys(table["method"]) if method != "dense"]
    levels = sorted(set(table.loc[table["method"] != "dense", "compression"]))
    places = [("dense", 1), *((method, level) for level in levels for method in methods)]
    columns = 1 + len(methods)
    rows = max(len(levels), 1)
    figure = blank(FULL if columns > 2 else COLUMN, 1.55 * rows + 0.55)
    figure.suptitle(drawable(f"{model}: needles found"), fontsize=8.5)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for one in axes.flat:
        one.set_visible(False)
    mesh = None
    for method, level in places:
        part = grid(table[(table["method"] == method) & (table["compression"] == level)])
        if part.empty:
            continue
        row = levels.index(level) if level in levels else 0
        one = axes[row][0 if method == "dense" else 1 + methods.index(method)]
        one.set_visible(True)
        across, down = np.arange(part.shape[1] + 1), np.arange(part.shape[0] + 1)
        look = {"cmap": WORSE_TO_BETTER, "vmin": 0, "vmax": 1, "linewidth": 0.3, "edgecolor": "white"}
        mesh = one.pcolormesh(across, down, part.to_numpy(dtype=float), **look)
        one.grid(False)
        one.set_title(f"{label_of(method)}" + ("" if method == "dense" else f", {share(level)}"))
        mark(one, part)
    for column in range(columns):
        for one in [one for one in axes[:, column] if one.get_visible()][-1:]:
            one.tick_params(labelbottom=True)
            one.set_xlabel("prompt length")
    for row in range(rows):
        first = next((one for one in axes[row] if one.get_visible()), None)
        if first is not None:
            first.tick_params(labelleft=True)
            first.set_ylabel("depth")
    if mesh is not None:
        figure.colorbar(mesh, ax=axes, shrink=0.7, pad=0.01, label="found", ticks=[0, 0.5, 1])
    return figure


def mark(axes: Axes, part: pd.DataFrame) -> None:
    lengths, depths = [int(name) for name in part.columns], [float(name) for name in part.index]
    step = max(1, len(lengths) // 4)
    shown = range(step - 1 if len(lengths) > 4 else 0, len(lengths), step)
    axes.set_xticks([place + 0.5 for place in shown], [words(lengths[place]) for place in shown])
    ends = [0, len(depths) // 2, len(depths) - 1] if len(depths) > 2 else range(len(depths))
    axes.set_yticks([place + 0.5 for place in ends], [f"{depths[place]:.2g}" for place in ends])
    axes.invert_yaxis()
    axes.tick_params(length=2)


def words(length: int) -> str:
    return f"{length / 1024:g}k" if length % 1024 == 0 else str(length)


def share(compression: int) -> str:
    return "1" if compression == 1 else f"1/{compression}"
