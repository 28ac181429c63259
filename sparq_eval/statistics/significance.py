"""Whether a difference could be chance: exact McNemar, or sign flips of whole clusters; Benjamini and Hochberg's q."""

import numpy as np
from scipy.stats import binomtest, false_discovery_control

from sparq_eval.statistics.bootstrap import BLOCK, SEED
from sparq_eval.statistics.paired import Paired

FLIPS = 10_000
MCNEMAR, SIGN_FLIPS = "McNemar", "sign flips"


def try_chance(paired: Paired) -> tuple[np.ndarray, list[str]]:
    """Two-sided p, [R], nan where the difference is; and what each was tested by.

    McNemar where scores are 0 or 1 and no two shared examples are of one cluster; otherwise sign flips.
    """
    alone = paired.binary & (paired.counts.max(axis=0, initial=0) <= 1)
    p = np.where(alone, np.nan, flip_signs(paired.sums))
    for place in np.flatnonzero(alone):
        gained, lost = (np.nansum(sign * paired.sums[:, place] > 0) for sign in (1, -1))
        p[place] = mcnemar(int(gained), int(lost))
    p[~np.isfinite(paired.mean)] = np.nan
    return p, [MCNEMAR if one else SIGN_FLIPS for one in alone]


def mcnemar(gained: int, lost: int) -> float:
    """Exact p of examples that only one side got right."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def flip_signs(sums: np.ndarray) -> np.ndarray:
    """p, [R], of sums over clusters, [C, R], each as likely to be its negative: all sign patterns where they are no
    more than FLIPS, otherwise FLIPS random ones beside the observed, the same for all settings.
    """
    size = np.abs(sums).sum(axis=0)
    reached = np.abs(sums.sum(axis=0)) - 1e-9 * size  # sums in another order differ in their last digits
    hits, chance = np.zeros(sums.shape[1]), np.random.default_rng(SEED)
    rows = max(1, BLOCK // max(len(sums), 1))
    for start in range(0, FLIPS, rows):
        signs = chance.integers(0, 2, (min(rows, FLIPS - start), len(sums)), dtype=np.int8) * 2.0 - 1
        hits += (np.abs(signs @ sums) >= reached).sum(axis=0)
    p = (hits + 1) / (FLIPS + 1)
    for place in range(sums.shape[1]):
        differing = sums[sums[:, place] != 0, place]
        if 2 ** min(len(differing), 60) <= FLIPS:
            p[place] = (np.abs(all_signs(len(differing)) @ differing) >= reached[place]).mean()
    return p


def all_signs(clusters: int) -> np.ndarray:
    """[2 ** C, C]: every pattern of -1 and 1."""
    return (np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1) * 2.0 - 1


def adjust(p: np.ndarray) -> np.ndarray:
    """q, [R]: Benjamini and Hochberg's, over the tests that have a p."""
    q, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q
