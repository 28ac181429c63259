"""Tokens of whole models, timed: the share of attention (Figures 3 and D1) and end to end (9 on CPUs, 10 on GPUs)."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import linregress

from sparq_eval.report.bench.attention import SPEEDUP, XLABEL
from sparq_eval.report.bench.decode import decode_plots, milliseconds
from sparq_eval.report.bench.lines import THEORY, brief
from sparq_eval.report.bench.published import GREYS, published_lines
from sparq_eval.report.bench.rows import is_fastest_dense, keys_of
from sparq_eval.report.chart import Chart, Plot, Series
from sparq_eval.report.paper.drawing import Drawing, Picture
from sparq_eval.report.paper.kernels import looks_of
from sparq_eval.report.paper.models import Missing
from sparq_eval.report.paper.sources import Sources
from sparq_eval.report.style import SPARE_COLOURS

BENCH = "python -m sparq_eval.bench decode --model llama-2-7b"
COMMAND = {
    True: Missing(
        "llama-2-7b on a GPU", f"{BENCH} --length 4096 8192 16384 32768 --k-share 16 --dtype bfloat16 --device cuda"
    ),
    False: Missing(
        "llama-2-7b on a CPU (as on a GPU: the paper's CPU has k = S/12, r = d/12 and up to 131,072 positions)",
        f"{BENCH} --length 4096 8192 16384 32768 --k-share 16 --dtype float32 --device cpu",
    ),
}
MODEL = "llama-2-7b"


def lacking(sources: Sources, kinds: tuple[bool, ...] = (True, False)) -> list[Missing]:
    rows = sources.decode
    timed = rows[(rows["model"] == MODEL) & rows["seconds"].notna()] if len(rows) else rows
    there = set(timed["gpu"]) if len(timed) else set()
    return [COMMAND[gpu] for gpu in kinds if gpu not in there]


def charts_of(sources: Sources, rows: pd.DataFrame, ending: str) -> Iterator[Chart]:
    """Panels of every model's plot whose name ends so, the model before the device."""
    for plot in decode_plots(rows, looks_of(sources), sources.paper.benches.decode):
        if plot.name.endswith(ending):
            model = plot.title.split(":")[0]
            yield from (replace(chart, title=f"{model}, {chart.title.replace(chr(10), ', ')}") for chart in plot.charts)


def figure_3(sources: Sources) -> Drawing:
    charts = list(charts_of(sources, sources.decode, "-attention-share")) if len(sources.decode) else []
    if not charts:
        return Drawing(missing=lacking(sources))
    plot = Plot("fig3", "share of a token's time that attention takes", charts, min(2, len(charts)))
    return Drawing([Picture.of(plot)], keys_of(sources.decode), lacking(sources))


def end_to_end(sources: Sources, gpu: bool) -> Drawing:
    rows = sources.decode[sources.decode["gpu"] == gpu] if len(sources.decode) else sources.decode
    charts = list(charts_of(sources, rows, "-token")) if len(rows) else []
    name, missing, notes = "fig10" if gpu else "fig9", lacking(sources, (gpu,)), []
    title = "a token of a whole model on " + ("GPUs" if gpu else "CPUs")
    theirs = sources.paper.benches.decode
    theirs = theirs[theirs["gpu"] == gpu] if len(theirs) else theirs
    if missing and len(theirs):
        charts += alone(theirs)
        notes.append(f"published alone, no records of it: {missing[0].what}")
    if not charts:
        return Drawing(missing=missing)
    return Drawing([Picture.of(Plot(name, title, charts, 2, (THEORY,)))], keys_of(rows), missing, notes)


def alone(theirs: pd.DataFrame) -> Iterator[Chart]:
    title = f"published: {MODEL}"
    time = tuple(milliseconds(theirs.dropna(subset="seconds")))
    if any(len(series.points) for series in time):
        yield Chart(title, XLABEL, "time per token (ms)", time, log=True)
    yield Chart(title, XLABEL, SPEEDUP, tuple(published_lines(theirs, "speedup")), level=1)


def figure_d1(sources: Sources) -> Drawing:
    """Time of a dense token over S, and the line through it, a panel for each model, device and dtype; what was
    published of a device is such a line alone.
    """
    rows = sources.decode
    dense = rows[is_fastest_dense(rows) & rows["seconds"].notna()] if len(rows) else rows
    charts, notes = [], []
    if len(dense):
        for (model, device, dtype, B), group in dense.groupby(["model", "device", "dtype", "B"], sort=False):
            title = f"{model}, {brief(str(device))}, {dtype}" + ("" if B == 1 else f", B={B}")
            charts.append(Chart(title, "positions S", "time per token (ms)", tuple(fitted(group)), linear=True))
    if theirs := tuple(published(sources)):
        charts.append(Chart("published fits: llama-2-7b", "positions S", "time per token (ms)", theirs, linear=True))
        notes.append("the published lines are fits, on other machines")
    if not charts:
        return Drawing(missing=lacking(sources))
    plot = Plot("figD1", "time of a dense token", charts, min(2, len(charts)))
    return Drawing([Picture.of(plot)], keys_of(dense), lacking(sources), notes)


def fitted(group: pd.DataFrame) -> Iterator[Series]:
    group = group.sort_values("S")
    x, y = group["S"].to_numpy(dtype=float), group["seconds"].to_numpy(dtype=float) * 1e3
    points = pd.DataFrame({"x": x, "y": y, "low": group["low"] * 1e3, "high": group["high"] * 1e3})
    yield Series("dense, fastest", points, "#333333", "o", "")
    if len(np.unique(x)) > 1:
        line = linregress(x, y)
        ends = np.array([0.0, x.max()])
        label = "line through them"
        yield Series(label, pd.DataFrame({"x": ends, "y": line.intercept + line.slope * ends}), SPARE_COLOURS[0])


def published(sources: Sources) -> Iterator[Series]:
    tables = sources.paper.tables
    for place, one in enumerate(tables[tables["table"].str.startswith("Eq. D")].to_dict("records")):
        found = re.fullmatch(r"([\d.e-]+)\*S \+ ([\d.e-]+)", str(one["value"]))
        if found:
            slope, start = float(found[1]) * 1e3, float(found[2]) * 1e3
            ends = np.array([0.0, 16384.0])
            label = f"published: {one['row']}"
            points = pd.DataFrame({"x": ends, "y": start + slope * ends})
            yield Series(label, points, GREYS[place % len(GREYS)], dashes="-" if place else "--", width=0.9, under=True)
