"""Table 2: scores at shares of dense's transfers, by the nearest setting, as in the paper, and by interpolation."""

import json
import math

import numpy as np
import pandas as pd

from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import MODELS, TASKS
from sparq_eval.report.paper.sources import Sources, main_settings
from sparq_eval.report.paper.tradeoff import left_out
from sparq_eval.report.style import METRICS, label_of
from sparq_eval.report.text import short_settings

COMPRESSIONS = (2, 4, 8)  # the paper has 2 and 8
BEYOND = 2  # how far, as a factor, the nearest setting may be from the share that its row is about
TITLE = (
    "Scores at shares of dense's transfers: of the setting whose own share (ratio) is nearest, none where it is "
    f"beyond a factor of {BEYOND}, and interpolated"
)
METHODS = {"LM-inf": "lm_infinite", "H2O": "h2o", "SparQ": "sparq"}
# how the published table names a task, and what it multiplies its scores by
COLUMNS = {
    "squad": ("SQuAD acc %", 100),
    "triviaqa": ("TriviaQA acc %", 100),
    "cnn_dailymail": ("CNN/DailyMail ROUGE-L x100", 100),
    "wikitext_bpc": ("WikiText BPC", 1),
    "repetition": ("Repetition chars", 1),
}


def table_2(sources: Sources) -> Drawing:
    """One row a model, task, method and compression. nearest: of the setting whose share of transfers is nearest, as a
    difference, unless that is beyond a factor of two; interpolated: linear in the logarithm of that share between
    neighbouring settings, dense being one.
    """
    rows = [row for model in sources.models for task in TASKS for row in rows_of(sources, model, task)]
    rowed = [one.name for one in MODELS if one.row]
    compared = tuple(METHODS.values())
    lacking = [one for model in rowed for task in TASKS for one in sources.missing(model, task, compared)]
    theirs = published(sources.paper.tables)
    if not rows and theirs.empty:
        return Drawing(missing=lacking)
    names = ["model", "task", "method", "compression"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*names, "nearest", "key", "metric"])
    notes = left_out(sources, [(model, task) for model in sources.models for task in TASKS])
    if len(theirs):
        table = table.merge(theirs, how="outer", on=names, sort=False)
        if alone := sorted(set(theirs["model"]) - set(sources.models)):
            notes.append(f"published alone, no records of them: {', '.join(alone)}")
    parts = [
        (f"{model}, {task}" + metric_of(group), readable(group))
        for (model, task), group in table.groupby(["model", "task"], sort=False)
    ]
    used = keys(*(key.split() for key in table["key"].dropna()))
    return Drawing([Picture(TITLE, table, parts)], used, lacking, notes)


def rows_of(sources: Sources, model: str, task: str) -> list[dict]:
    records = main_settings(sources.settings_of(model, task))
    records = records[records["active"] & records["value"].notna()]
    dense = records[records["method"] == "dense"].head(1)
    ratio = sources.ratio
    records = records[(records[ratio] > 0) | (records["method"] == "dense")]
    rows = []
    for method, group in records[records["method"] != "dense"].groupby("method", sort=False):
        points = pd.concat([dense, group]).dropna(subset=ratio)
        common = {"model": model, "task": task, "method": str(method), "metric": str(group["metric"].iloc[0])}
        if len(dense):
            one = dense.iloc[0]
            ends = {"nearest": one["value"], "stderr": one["stderr"], "interpolated": one["value"], "key": one["key"]}
            rows.append(common | {"compression": 1, "setting": "dense", "ratio": 1.0, **ends})
        for compression in COMPRESSIONS:
            swept = group.dropna(subset=ratio)
            if swept.empty:
                continue
            near = swept.iloc[int(np.argmin(abs(swept[ratio] - 1 / compression)))]
            close = 1 / BEYOND <= near[ratio] * compression <= BEYOND
            score = {"nearest": near["value"], "stderr": near["stderr"]} if close else {}
            line, used = interpolate(points, ratio, 1 / compression)
            rows.append(
                common
                | {"compression": compression, "setting": short_settings(budgets(near["settings"]))}
                | {"ratio": near[ratio], "nearest": math.nan, "stderr": math.nan, **score, "interpolated": line}
                | {"key": " ".join(dict.fromkeys([near["key"], *used]))}
            )
    return rows


def interpolate(points: pd.DataFrame, ratio: str, wanted: float) -> tuple[float, list[str]]:
    """The score where a line through the points has `wanted` transfers, and the keys of the points beside it; nan where
    the line does not reach so far. Of settings with the same transfers, their mean.
    """
    line = points.groupby(np.log2(points[ratio]))["value"].mean().sort_index()
    x = math.log2(wanted)
    if line.empty or not line.index[0] <= x <= line.index[-1]:
        return math.nan, []
    places = np.log2(points[ratio])
    beside = {places[places <= x].max(), places[places >= x].min()}
    value = float(np.interp(x, line.index.to_numpy(dtype=float), line.to_numpy(dtype=float)))
    return value, list(points.loc[places.isin(beside), "key"])


def budgets(settings: str) -> str:
    """The budgets of a setting alone."""
    values = json.loads(settings)
    return json.dumps({name: values[name] for name in ("r", "k") if name in values})


def published(tables: pd.DataFrame) -> pd.DataFrame:
    """The published table in the units of our scores: model, task, method, compression, published."""
    rows = []
    for one in tables[tables["table"] == "Table 2"].to_dict("records"):
        row, _, method = str(one["row"]).partition(" | ")
        model = next((known.name for known in MODELS if known.row == row), None)
        for task, (column, scale) in COLUMNS.items():
            start = f"{column} @ compression "
            if model and method in METHODS and str(one["column"]).startswith(start):
                compression = int(str(one["column"]).removeprefix(start).removeprefix("1/"))
                value = {"compression": compression, "published": float(one["value"]) / scale}
                rows.append({"model": model, "task": task, "method": METHODS[method]} | value)
    return pd.DataFrame(rows, columns=["model", "task", "method", "compression", "published"])


def readable(group: pd.DataFrame) -> pd.DataFrame:
    names = ["setting", "ratio", "nearest", "stderr", "interpolated", "published"]
    shown = group[[name for name in names if name in group]]
    first = pd.DataFrame(
        {
            "method": group["method"].map(label_of),
            "of dense's transfers": ["1" if c == 1 else f"1/{c}" for c in group["compression"]],
        }
    )
    return pd.concat([first, shown], axis=1)


def metric_of(group: pd.DataFrame) -> str:
    known = group["metric"].dropna()
    return f", {METRICS.get(known.iloc[0], known.iloc[0])}" if len(known) else ", published"
