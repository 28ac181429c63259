"""The needle in a haystack: heatmaps over length and depth (Figure A4), and Table 3 with every bin of lengths."""

import math
import re

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

from sparq_eval.report.canvas import COLUMN, FULL, blank
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import NEEDLE_MODEL, missing
from sparq_eval.report.paper.sources import Sources
from sparq_eval.report.style import COLOURS, drawable, label_of
from sparq_eval.results.record import safe

ID = re.compile(r"(\d+)-(\d+)")  # tokens of essays, and before how many of them the needle is
QUESTION = 128  # tokens that are kept for the needle and the question: 896 of essays make a prompt of 1,024
BIN = 8192
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
    samples = samples[(samples["task"] == "needle") & samples["variant"].isin(("", "A"))]
    found = [ID.fullmatch(str(name)) for name in samples["id"]]
    samples = samples[[match is not None for match in found]]
    lengths = [int(match[1]) for match in found if match]
    samples = samples.assign(
        length=[tokens + QUESTION for tokens in lengths],
        depth=[
            int(match[2]) / tokens if tokens else 0.0
            for match, tokens in zip(filter(None, found), lengths, strict=True)
        ],
    )
    ratios = sources.records.set_index("key")["counted_ratio"].to_dict()
    powers = {key: 1 if not ratio > 0 else 2 ** round(-math.log2(ratio)) for key, ratio in ratios.items()}
    return samples.assign(compression=samples["key"].map(powers))[names].reset_index(drop=True)


def lacking(rows: pd.DataFrame) -> list:
    return [] if (rows["model"] == NEEDLE_MODEL.name).any() else [missing(NEEDLE_MODEL.name, "needle")]


def figure_a4(sources: Sources) -> Drawing:
    """A picture for each model: a row for each compression, a column for each method, dense at the left."""
    rows = cells(sources)
    pictures = []
    for model, of_model in rows.groupby("model", sort=False):
        means = of_model.groupby(["method", "compression", "length", "depth"], sort=False)["score"].agg(
            ["mean", "count"]
        )
        table = means.reset_index()
        suffix = safe(str(model)) if rows["model"].nunique() > 1 else ""
        parts = [
            (f"{label_of(str(method))} at {share(compression)}", grid(part).reset_index())
            for (method, compression), part in table.groupby(["method", "compression"], sort=False)
        ]
        pictures.append(Picture(f"{model}: needles found", table, parts, heatmaps(str(model), table), suffix))
    return Drawing(pictures, keys(rows["key"]), lacking(rows))


def grid(part: pd.DataFrame) -> pd.DataFrame:
    """depth down, length across."""
    return part.pivot_table(index="depth", columns="length", values="mean")


def heatmaps(model: str, table: pd.DataFrame) -> object:
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
        mesh = one.pcolormesh(
            np.arange(part.shape[1] + 1),
            np.arange(part.shape[0] + 1),
            part.to_numpy(dtype=float),
            cmap=WORSE_TO_BETTER,
            vmin=0,
            vmax=1,
            linewidth=0.3,
            edgecolor="white",
        )
        one.grid(False)
        one.set_title(f"{label_of(method)}" + ("" if method == "dense" else f", {share(level)}"))
        mark(one, part)
    lowest = {
        column: max((row for row in range(rows) if axes[row][column].get_visible()), default=0)
        for column in range(columns)
    }
    for column, row in lowest.items():
        axes[row][column].tick_params(labelbottom=True)
        axes[row][column].set_xlabel("prompt length")
    for row in range(rows):
        first = next((one for one in axes[row] if one.get_visible()), None)
        if first is not None:
            first.tick_params(labelleft=True)
            first.set_ylabel("depth")
    if mesh is not None:
        figure.colorbar(mesh, ax=axes, shrink=0.7, pad=0.01, label="found", ticks=[0, 0.5, 1])
    return figure


def mark(axes: object, part: pd.DataFrame) -> None:
    lengths, depths = list(part.columns), list(part.index)
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


def bins(lengths: pd.Series) -> pd.Series:
    """The paper's bins, 8k wide, from the shortest on; each length by itself where none is beyond the first bin."""
    if lengths.max() <= BIN:
        return lengths.map(words)
    low = (lengths - 1) // BIN
    return low.map(lambda place: f"{max(8 * place, 1):g}k-{8 * (place + 1):g}k")


def table_3(sources: Sources) -> Drawing:
    """Needles found for each bin of lengths and compression, a column for each method; all bins, also the paper's first,
    which its table leaves out; below, the mean over all lengths.
    """
    rows = cells(sources)
    tables, parts = [], []
    for model, of_model in rows.groupby("model", sort=False):
        ordered = of_model.sort_values("length", kind="stable")
        binned = pd.concat([ordered.assign(bin=bins(ordered["length"])), ordered.assign(bin="all")])
        long = (
            binned.groupby(["bin", "compression", "method"], sort=False)["score"].agg(["mean", "count"]).reset_index()
        )
        tables.append(long.assign(model=model))
        parts.append((str(model), wide(long)))
    theirs = published(sources)
    notes = []
    if len(theirs):
        tables.append(theirs.assign(model=f"{NEEDLE_MODEL.name} (published)"))
        parts.append((f"{NEEDLE_MODEL.name}, published; 1k-8k is not in the paper's table", wide(theirs)))
        if lacking(rows):
            notes.append(f"published alone, no records of it: {NEEDLE_MODEL.name}")
    if not tables:
        return Drawing(missing=lacking(rows))
    numbers = pd.concat(tables)[["model", "bin", "compression", "method", "mean", "count"]]
    return Drawing([Picture("Needles found", numbers, parts)], keys(rows["key"]), lacking(rows), notes)


def wide(long: pd.DataFrame) -> pd.DataFrame:
    """Dense beside every compression, as in the paper's rows of compression 1."""
    order = list(dict.fromkeys(long["bin"]))
    table = long.pivot_table(index=["bin", "compression"], columns="method", values="mean", sort=False)
    table = table.reset_index().sort_values("compression", kind="stable")
    table = table.sort_values("bin", key=lambda names: names.map(order.index), kind="stable")
    first = [name for name in ("dense", "sparq", "h2o", "lm_infinite", "flexgen") if name in table]
    count = long.groupby("bin")["count"].max()
    table = table.assign(compression=table["compression"].map(share), needles=table["bin"].map(count))
    rest = [name for name in table if name not in (*first, "bin", "compression", "needles")]
    return table[["bin", "compression", "needles", *first, *rest]].rename(
        columns={"bin": "S"} | {name: label_of(name) for name in first}
    )


def published(sources: Sources) -> pd.DataFrame:
    curves = sources.paper.curves
    if curves.empty:
        return pd.DataFrame()
    chosen = curves[(curves["task"] == "needle") & (curves["model"] == NEEDLE_MODEL.name)]
    named = chosen["figure"].str.extract(r"(\d+k-\d+k)")[0].fillna("all")
    ratio = chosen["counted_ratio"]
    made = chosen.assign(
        bin=named, compression=(1 / ratio).round().astype(int), mean=chosen["value"], count=chosen["samples"]
    )
    order = made["bin"].map(lambda name: 99 if name == "all" else int(name.split("k")[0]))
    made = made.assign(order=order).sort_values(["order", "compression"], kind="stable")
    return made[["bin", "compression", "method", "mean", "count"]]
