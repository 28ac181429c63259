"""Each setting beside dense, and any two settings beside each other, on the examples that both have."""

from typing import Any

import numpy as np
import pandas as pd

from sparq_eval.errors import UserError
from sparq_eval.results.frames import Frames
from sparq_eval.statistics.bootstrap import draw, interval
from sparq_eval.statistics.paired import IGNORING, Paired, groups, pair
from sparq_eval.statistics.power import examples_more
from sparq_eval.statistics.significance import adjust, try_chance

LEVEL = 0.05
NAMES = ["model", "task", "variant", "method", "settings", "key"]
COMPARISONS = [
    *NAMES,
    *("samples", "clusters", "difference", "low", "high", "p", "q", "test"),
    *("better", "worse", "gained", "lost", "unscored", "more"),
]


@IGNORING
def compare(frames: Frames) -> pd.DataFrame:
    """One row for each record that is not dense, in the records' order, with the columns COMPARISONS.

    samples: examples it shares with dense; clusters: what they are resampled by. difference: of the reported values,
    setting less dense, on these; low, high: 95 %, see `bootstrap.draw`. p, test: see `significance`; q: p among the
    settings of its model, task and variant. better, worse: q below 0.05 and an interval without 0, by the metric's
    direction. gained, lost: on how many examples it scored better and worse; unscored: on how many one side has no
    finite score. more: examples more to tell it from dense, see `power`; nan where it is told already. Without dense,
    and where a score is not finite, numbers are nan and nothing is flagged.
    """
    parts = []
    nothing = {"samples": 0, "clusters": 0, "test": "", "better": False, "worse": False}
    nothing |= {"gained": 0, "lost": 0, "unscored": 0}
    for group in groups(frames):
        found = nothing if group.paired is None else describe(group.paired, group.upward)
        parts.append(group.settings[NAMES].assign(**found))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table.reindex(columns=COMPARISONS)


def describe(paired: Paired, upward: bool) -> dict[str, Any]:
    """The columns of COMPARISONS that follow from differences, [R] each."""
    low, high = interval(draw(paired), paired)
    p, tests = try_chance(paired)
    q, gap = adjust(p), paired.mean if upward else -paired.mean
    told = (q < LEVEL) & ((low > 0) | (high < 0))
    gain = np.where(paired.shared, paired.difference if upward else -paired.difference, 0)
    return {
        **{"samples": paired.samples, "clusters": paired.clusters},
        **{"difference": paired.mean, "low": low, "high": high, "p": p, "q": q, "test": tests},
        **{"better": told & (gap > 0), "worse": told & (gap < 0)},
        **{"gained": (gain > 0).sum(axis=0), "lost": (gain < 0).sum(axis=0)},
        "unscored": np.isnan(gain).sum(axis=0),
        "more": np.where(told, np.nan, examples_more(paired.mean, paired.error, paired.samples)),
    }


@IGNORING
def between(frames: Frames, key_a: str, key_b: str) -> pd.DataFrame:
    """The record `key_a` less the record `key_b`: one row with the names of `key_a` and the columns COMPARISONS.

    A key may be cut short where no other begins like it. UserError if it is of no record or of several, if the two
    were not scored alike, or have no example in common.
    """
    a, b = find(frames.records, key_a), find(frames.records, key_b)
    for name in ("task", "metric"):
        if a[name] != b[name]:
            raise UserError(
                f"between={key_a} {key_b}: {name} is {a[name]} and {b[name]}; give two settings of one {name}"
            )
    if a["key"] == b["key"]:
        raise UserError(f"between={key_a} {key_b}: both are one setting; give two")
    samples = frames.samples[frames.samples["key"].isin([a["key"], b["key"]])]
    ids = samples.groupby("index")["id"].nunique()
    paired = pair(samples[~samples["index"].isin(ids[ids > 1].index)], [a["key"]], b["key"])
    if not paired.samples.all():
        raise UserError(f"between={key_a} {key_b}: they have no example in common; give two settings that do")
    row = pd.DataFrame([{name: a[name] for name in NAMES}])
    return row.assign(**describe(paired, bool(a["higher_is_better"])))[COMPARISONS]


def find(records: pd.DataFrame, prefix: str) -> pd.Series:
    found = records[records["key"].str.startswith(prefix)]
    if len(found) != 1:
        which = ", ".join(key[:16] for key in found["key"].head(5)) if len(found) else "the column key of results.csv"
        raise UserError(f"between={prefix}: {len(found)} records have such a key; give more of one, see {which}")
    return found.iloc[0]
