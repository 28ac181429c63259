"""Figure 7: what SparQ owes to how it ranks positions (a), to its temperature (b), and to its two budgets (c)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from sparq_eval.report.canvas import FULL, Cell, compose
from sparq_eval.report.chart import Chart, Series, cell, published
from sparq_eval.report.curves import Curve
from sparq_eval.report.figures import XLABEL, count
from sparq_eval.report.panel import Panel, panel_cells
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import LLAMA2_7B, Missing, measure
from sparq_eval.report.paper.sources import PAPER_K, Sources
from sparq_eval.report.style import COLOURS, MARKERS, METRICS, SPARE_COLOURS
from sparq_eval.statistics.lines import USUAL

SCORES = {"query": "SparQ", "low_rank": "random low rank", "oracle": "exact scores, free"}
OFF = "no reallocation"
TEMPERATURES = {OFF: "no real-\nlocation", "none": "1", "sqrt_r": "√r", "sqrt_d": "√d", "coverage": "√(d·cov.)"}
TASK = "squad"
SWEPT = ("squad", "repetition")  # of r and k
# of temperatures: none of those that ranking and budgets have
HUES = (COLOURS["lm_infinite"], COLOURS["h2o"], COLOURS["flexgen"], SPARE_COLOURS[3])
MARKS = tuple(MARKERS.values())[1:]
Part = tuple[str, pd.DataFrame, pd.DataFrame]


def figure_7(sources: Sources) -> Drawing:
    """Of the paper's Llama 2 7B where there are records of it, otherwise of the model with most settings of SparQ. What
    was published lies under the one, and in panels of its own beside the other: its scores are another model's.
    """
    model = model_of(sources)
    same = model == LLAMA2_7B.name
    cells: list[Cell | None] = []
    numbers, alone = [], []
    lacking: dict[str, tuple[str, list[str]]] = {}  # of each command: its task, and the panels that need it
    for letter in "abc":
        for task in SWEPT if letter == "c" else (TASK,):
            own = on_shared(select(letter, unfolded(sources.settings_of(model, task))), sources.samples)
            theirs = select(letter, unfolded(sources.published_of(LLAMA2_7B.name, task, f"Fig 7{letter}")))
            if own.empty or not same:
                lacking.setdefault(command(task), (task, []))[1].append(letter)
            if len(theirs) and (own.empty or not same):
                alone.append(f"{letter} ({task})")
            title = f"({letter}) {task}"
            beside = [(title, own, theirs)]
            if not same:
                beside = [(title, own, theirs.head(0)), (f"{title}, {LLAMA2_7B.name}", own.head(0), theirs)]
            beside = [part for part in beside if len(part[1]) or len(part[2])]
            cells += by_temperature(beside) if letter == "b" else trade_offs(letter, beside, sources)
            numbers.append(own.assign(panel=letter))
    missing = [
        Missing(f"{LLAMA2_7B.name} {task}, {'panels' if len(letters) > 1 else 'panel'} {', '.join(letters)}", words)
        for words, (task, letters) in lacking.items()
    ]
    if not cells:
        return Drawing(missing=missing)
    table = pd.concat(numbers) if numbers else pd.DataFrame()
    names = ["panel", "task", "score", "temperature", "r", "k", "samples", "value", "stderr", "counted_ratio", "key"]
    table = table[[name for name in names if name in table]]
    notes = [f"published alone, no records of {LLAMA2_7B.name}: panels {', '.join(alone)}"] if alone else []
    parts = [(f"({letter})", part.drop(columns=["panel", "key"])) for letter, part in table.groupby("panel")]
    title = f"SparQ's parts: {model}"
    picture = Picture(title, table, parts, compose(title, cells, min(len(cells), 2), 2.0))
    return Drawing([picture], keys(table["key"]), missing, notes)


def command(task: str) -> str:
    """The grid has all panels; of repetition the last alone is shown."""
    swept = "method=sparq r=[16,32,64] k=[32,64,128,256]"
    return measure(LLAMA2_7B.name, task, "method=[dense,sparq] grid=ablations" if task == TASK else swept)


def model_of(sources: Sources) -> str:
    sparq = sources.records[(sources.records["method"] == "sparq") & sources.records["task"].isin(SWEPT)]
    if (sparq["model"] == LLAMA2_7B.name).any() or sparq.empty:
        return LLAMA2_7B.name
    return str(sparq.groupby("model")["settings"].nunique().idxmax())


def unfolded(records: pd.DataFrame) -> pd.DataFrame:
    """Dense and SparQ, with the settings that are ablated as columns; those that vary what the figure does not, or are
    none that it knows, are left out.
    """
    records = records[records["method"].isin(("dense", "sparq"))]
    read = [json.loads(settings) for settings in records["settings"]]
    named = [USUAL | {"reallocate": None} | one for one in read]
    records = records.assign(**{name: [one[name] for one in named] for name in (*USUAL, "reallocate")})
    usual = (records[["copy", "rank_by"]] == [USUAL["copy"], USUAL["rank_by"]]).all(axis=1)
    return records[usual & records["score"].isin(SCORES) & records["temperature"].isin(TEMPERATURES)]


def select(letter: str, records: pd.DataFrame) -> pd.DataFrame:
    """The settings of a panel, dense beside them in a and c; empty unless they vary what it is about."""
    if letter != "b":
        # only the temperatures are drawn over something else than transfers
        records = records[records["x"] > 0]
    sparq = records[(records["method"] == "sparq") & records["active"]]
    usual = sparq[(sparq["score"] == "query") & (sparq["temperature"] == "coverage")]
    if letter == "a":
        others = sparq[(sparq["score"] != "query") & (sparq["temperature"] == "coverage")]
        chosen = pd.concat([one_way(usual[usual["k"] == PAPER_K]), others])
        varied = len(others) > 0
    elif letter == "b":
        chosen = sparq[(sparq["score"] == "query") & (sparq["k"] == PAPER_K)]
        # without reallocation a temperature changes nothing
        chosen = chosen.assign(temperature=chosen["temperature"].mask(chosen["reallocate"].eq(False), OFF))
        chosen = chosen[chosen.groupby("r")["temperature"].transform("nunique") > 1]
        varied = len(chosen) > 0
    else:
        chosen = one_way(usual)
        varied = chosen["k"].nunique() > 1 and chosen["r"].nunique() > 1
    if not varied:
        return records.head(0)
    return chosen if letter == "b" else pd.concat([records[records["method"] == "dense"].head(1), chosen])


def on_shared(records: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The settings of a panel, with value, stderr and samples of the examples that all of them answered, if there are
    such: it is between settings that the figure compares.
    """
    rows = samples[samples["key"].isin(records["key"])]
    answered = rows["index"].value_counts()
    rows = rows[rows["index"].isin(answered.index[answered == len(records)])]
    if rows.empty:
        return records
    scores = rows.groupby("key")["score"]
    found = {"value": scores.mean(), "stderr": scores.sem(ddof=0), "samples": scores.size()}
    return records.assign(**{name: records["key"].map(of) for name, of in found.items()})


def one_way(records: pd.DataFrame) -> pd.DataFrame:
    """The way to reallocate that has most settings, with it where both have as many."""
    on = records["reallocate"].eq(True)
    return records[on] if 2 * on.sum() >= len(records) else records[~on]


def trade_offs(letter: str, parts: Sequence[Part], sources: Sources) -> list[Cell]:
    """Of ranking (a) or of budgets (c): title, our settings, and what was published of the same."""
    column, names = "score", dict[Any, str](SCORES)
    if letter == "c":
        every = sorted({k for _, own, theirs in parts for k in (*own["k"].dropna(), *theirs["k"].dropna())})
        column, names = "k", {k: f"k={k}" for k in every}
    panels = []
    for title, own, theirs in parts:
        of = [lines(letter, records, column, names) for records in (own, theirs)]
        panels.append(Panel(titled(title, own, theirs), own if len(own) else theirs, *of))
    made = panel_cells(panels, XLABEL[sources.transfers], FULL / 2)
    # the paper's transfers are by its formula
    return [
        cell if len(own) else replace(cell, xlabel=XLABEL["nominal"])
        for cell, (_, own, _) in zip(made, parts, strict=True)
    ]


def titled(title: str, own: pd.DataFrame, theirs: pd.DataFrame) -> str:
    records = own if len(own) else theirs
    return f"{title}, n = {count(records['samples'])}" + ("" if len(own) else " (published)")


def lines(letter: str, records: pd.DataFrame, column: str, names: dict[Any, str]) -> list[Curve]:
    """A line for each value of a column."""
    sparq = records[records["method"] == "sparq"] if len(records) else records
    found = []
    for value, label in names.items():
        points = sparq[sparq[column] == value].dropna(subset=["value", "x"]).sort_values("x", ascending=False)
        rank = float(value) if column == "k" else 0.0
        for note, part in swept(points, label != "SparQ" and column == "score"):
            # what is ranked otherwise has a colour of its own, budgets are shades of SparQ's
            method = "sparq" if column == "k" or label == "SparQ" else f"{label}{note}"
            found.append(Curve(method, f"({letter}) {label}{note}", rank, part[["x", "value", "stderr"]]))
    return found


def swept(points: pd.DataFrame, named: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """Points as they are joined: where both budgets vary, over r at the paper's k, and over k at the r with most.
    named: whether a budget that is the same in all of them is told.
    """
    if points["r"].nunique() < 2 or points["k"].nunique() < 2:
        told = [name for name in ("r", "k") if named and points[name].nunique() == 1 < len(points)]
        if len(points):
            yield "".join(f", {name}={points[name].iloc[0]}" for name in told), points
        return
    r = points.groupby("r")["k"].nunique().idxmax()
    for name, value in (("k", PAPER_K), ("r", r)):
        part = points[points[name] == value]
        if len(part):
            yield f", {name}={value}", part


def by_temperature(parts: Sequence[Part]) -> list[Cell]:
    names = dict(enumerate(TEMPERATURES.values()))
    cells = []
    for title, own, theirs in parts:
        metric = str((own if len(own) else theirs)["metric"].iloc[0])
        series = [*bars(own), *bars(theirs, theirs=True)]
        name = titled(f"{title}, k={PAPER_K}", own, theirs)
        chart = Chart(name, "temperature", METRICS.get(metric, metric), series, names=names, zero=False)
        cells.append(cell(chart, FULL / 2))
    return cells


def bars(records: pd.DataFrame, theirs: bool = False) -> Sequence[Series]:
    made = []
    several = records["r"].nunique() if len(records) else 0
    for place, (r, group) in enumerate(records.groupby("r") if len(records) else ()):
        # side by side, so that no error bar hides another
        x = group["temperature"].map(list(TEMPERATURES).index) + 0.08 * (place - (several - 1) / 2)
        points = pd.DataFrame({"x": x, "y": group["value"]}).sort_values("x")
        look = HUES[place % len(HUES)], MARKS[place % len(MARKS)]
        if theirs:
            made.append(published(f"(b) r={r}", points, *look))
        else:
            points = points.assign(low=group["value"] - group["stderr"], high=group["value"] + group["stderr"])
            made.append(Series(f"(b) r={r}", points, *look))
    return made
