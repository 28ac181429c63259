"""Attention alone, timed: micro-benchmarks (Figures 8 and F1, Table 4), roofline (2) and arithmetic intensity (C1)."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from sparq_eval.report.bench.attention import (
    BATCH,
    BUDGETS,
    POSITIONS,
    SPEEDUP,
    TIME,
    XLABEL,
    attention_plots,
    is_budget,
)
from sparq_eval.report.bench.lines import Looks, assign_looks, name_lines
from sparq_eval.report.bench.published import published_lines
from sparq_eval.report.bench.roofline import intensity_plot, roofline_plots
from sparq_eval.report.bench.tables import table_4_long, table_4_parts
from sparq_eval.report.bench.tables import theirs as published_rows
from sparq_eval.report.chart import Chart, Plot
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import Missing
from sparq_eval.report.paper.sources import Sources

BENCH = "python -m sparq_eval.bench attention"
GPU = Missing("a GPU", f"{BENCH} --batch 1 4 16 64 --length 2048 4096 8192 16384 --dtype float16 --device cuda")
CPU = Missing("a CPU", f"{BENCH} --batch 1 --length 2048 4096 8192 16384 --dtype float32 --device cpu")
SWEEP = Missing(
    "several budgets on one device",
    f"{BENCH} --batch 64 --length 2048 4096 8192 16384 --r 16 32 64 --k 64 128 256 512 --dtype float16 --device cuda",
)


# titles of panels that their axes say again
PLAIN = ("time", "speed-up")
ALONE = "published alone, no records of benchmarks"


def looks_of(sources: Sources) -> Looks:
    """One look for each line, the same in all figures of benchmarks."""
    both = (sources.attention, sources.decode)
    return assign_looks([label for rows in both if len(rows) for label in name_lines(rows)])


def lacking(sources: Sources) -> list[Missing]:
    rows = sources.attention
    sparq = rows[(rows["method"] == "sparq") & rows["seconds"].notna()] if len(rows) else rows
    there = set(sparq["gpu"]) if len(sparq) else set()
    return [one for one, gpu in ((GPU, True), (CPU, False)) if gpu not in there]


def joined(name: str, title: str, plots: Sequence[Plot], columns: int) -> Plot:
    """One plot of all panels. What all plots say of machine and heads goes into its title, the rest before their
    panels'.
    """
    places = [plot.title.partition(": ")[0].split(", ") for plot in plots]
    shared = [word for word in places[0] if all(word in place for place in places)]
    title = ": ".join(filter(None, (title, ", ".join(shared))))
    own = [", ".join(word for word in place if word not in shared) for place in places]
    plots = [
        replace(plot, title=": ".join(filter(None, (place, plot.title.partition(": ")[2]))))
        for place, plot in zip(own, plots, strict=True)
    ]
    charts = [
        replace(chart, title="\n".join(filter(None, (plot.title, chart.title if chart.title not in PLAIN else ""))))
        for plot in plots
        for chart in plot.charts
    ]
    return Plot(name, title, charts, columns, plots[0].notes, keys(*(plot.records for plot in plots)))


def micro(sources: Sources, endings: Sequence[str]) -> list[Plot]:
    rows = sources.attention
    if rows.empty:
        return []
    plots = attention_plots(rows, looks_of(sources), sources.paper.benches.attention)
    return [plot for plot in plots if plot.name.endswith(tuple(endings)) and not plot.empty]


def figure_8(sources: Sources) -> Drawing:
    plots = micro(sources, ["-positions"])
    # what was timed at one size alone is for Table 4
    swept = [plot for plot in plots if any(len(line.points) > 1 for chart in plot.charts for line in chart.series)]
    if plots := swept or plots:
        plot = joined("fig8", "one decode step of attention", plots, 2)
        return Drawing([Picture.of(plot)], plot.records, lacking(sources))
    return published_alone(sources)


def published_alone(sources: Sources) -> Drawing:
    theirs = of_gpus(sources)
    if theirs.empty:
        return Drawing(missing=lacking(sources))
    chosen = at_budgets(theirs[theirs["B"] == BATCH])
    charts = [
        Chart("", XLABEL, TIME, tuple(published_lines(chosen, "time")), log=True),
        Chart("", XLABEL, SPEEDUP, tuple(published_lines(chosen, "speedup")), level=1),
    ]
    plot = Plot("fig8", f"published: B={BATCH}, r={BUDGETS[0]}, k={BUDGETS[1]}", charts, 2)
    return Drawing([Picture.of(plot)], (), lacking(sources), [ALONE])


def of_gpus(sources: Sources) -> pd.DataFrame:
    """What was published of GPUs."""
    theirs = sources.paper.benches.attention
    return theirs[theirs["gpu"].astype(bool)] if len(theirs) else theirs


def at_budgets(theirs: pd.DataFrame) -> pd.DataFrame:
    return theirs[(theirs["method"] == "dense") | is_budget(theirs, *BUDGETS)]


def figure_f1(sources: Sources) -> Drawing:
    """Over batches and over budgets, where several were timed; what was published alone, over batches."""
    plots = micro(sources, ["-batches", "-budgets"])
    missing = [] if any(plot.name.endswith("-budgets") for plot in plots) else [SWEEP]
    if plots:
        plot = joined("figF1", "speed-up of SparQ over batches and budgets", plots, 3)
        return Drawing([Picture.of(plot)], plot.records, missing)
    theirs = of_gpus(sources)
    if theirs.empty or len(sources.attention):
        return Drawing(missing=missing)
    charts = [
        Chart(f"B={B}", XLABEL, SPEEDUP, tuple(published_lines(at_budgets(part), "speedup")), level=1)
        for B, part in theirs.groupby("B")
    ]
    plot = Plot("figF1", f"published: r={BUDGETS[0]}, k={BUDGETS[1]}", charts, 2)
    return Drawing([Picture.of(plot)], (), missing, [ALONE])


def table_4(sources: Sources) -> Drawing:
    title, notes, theirs = "SparQ's implementations at one size", [], of_gpus(sources)
    parts = table_4_parts(sources.attention, sources.paper.benches.attention) if len(sources.attention) else []
    if not parts and len(theirs):
        size = (BATCH, POSITIONS, *BUDGETS)
        parts, notes = [("B={}, S={}, r={}, k={}".format(*size), published_rows(theirs, *size))], [ALONE]
    if not parts:
        return Drawing(missing=lacking(sources))
    numbers = table_4_long(parts)
    used = keys(numbers["record"].dropna()) if "record" in numbers else ()
    return Drawing([Picture(title, numbers, parts)], used, lacking(sources), notes)


def figure_2(sources: Sources) -> Drawing:
    plots = [plot for plot in roofline_plots(sources.attention) if not plot.empty] if len(sources.attention) else []
    if not plots:
        return Drawing(missing=lacking(sources))
    plot = joined("fig2", "attention under each machine's ceilings", plots, min(2, len(plots)))
    return Drawing([Picture.of(plot)], plot.records, lacking(sources))


def figure_c1(sources: Sources) -> Drawing:
    """From a formula; the records give where each machine stops waiting for its memory."""
    plot = intensity_plot(sources.attention)
    missing = [] if plot.records else [GPU]
    return Drawing([Picture.of(plot)], plot.records, missing, ["the curves are a formula's"])
