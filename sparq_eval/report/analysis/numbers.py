"""The numbers that the figures of an analysis draw, one row a point: panel, line, x and y with what they are."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from sparq_eval.report.analysis.panels import agreement_rows, coverage_rows, figE2_row, paired
from sparq_eval.results.analysis import Analysis

Rows = Iterator[dict[str, object]]


def fig4_numbers(analysis: Analysis) -> pd.DataFrame:
    found, k = analysis.statistics, analysis.protocol["k"]
    queries, size = found["queries"], analysis.model["head_size"]
    shares = np.array(found["mass"]["counts"]) / sum(found["mass"]["counts"])
    rows = [
        *binned("a", "share of a query's weight", found["mass"]["edges"], "share of queries", shares),
        *heads("b", "mean weight", found["mass"]["heads"]),
        *(
            row | {"head": head}
            for head, line in enumerate(queries["of_layer"])
            for row in binned("c", "component (z-score)", queries["edges"], "density", line)
        ),
        *heads("d", "kurtosis", queries["kurtosis"]),
        *(
            point("e", "r", row["r"], "share found", row["mean"])
            | {"line": score, "low": row["low"], "high": row["high"]}
            for score in ("query", "low_rank")
            for row in agreement_rows(found["agreement"], score, k)
        ),
        *(
            one | {"line": row["temperature"], "rmse": row["rmse"]}
            for row in coverage_rows(found["coverage"], size)
            for one in binned("f", "weight of the true top", row["edges"], "alpha", row["mean"])
        ),
    ]
    return pd.DataFrame(rows).dropna(subset="y")


def figE1_numbers(analysis: Analysis) -> pd.DataFrame:
    queries = analysis.statistics["queries"]
    rows = [
        *binned("a", "component (z-score)", queries["edges"], "density", queries["all"]),
        *heads("b, c", "kurtosis", queries["kurtosis"]),
    ]
    return pd.DataFrame(rows)


def figE2_numbers(analysis: Analysis) -> pd.DataFrame:
    """One row a key/value head: the panels share their heads."""
    row = figE2_row(analysis)
    if row is None:
        return pd.DataFrame()
    label = f"top-{row['k']} agreement, r = {row['r']}"
    rows = list(heads("a, b", label, row["heads"]))
    tails = paired(row["heads"], analysis.statistics["queries"]["kurtosis"])[1].ravel()
    frame = pd.DataFrame(rows)
    if len(tails):
        frame = frame.assign(x_is="kurtosis, mean of its query heads", x=tails)
    return frame.dropna(subset="y")


def point(panel: str, x_is: str, x: object, y_is: str, y: object) -> dict[str, object]:
    return {"panel": panel, "x_is": x_is, "x": x, "y_is": y_is, "y": y}


def binned(panel: str, x_is: str, edges: Sequence[float], y_is: str, values: Sequence[float]) -> Rows:
    """x: the middles of the bins."""
    for low, high, y in zip(edges[:-1], edges[1:], values, strict=True):
        yield point(panel, x_is, round((low + high) / 2, 6), y_is, y)


def heads(panel: str, y_is: str, values: Sequence[Sequence[float]]) -> Rows:
    for layer, row in enumerate(values):
        for head, y in enumerate(row):
            yield {"panel": panel, "layer": layer, "head": head, "y_is": y_is, "y": y}
