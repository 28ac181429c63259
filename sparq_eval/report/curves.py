"""Which settings make a line of a trade-off plot, and in which order: one a method, one for each k where r is swept."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from sparq_eval.report.style import label_of

BUDGETS = ("r", "k", "local")


@dataclass(frozen=True)
class Curve:
    """points: the columns x, value, stderr, from dense (where there is one) down in transfers.

    rank: the budget that tells this line from others of its method, 0 where nothing does.
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
    for method, group in records[records["method"] != "dense"].groupby("method", sort=False):
        for note, rank, points in split(group):
            joined = pd.concat([dense, points.sort_values("x", ascending=False)]).dropna(subset="value")
            label = " ".join([label_of(str(method)), *([note] if note else [])])
            lines.append(Curve(str(method), label, rank, joined[["x", "value", "stderr"]]))
    return lines


def split(group: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """A method's settings as lines: what a line's label says beside the method's name, its rank, its records."""
    others = [other_settings(settings, ()) for settings in group["settings"]]
    if group.assign(others=others).duplicated(["r", "k", "others"]).any():
        others = [other_settings(settings, ("local",)) for settings in group["settings"]]
    several = len(set(others)) > 1
    for other, part in group.groupby(others, sort=False):
        for note, rank, points in split_budgets(part):
            yield " ".join([note, str(other) if several else ""]).strip(), rank, points


def split_budgets(part: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """By k where r is swept, as in the paper; by r where only k is; otherwise one line."""
    if part["r"].isna().any() or part["k"].isna().any():
        yield "", 0.0, part
        return
    for fixed, swept in (("k", "r"), ("r", "k")):
        if part[fixed].nunique() == 1 or part.groupby(fixed)[swept].nunique().max() > 1:
            for value in sorted(part[fixed].unique()):
                yield f"{fixed}={value}", float(value), part[part[fixed] == value]
            return
    yield "", 0.0, part


def other_settings(settings: str, budgets: tuple[str, ...]) -> str:
    values = json.loads(settings)
    names = [name for name in sorted(values) if name in budgets or name not in BUDGETS]
    return " ".join(f"{name}={json.dumps(values[name])}" for name in names)
