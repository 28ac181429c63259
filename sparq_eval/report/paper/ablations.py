"""Figure 7: what SparQ owes to how it ranks positions (a), to its temperature (b), and to its two budgets (c)."""

import json
from collections.abc import Iterator, Sequence

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
HUES = (COLOURS["sparq"], SPARE_COLOURS[0], COLOURS["lm_infinite"], COLOURS["flexgen"])
MARKS = tuple(MARKERS.values())


def figure_7(sources: Sources) -> Drawing:
    """Of the paper's Llama 2 7B where there are records of it, otherwise of the model with most settings of SparQ. What
    was published lies under the one, and in panels of its own beside the other: its scores are another model's.
    """
    model = model_of(sources)
    same = model == LLAMA2_7B.name
    makers = {"a": by_score, "b": by_temperature, "c": by_budgets}
    cells: list[Cell | None] = []
    numbers, alone = [], []
    lacking: dict[str, tuple[str, list[str]]] = {}  # of each command: its task, and the panels that need it
    for letter, make in makers.items():
        for task in SWEPT if letter == "c" else (TASK,):
            own = select(letter, unfolded(sources.settings_of(model, task)))
            theirs = select(letter, unfolded(sources.published_of(LLAMA2_7B.name, task, f"Fig 7{letter}")))
            if own.empty:
                lacking.setdefault(command(task), (task, []))[1].append(letter)
            if own.empty and len(theirs):
                alone.append(f"{letter} ({task})")
            title = f"({letter}) {task}"
            panels = [(title, own, theirs)]
            if not same:
                panels = [(title, own, theirs.head(0)), (f"{title}, {LLAMA2_7B.name}", own.head(0), theirs)]
            cells += [make(*each, sources) for each in panels if len(each[1]) or len(each[2])]
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
    notes = [f"published alone, no records of them: panels {', '.join(alone)}"] if alone else []
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


def one_way(records: pd.DataFrame) -> pd.DataFrame:
    """The way to reallocate that has most settings, with it where both have as many."""
    on = records["reallocate"].eq(True)
    return records[on] if 2 * on.sum() >= len(records) else records[~on]


def by_score(title: str, own: pd.DataFrame, theirs: pd.DataFrame, sources: Sources) -> Cell:
    return panel(title, own, theirs, sources, "score", SCORES)


def by_budgets(title: str, own: pd.DataFrame, theirs: pd.DataFrame, sources: Sources) -> Cell:
    names = {k: f"k={k}" for k in sorted(set([*own["k"].dropna(), *theirs["k"].dropna()]))}
    return panel(title, own, theirs, sources, "k", names)


def panel(title: str, own: pd.DataFrame, theirs: pd.DataFrame, sources: Sources, column: str, names: dict) -> Cell:
    records = own if len(own) else theirs
    title = f"{title}, n = {count(records['samples'])}" + ("" if len(own) else " (published)")
    made = Panel(title, records, lines(own, column, names), lines(theirs, column, names))
    # the paper's transfers are by its formula
    return panel_cells([made], XLABEL[sources.transfers if len(own) else "nominal"], FULL / 2)[0]


def lines(records: pd.DataFrame, column: str, names: dict) -> list[Curve]:
    """A line for each value of a column."""
    sparq = records[records["method"] == "sparq"] if len(records) else records
    found = []
    for value, label in names.items():
        points = sparq[sparq[column] == value].dropna(subset=["value", "x"]).sort_values("x", ascending=False)
        rank = float(value) if column == "k" else 0.0
        for note, part in swept(points):
            # what is ranked otherwise has a colour of its own, budgets are shades of SparQ's
            method = "sparq" if column == "k" or label == "SparQ" else f"{label}{note}"
            found.append(Curve(method, f"{label}{note}", rank, part[["x", "value", "stderr"]]))
    return found


def swept(points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Points as they are joined: where both budgets vary, over r at the paper's k, and over k at the r with most."""
    if points["r"].nunique() < 2 or points["k"].nunique() < 2:
        if len(points):
            yield "", points
        return
    r = points.groupby("r")["k"].nunique().idxmax()
    for name, value in (("k", PAPER_K), ("r", r)):
        part = points[points[name] == value]
        if len(part):
            yield f", {name}={value}", part


def by_temperature(title: str, own: pd.DataFrame, theirs: pd.DataFrame, sources: Sources) -> Cell:
    records = own if len(own) else theirs
    title = f"{title}, k={PAPER_K}, n = {count(records['samples'])}" + ("" if len(own) else " (published)")
    metric = str(records["metric"].iloc[0])
    series = [*bars(own), *bars(theirs, theirs=True)]
    names = dict(enumerate(TEMPERATURES.values()))
    return cell(Chart(title, "temperature", METRICS.get(metric, metric), series, names=names, zero=False), FULL / 2)


def bars(records: pd.DataFrame, theirs: bool = False) -> Sequence[Series]:
    made = []
    several = records["r"].nunique() if len(records) else 0
    for place, (r, group) in enumerate(records.groupby("r") if len(records) else ()):
        # side by side, so that no error bar hides another
        x = group["temperature"].map(list(TEMPERATURES).index) + 0.08 * (place - (several - 1) / 2)
        points = pd.DataFrame({"x": x, "y": group["value"]}).sort_values("x")
        look = HUES[place % len(HUES)], MARKS[place % len(MARKS)]
        if theirs:
            made.append(published(f"r={r}", points, *look))
        else:
            points = points.assign(low=group["value"] - group["stderr"], high=group["value"] + group["stderr"])
            made.append(Series(f"r={r}", points, *look))
    return made
