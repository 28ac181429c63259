"""Examples of a needle in a haystack: how long their text is, and how deep in it the needle lies, by their ids."""

import numpy as np
import pandas as pd

ID = r"^(\d+)-(\d+)$"  # tokens of essays, and before how many of them the needle is


def needles(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples whose ids are of needles, with length, in tokens of essays, and depth, 0 at their beginning, 1 at
    their end: the same number at every length.
    """
    parts = samples["id"].astype(str).str.extract(ID).dropna().astype(int)
    length, place = parts[0].clip(lower=1), parts[1]
    return samples.loc[parts.index].assign(length=parts[0], depth=depths(place / length, 1 / length.min()))


def depths(shares: pd.Series, step: float) -> pd.Series:
    """Depths that were meant: places are whole tokens, rounded down, so shares less than a token apart are one."""
    kept: list[float] = []
    for share in sorted(shares.unique(), reverse=True):
        if not kept or kept[-1] - share >= step:
            kept.append(float(share))
    steps = np.array(kept[::-1])
    return pd.Series(steps[np.searchsorted(steps, shares)], shares.index, dtype=float)
