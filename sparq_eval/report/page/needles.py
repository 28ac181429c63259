"""Needles as a map: the share that a setting found at each length of the text and each depth in it."""

from typing import Any

import pandas as pd

from sparq_eval.report.needles import needles
from sparq_eval.report.page.pack import numbers

METRIC = "needle_match"


def needle_maps(samples: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    """Maps of the rows of one model and task; None where they are no needles.

    lengths: in tokens. depths: shares of the length. found: for each record's key one list a depth with one share a
    length, null where nothing was asked.
    """
    table = needles(samples) if metric == METRIC else samples.head(0)
    if table.empty or len(table) < len(samples):
        return None
    lengths, depths = (sorted(table[name].unique().tolist()) for name in ("length", "depth"))
    found = {
        str(key): part.pivot_table(index="depth", columns="length", values="score", aggfunc="mean").reindex(
            index=depths, columns=lengths
        )
        for key, part in table.groupby("key", sort=False)
    }
    return {
        "lengths": lengths,
        "depths": numbers(depths, 4),
        "found": {key: [numbers(row, 4) for row in of.to_numpy()] for key, of in found.items()},
    }
