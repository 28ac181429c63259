"""Intervals by the Bayesian bootstrap over clusters (Rubin, 1981): weights drawn anew, examples as they are."""

import numpy as np
from scipy.stats import beta, norm, t

from sparq_eval.statistics.paired import Paired

DRAWS = 10_000
SEED = 20240501
BLOCK = 2_000_000  # weights at a time
TAIL = 0.025
FEW = 10  # clusters, below which no resampling of them reaches the tails


def draw(paired: Paired) -> np.ndarray:
    """[DRAWS, R]: the mean difference under Dirichlet weights of the clusters, the same weights for all settings.

    Where scores are 0 or 1, two clusters that nobody saw join those that were seen, of mean size, one of examples that
    only the setting gets right and one of those that only the other does: without them, an example that never differs
    would be impossible. The same examples give the same numbers.
    """
    size = paired.samples / np.maximum(paired.clusters, 1) * paired.binary
    sums = np.vstack([paired.sums, size, -size])
    counts = np.vstack([paired.counts, size, size])
    chance = np.random.default_rng(SEED)
    rows = max(1, BLOCK // len(sums))
    parts = []
    for start in range(0, DRAWS, rows):
        # a Dirichlet weight is an exponential over their sum, which the ratio cancels
        weights = chance.standard_exponential((min(rows, DRAWS - start), len(sums)))
        parts.append((weights @ sums) / (weights @ counts))
    return np.concatenate(parts)


def interval(draws: np.ndarray, paired: Paired, tail: float | np.ndarray = TAIL) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends, [R] each, of the interval of the mean difference; nan for one cluster.

    tail: the chance that is left out at either end, one for all settings or [R]: 95 % remain if nothing is said.

    Where scores are not 0 or 1 the percentiles are moved outwards to what Student's t with C clusters needs
    (Hesterberg, 2015, "expanded percentile"); fewer than FEW clusters get Student's t itself. Where no such example
    differs, both ends are 0. Where scores are 0 or 1 and each example is a cluster of its own, an end is never nearer
    than the bound of Clopper and Pearson (1934) on the share of those that speak for it, the others as they were seen:
    where no example differs, plus and minus 1 - 0.025^(1/N).
    """
    low, high = np.full((2, draws.shape[1]), np.nan)
    tails = np.broadcast_to(tail, paired.mean.shape)
    for place, (mean, clusters) in enumerate(zip(paired.mean, paired.clusters.tolist(), strict=True)):
        if not np.isfinite(mean) or (clusters < 2 and not paired.binary[place]):
            continue
        if clusters < FEW and not paired.binary[place]:
            reach = -t.ppf(tails[place], clusters - 1) * paired.error[place]
            low[place], high[place] = mean - reach, mean + reach
            continue
        cut = tails[place] if paired.binary[place] else expanded(clusters, tails[place])
        low[place], high[place] = np.quantile(draws[:, place], (cut, 1 - cut))
        if paired.binary[place] and clusters == paired.samples[place]:
            gained, lost = ((sign * paired.sums[:, place] > 0).sum() for sign in (1, -1))
            low[place] = min(low[place], gained / clusters - most(lost, clusters, tails[place]))
            high[place] = max(high[place], most(gained, clusters, tails[place]) - lost / clusters)
    # at the end of a scale, all examples lost, the clusters that nobody saw pull the interval off what was measured
    return np.fmin(low, paired.mean + 0 * low), np.fmax(high, paired.mean + 0 * high)


def most(count: int, of: int, tail: float) -> float:
    """The largest share that gives no more than `count` of so many with a chance of at least `tail`."""
    return float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0


def expanded(clusters: int, tail: float = TAIL) -> float:
    """The tail to cut off: the weights' variance is (C - 1) / (C + 1) of what it should be, and tails are t's."""
    return float(norm.cdf(t.ppf(tail, clusters - 1) * np.sqrt((clusters + 1) / (clusters - 1))))
