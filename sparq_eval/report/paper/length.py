"""Figure 6: the same questions among more and more other text, at one share of dense's transfers."""

import math

import pandas as pd

from sparq_eval.report.chart import Chart, Plot, Series
from sparq_eval.report.figures import count
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import LENGTHS, VICUNA, missing
from sparq_eval.report.paper.sources import Sources
from sparq_eval.report.style import COLOURS, DENSE, MARKERS, SPARE_COLOURS, label_of, paler

COMPRESSION = 4
WITHIN = 1.5  # how far, as a factor, a setting's transfers may be from what is asked for


def figure_6(sources: Sources) -> Drawing:
    """A panel for each model: accuracy over the mean length of its prompts, dense and each method at 1/4."""
    of_lengths = sources.records[sources.records["task"].isin(LENGTHS)]
    lacking = [missing(VICUNA.name, task) for task in LENGTHS if not measured(of_lengths, VICUNA.name, task)]
    curves = sources.paper.curves
    theirs = curves[curves["task"].isin(LENGTHS)]
    charts, used, notes = [], [], []
    for model in dict.fromkeys([*of_lengths["model"], *theirs["model"]]):
        own = at_compression(of_lengths[of_lengths["model"] == model])
        series = [*lines(own), *lines(at_compression(theirs[theirs["model"] == model]), published=True)]
        if own.empty:
            notes.append(f"published alone, no records of it: {model}")
        shown = own if len(own) else at_compression(theirs[theirs["model"] == model])
        title = f"{model}, n = {count(shown['samples'])}" + ("" if len(own) else " (published)")
        charts.append(Chart(title, "mean length of prompts (tokens)", "accuracy", series))
        used += keys(own["key"]) if len(own) else []
    if not charts:
        return Drawing(missing=lacking)
    plot = Plot("fig6", f"SQuAD (train) at 1/{COMPRESSION} of dense's transfers", charts, min(len(charts), 2))
    return Drawing([Picture.of(plot)], used, lacking, notes)


def measured(records: pd.DataFrame, model: str, task: str) -> bool:
    found = records[(records["model"] == model) & (records["task"] == task)]
    return bool((found["method"] != "dense").any())


def at_compression(records: pd.DataFrame) -> pd.DataFrame:
    """Of each task and method the setting nearest to the compression, and dense."""
    records = records[records["variant"].isin(("", "A")) & records["active"]]
    far = (records["counted_ratio"] * COMPRESSION).map(lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)
    far = far.where(records["method"] != "dense", 0.0)
    near = records.assign(far=far)[far <= math.log(WITHIN)].sort_values("far", kind="stable")
    return near.drop_duplicates(["task", "method"]).sort_values("prompt_tokens", kind="stable")


def lines(records: pd.DataFrame, published: bool = False) -> list[Series]:
    made = []
    for place, (method, group) in enumerate(records.groupby("method", sort=False)):
        points = pd.DataFrame({"x": group["prompt_tokens"], "y": group["value"]})
        if not published:
            points = points.assign(low=group["value"] - group["stderr"], high=group["value"] + group["stderr"])
        colour = DENSE if method == "dense" else COLOURS.get(str(method), SPARE_COLOURS[place % len(SPARE_COLOURS)])
        name, marker = label_of(str(method)), MARKERS.get(str(method), "o")
        dashes = (0, (4, 2)) if method == "dense" else "-"
        if published:
            pale = paler(colour, 0.45)
            made.append(Series(f"published: {name}", points, pale, marker, (0, (3, 1.2)), 0.9, under=True))
        else:
            made.append(Series(name, points, colour, marker, dashes))
    return made
