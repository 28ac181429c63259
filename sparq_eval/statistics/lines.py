"""Which settings of a method make a line of a trade-off curve: all of them, or those of one k where r is swept."""

import json
from collections.abc import Iterator

import pandas as pd

BUDGETS = ("r", "k", "local")


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
