"""Which settings of a method make a line of a trade-off curve: all of them, or those of one k where r is swept."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

BUDGETS = ("r", "k", "local")
# of SparQ as it was published: another temperature or score is an ablation of it, another copy or ranking a variant
USUAL = {"temperature": "coverage", "score": "query", "copy": "same", "rank_by": "logits"}


def odd(settings: dict[str, Any]) -> list[str]:
    """What is otherwise than USUAL, in words; settings that are left out are as usual."""
    return [f"{name}={settings[name]}" for name, usual in USUAL.items() if settings.get(name, usual) != usual]


def form(method: str, settings: str) -> str:
    """The method's name, and for SparQ what it does otherwise than published: such settings are another method's."""
    return " ".join([method, *(odd(json.loads(settings)) if method == "sparq" else ())])


def forms(records: pd.DataFrame) -> pd.Series:
    pairs = zip(records["method"], records["settings"], strict=True)
    return pd.Series([form(method, settings) for method, settings in pairs], records.index, dtype=object)


def split(group: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """A method's settings as lines: what a line's label says beside the method's name, its rank, its records."""
    others = differing(group["settings"], ())
    if group.assign(others=others).duplicated(["r", "k", "others"]).any():
        others = differing(group["settings"], ("local",))
    for other, part in group.groupby(others, sort=False):
        for note, rank, points in split_budgets(part):
            yield " ".join([note, str(other)]).strip(), rank, points


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


def differing(settings: pd.Series, budgets: tuple[str, ...]) -> pd.Series:
    """Of each, what is no budget but these, and not the same in all of them."""
    read = [json.loads(one) for one in settings]
    names = sorted({name for one in read for name in one if name in budgets or name not in BUDGETS})
    told = [[f"{name}={json.dumps(one[name])}" if name in one else "" for one in read] for name in names]
    apart = [each for each in told if len(set(each)) > 1]
    words = [" ".join(each[place] for each in apart if each[place]) for place in range(len(read))]
    return pd.Series(words, settings.index, dtype=object)
