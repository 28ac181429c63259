"""Table 3: needles found for each bin of prompt lengths and each compression, with every bin that there is."""

import pandas as pd

from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import NEEDLE_MODEL
from sparq_eval.report.paper.needle import cells, lacking, share, words
from sparq_eval.report.paper.sources import Sources
from sparq_eval.report.style import label_of

BIN = 8192
ALL = "all"
ORDER = ("dense", "sparq", "h2o", "lm_infinite", "flexgen")
NUMBERS = ("model", "bin", "compression", "method", "mean", "count")


def table_3(sources: Sources) -> Drawing:
    """A column for each method; every bin, also the first, which the paper's table leaves out, and all lengths."""
    rows = cells(sources)
    tables, parts, notes = [], [], []
    for model, of_model in rows.groupby("model", sort=False):
        ordered = of_model.sort_values("length", kind="stable")
        binned = pd.concat([ordered.assign(bin=bins(ordered["length"])), ordered.assign(bin=ALL)])
        scores = binned.groupby(["bin", "compression", "method"], sort=False)["score"]
        tables.append(scores.agg(["mean", "count"]).reset_index().assign(model=model))
        parts.append((str(model), wide(tables[-1])))
    theirs = published(sources)
    if len(theirs):
        tables.append(theirs.assign(model=f"{NEEDLE_MODEL.name} (published)"))
        parts.append((f"{NEEDLE_MODEL.name}, published; 1k-8k follows from its other rows", wide(theirs)))
        notes += (
            [f"published alone, no records of it: {NEEDLE_MODEL.name}"]
            if NEEDLE_MODEL.name not in set(rows["model"])
            else []
        )
    if not tables:
        return Drawing(missing=lacking(sources))
    picture = Picture("Needles found", pd.concat(tables)[list(NUMBERS)], parts)
    return Drawing([picture], keys(rows["key"]), lacking(sources), notes)


def bins(lengths: pd.Series) -> pd.Series:
    """The paper's bins, 8k wide, from the shortest on; each length by itself where none is beyond the first bin."""
    if lengths.max() <= BIN:
        return lengths.map(words)
    return ((lengths - 1) // BIN).map(lambda place: f"{max(8 * place, 1):g}k-{8 * (place + 1):g}k")


def wide(long: pd.DataFrame) -> pd.DataFrame:
    """A row for each bin and compression, in the order of the bins; dense is compression 1."""
    order = list(dict.fromkeys(long["bin"]))
    table = long.pivot_table(index=["bin", "compression"], columns="method", values="mean", sort=False).reset_index()
    table = table.assign(place=table["bin"].map(order.index)).sort_values(["place", "compression"], kind="stable")
    methods = sorted(set(long["method"]), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    needles = table["bin"].map(long.groupby("bin")["count"].max())
    table = table.assign(compression=table["compression"].map(share), needles=needles)
    names = {"bin": "S"} | {name: label_of(name) for name in methods}
    return table[["bin", "compression", "needles", *methods]].rename(columns=names)


def published(sources: Sources) -> pd.DataFrame:
    """NUMBERS of the published cells but for the model, by bin."""
    curves = sources.paper.curves
    chosen = curves[(curves["task"] == "needle") & (curves["model"] == NEEDLE_MODEL.name)]
    if chosen.empty:
        return pd.DataFrame()
    named = chosen["figure"].str.extract(r"(\d+k-\d+k)")[0].fillna(ALL)
    first = named.map(lambda name: 99 if name == ALL else int(name.split("k")[0]))
    made = pd.DataFrame(
        {
            **{"bin": named, "compression": (1 / chosen["counted_ratio"]).astype(float).round().astype(int)},
            **{"method": chosen["method"], "mean": chosen["value"], "count": chosen["samples"], "first": first},
        }
    )
    return made.sort_values(["first", "compression"], kind="stable").drop(columns="first")
