"""Micro-benchmarks of attention in the form of the paper's Figures 8 and F1: over S, over batches, over budgets."""

import math
from collections.abc import Iterator

import pandas as pd

from sparq_eval.report.bench.lines import THEORY, Looks, brief, drawn, name_lines, over, tell_budgets_apart, theory
from sparq_eval.report.bench.published import published_lines, within
from sparq_eval.report.bench.rows import keys_of
from sparq_eval.report.chart import Chart, Plot, Series
from sparq_eval.results.record import safe

SHAPE = ("device", "dtype", "H", "G", "D")
BATCH, POSITIONS = 64, 4096
BUDGETS = (32, 128)  # r, k
BUDGET = {"r": "components read r", "k": "positions read k"}
XLABEL, TIME, SPEEDUP = "positions S", "time per query (µs)", "speed-up over dense"


def attention_plots(rows: pd.DataFrame, looks: Looks, published: pd.DataFrame) -> Iterator[Plot]:
    """For each device, dtype and shape of heads: SparQ at one batch and budget; over batches and over budgets where
    several were timed.

    rows: of `bench_rows`; published: the same columns, or empty.
    """
    rows = rows.assign(line=name_lines(rows))
    for _, group in rows.groupby(list(SHAPE), sort=False):
        shown = drawn(group)
        sparq = shown[shown["method"] == "sparq"]
        if sparq.empty:
            continue
        device, dtype, H, G, D = group[list(SHAPE)].iloc[0]
        name = f"bench-{safe(str(device))}-{dtype}-H{H}-G{G}-D{D}"
        where = f"{brief(device)}, {dtype}, H={H}, G={G}, D={D}"
        r, k = choose_budgets(sparq)
        at_budget = shown[(shown["method"] == "dense") | ((shown["method"] == "sparq") & is_budget(shown, r, k))]
        B = nearest(at_budget.loc[at_budget["method"] == "sparq", "B"], BATCH)
        others = comparable(published, group)
        grey = others[(others["method"] == "dense") | is_budget(others, r, k)] if len(others) else others
        at_batch, grey_batch = at_budget[at_budget["B"] == B], pick(grey, B)
        charts = (
            Chart("time", XLABEL, TIME, lines_of(at_batch, looks, grey_batch, "time"), log=True),
            Chart("speed-up", XLABEL, SPEEDUP, lines_of(at_batch, looks, grey_batch, "speedup"), level=1),
        )
        yield Plot(f"{name}-positions", f"{where}: B={B}, r={r}, k={k}", charts, 2, (THEORY,), keys_of(at_batch))
        batches = sorted(at_budget.loc[at_budget["method"] == "sparq", "B"].unique())
        panels = [
            Chart(
                f"B={one}",
                *(XLABEL, SPEEDUP),
                lines_of(at_budget[at_budget["B"] == one], looks, pick(grey, one), "speedup"),
                level=1,
            )
            for one in batches
        ]
        # with one batch or one budget they would show what the first plot shows
        if len(batches) > 1:
            yield Plot(
                f"{name}-batches",
                f"{where}: r={r}, k={k}",
                panels,
                2 if len(panels) != 3 else 3,
                (THEORY,),
                keys_of(at_budget),
            )
        # at the batch that has most budgets
        several = sparq.groupby("B")[["r", "k"]].apply(lambda part: len(part.drop_duplicates()))
        B = nearest(several[several == several.max()].index.to_series(), BATCH)
        budgets = budgets_plot(f"{name}-budgets", f"{where}: B={B}", sparq[sparq["B"] == B], looks, pick(others, B))
        if budgets.charts:
            yield budgets


def budgets_plot(name: str, title: str, sparq: pd.DataFrame, looks: Looks, grey: pd.DataFrame) -> Plot:
    """A panel for each S where there are several budgets: over k, a line for each r; over r where k is one."""
    x, other = ("k", "r") if sparq["k"].nunique() > 1 else ("r", "k")
    fixed = sparq[other].iloc[0]
    if sparq[other].nunique() > 1:
        sparq = sparq.assign(line=[f"{line} {other}={n}" for line, n in zip(sparq["line"], sparq[other], strict=True)])
        looks = tell_budgets_apart(looks, sparq["line"])
    panels = []
    for S, own in sparq.groupby("S"):
        own = own[own.groupby("line")[x].transform("nunique") > 1]
        if len(own):
            theirs = grey[(grey["S"] == S) & (grey[other] == fixed).fillna(False)] if len(grey) else grey
            published = () if sparq[other].nunique() > 1 else published_lines(theirs, "speedup", x)
            lines = (*over(own, own["speedup"], looks, x=x), *theory(own, looks, x), *published)
            panels.append(Chart(f"S={S}", BUDGET[x], SPEEDUP, lines, level=1))
    return Plot(name, title, panels, min(max(len(panels), 1), 3), (THEORY,), keys_of(sparq))


def lines_of(rows: pd.DataFrame, looks: Looks, grey: pd.DataFrame, what: str) -> tuple[Series, ...]:
    """what: `time` (µs per query, dense among them) or `speedup` (sparse lines and what bytes allow)."""
    grey = within(grey, rows)
    if what == "time":
        micro = 1e6 / rows["B"]
        own = over(rows, rows["seconds"] * micro, looks, band=1e6 / rows["B"].iloc[0])
        return (*own, *published_lines(grey, "time"))
    sparse = rows[rows["method"] != "dense"]
    own = over(sparse, sparse["speedup"], looks)
    return (*own, *theory(sparse, looks), *published_lines(grey, "speedup"))


def choose_budgets(sparq: pd.DataFrame) -> tuple[int, int]:
    """The paper's r=32, k=128 where it was timed, otherwise what was timed most often."""
    pairs = list(zip(sparq["r"], sparq["k"], strict=True))
    return max(sorted(set(pairs)), key=lambda pair: (pair == BUDGETS, pairs.count(pair)))


def is_budget(rows: pd.DataFrame, r: int, k: int) -> pd.Series:
    return ((rows["r"] == r) & (rows["k"] == k)).fillna(False).astype(bool)


def nearest(values: pd.Series, wanted: float) -> int:
    """The value whose ratio to `wanted` is nearest to one, the larger of two."""
    return int(min(sorted(set(values), reverse=True), key=lambda value: abs(math.log(value / wanted))))


def comparable(published: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """What was published for this kind of device, dtype and shape of heads."""
    if published.empty:
        return published
    first = group.iloc[0]
    same = pd.concat([published[name] == first[name] for name in ("gpu", "dtype", "H", "G", "D")], axis=1)
    return published[same.all(axis=1)]


def pick(rows: pd.DataFrame, B: int) -> pd.DataFrame:
    return rows[rows["B"] == B] if len(rows) else rows
