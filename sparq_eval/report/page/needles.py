"""Needles as a map: the share that a setting found at each length of the text and each depth in it."""

import re
from typing import Any

import numpy as np
import pandas as pd

from sparq_eval.report.page.pack import numbers

METRIC = "needle_match"
NAMED = re.compile(r"(\d+)-(\d+)")  # an example's id: tokens of the text, tokens of it before the needle


def needles(samples: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Maps of the rows of one model and task; None where they are no needles.

    lengths: in tokens. depths: shares of the length. found: for each record's key one list a depth with one share a
    length, null where nothing was asked.
    """
    if metric != METRIC or not samples["id"].map(lambda name: bool(NAMED.fullmatch(name))).all():
        return None
    named = samples["id"].str.extract(NAMED.pattern).astype(int)
    length, share = named[0], named[1] / named[0].clip(lower=1)
    steps = depths(share, 1 / max(int(length.min()), 1))
    table = pd.DataFrame(
        {
            "key": samples["key"],
            "length": length,
            "depth": steps[np.searchsorted(steps, share)],
            "score": samples["score"],
        }
    )
    lengths = sorted(int(value) for value in table["length"].unique())
    found = {
        str(key): table[table["key"] == key]
        .pivot_table(index="depth", columns="length", values="score", aggfunc="mean")
        .reindex(index=steps, columns=lengths)
        for key in table["key"].unique()
    }
    return {
        "lengths": lengths,
        "depths": numbers(steps, 4),
        "found": {key: [numbers(row, 4) for row in of.to_numpy()] for key, of in found.items()},
    }


def depths(shares: pd.Series, step: float) -> np.ndarray:
    """Depths that were meant: places are whole tokens, rounded down, so shares less than a token apart are one."""
    kept: list[float] = []
    for share in sorted(shares.unique(), reverse=True):
        if not kept or kept[-1] - share >= step:
            kept.append(float(share))
    return np.array(kept[::-1])
