"""Which settings make a line of a trade-off plot, and in which order: one a form of a method, one for each k
where r is swept."""

from dataclasses import dataclass

import pandas as pd

from sparq_eval.report.style import label_of
from sparq_eval.statistics.lines import forms, split


@dataclass(frozen=True)
class Curve:
    """points: the columns x, value, stderr, from dense (where there is one) down in transfers.

    method: in its form, see `statistics.lines`. rank: the budget that tells this line from others of its method, 0
    where nothing does.
    """

    method: str
    label: str
    rank: float
    points: pd.DataFrame


def curves(records: pd.DataFrame) -> list[Curve]:
    """Lines of the records of one model and task, given their transfers as `x`, in the records' order of methods.
    What was inactive is no point of a line.
    """
    records = records[records["active"]]
    dense = records[records["method"] == "dense"].head(1)
    lines = []
    sparse = records[records["method"] != "dense"]
    for method, group in sparse.groupby(forms(sparse), sort=False):
        for note, rank, points in split(group):
            joined = pd.concat([dense, points.sort_values("x", ascending=False)]).dropna(subset="value")
            label = " ".join([label_of(str(method)), *([note] if note else [])])
            lines.append(Curve(str(method), label, rank, joined[["x", "value", "stderr"]]))
    return lines
