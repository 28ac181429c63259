"""Figure 6: the same questions among more and more other text, at one share of dense's transfers."""

import math

import pandas as pd
from matplotlib.colors import to_rgb

from sparq_eval.report.chart import Chart, Plot, Series, published
from sparq_eval.report.figures import count
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import LENGTHS, VICUNA
from sparq_eval.report.paper.sources import Sources, plain
from sparq_eval.report.style import DASHES, DENSE, Look, label_of, looks

COMPRESSION = 4
METHODS = ("sparq", "h2o")  # that the paper has
WITHIN = 1.5  # how far, as a factor, a setting's transfers may be from what is asked for


def figure_6(sources: Sources) -> Drawing:
    """A panel for each model: accuracy over the mean length of its prompts, dense and each method at 1/4."""
    of_lengths = sources.records[sources.records["task"].isin(LENGTHS)]
    lacking = [one for task in LENGTHS for one in sources.missing(VICUNA.name, task, METHODS)]
    curves = sources.paper.curves
    theirs = curves[curves["task"].isin(LENGTHS)]
    charts, used, notes = [], [], []
    methods = dict.fromkeys([*of_lengths["method"], *theirs["method"]])
    shown = looks([(method, label_of(method), 0.0) for method in methods if method != "dense"])
    for model in dict.fromkeys([*of_lengths["model"], *theirs["model"]]):
        own = at_compression(of_lengths[of_lengths["model"] == model], sources.ratio)
        of_paper = at_compression(theirs[theirs["model"] == model])
        series = [*lines(own, shown), *lines(of_paper, shown, theirs=True)]
        if own.empty:
            notes.append(f"published alone, no records of it: {model}")
        title = f"{model}, n = {count((own if len(own) else of_paper)['samples'])}" + (
            "" if len(own) else " (published)"
        )
        charts.append(Chart(title, "mean length of prompts (tokens)", "accuracy", series))
        used += keys(own["key"]) if len(own) else []
    if not charts:
        return Drawing(missing=lacking)
    plot = Plot(
        "fig6", f"SQuAD among more and more text, at 1/{COMPRESSION} of dense's transfers", charts, min(len(charts), 2)
    )
    return Drawing([Picture.of(plot)], used, lacking, notes)


def at_compression(records: pd.DataFrame, share: str = "counted_ratio") -> pd.DataFrame:
    """Of each task and method the setting nearest to the compression, and dense. share: the column with transfers."""
    records = plain(records[records["variant"].isin(("", "A")) & records["active"]])
    far = (records[share] * COMPRESSION).map(lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)
    far = far.where(records["method"] != "dense", 0.0)
    near = records.assign(far=far)[far <= math.log(WITHIN)].sort_values("far", kind="stable")
    return near.drop_duplicates(["task", "method"]).sort_values("prompt_tokens", kind="stable")


def lines(records: pd.DataFrame, shown: dict[str, Look], theirs: bool = False) -> list[Series]:
    made = []
    for method, group in records.groupby("method", sort=False):
        points = pd.DataFrame({"x": group["prompt_tokens"], "y": group["value"]})
        name, dense = label_of(str(method)), method == "dense"
        look = Look(to_rgb(DENSE), "o") if dense else shown[name]
        if theirs:
            made.append(published(name, points, look.colour, look.marker))
        else:
            points = points.assign(low=group["value"] - group["stderr"], high=group["value"] + group["stderr"])
            made.append(Series(name, points, look.colour, look.marker, DASHES if dense else "-"))
    return made
