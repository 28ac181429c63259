"""Differences example by example: what R settings scored less what another scored on the same examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sparq_eval.results.frames import Frames

GROUP = ["model", "task", "variant"]
# what has no number becomes nan, and is reported as nan
IGNORING = np.errstate(over="ignore", divide="ignore", invalid="ignore")


@dataclass(frozen=True)
class Paired:
    """N examples in C clusters, R settings.

    difference: [N, R], nan where a score is not finite. shared: [N, R], whether both sides have the example.
    cluster: [N], numbers from 0 to C - 1. binary: [R], whether both sides scored nothing but 0 and 1.
    """

    difference: np.ndarray
    shared: np.ndarray
    cluster: np.ndarray
    binary: np.ndarray

    @cached_property
    def sums(self) -> np.ndarray:
        """[C, R]: differences summed over the shared examples of each cluster."""
        return self.over_clusters(np.where(self.shared, self.difference, 0.0))

    @cached_property
    def counts(self) -> np.ndarray:
        """[C, R]: shared examples of each cluster."""
        return self.over_clusters(self.shared.astype(float))

    def over_clusters(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros((int(self.cluster.max(initial=-1)) + 1, values.shape[1]))
        np.add.at(total, self.cluster, values)
        return total

    @cached_property
    def samples(self) -> np.ndarray:
        """[R]: shared examples."""
        return self.shared.sum(axis=0)

    @cached_property
    def clusters(self) -> np.ndarray:
        """[R]: clusters with a shared example."""
        return (self.counts > 0).sum(axis=0)

    @cached_property
    def mean(self) -> np.ndarray:
        """[R]: difference of the reported values, which are plain means, on the shared examples; nan without any."""
        return self.sums.sum(axis=0) / self.samples

    @cached_property
    def error(self) -> np.ndarray:
        """[R]: standard error of `mean`, which is a ratio of sums over clusters; nan for one cluster."""
        spread = ((self.sums - self.mean * self.counts) ** 2).sum(axis=0)
        return np.sqrt(spread * self.clusters / (self.clusters - 1)) / self.samples


@dataclass(frozen=True)
class Group:
    """The records of one model, task and variant. settings: those that are not dense, `paired` their differences to it.

    percentage: whether the score is one, a number in [0, 1] at every example and better the higher it is.
    """

    names: dict[str, str]
    settings: pd.DataFrame
    dense: pd.Series | None
    paired: Paired | None
    percentage: bool

    @property
    def upward(self) -> bool:
        return bool(self.settings["higher_is_better"].iloc[0])


def groups(frames: Frames) -> Iterator[Group]:
    """In the records' order. A group with nothing but dense is left out; in one without dense nothing is paired."""
    samples = dict(iter(frames.samples.groupby(GROUP)))
    for names, records in frames.records.groupby(GROUP, sort=False):
        dense = records[records["method"] == "dense"]
        settings = records[records["method"] != "dense"]
        if settings.empty:
            continue
        of_group = samples[names]
        paired = pair(of_group, settings["key"].to_list(), dense["key"].iloc[0]) if len(dense) else None
        upward = bool(settings["higher_is_better"].iloc[0])
        percentage = upward and bool(of_group["score"].dropna().between(0, 1).all())
        named = dict(zip(GROUP, map(str, names), strict=True))
        yield Group(named, settings, dense.iloc[0] if len(dense) else None, paired, percentage)


def pair(samples: pd.DataFrame, keys: list[str], other: str) -> Paired:
    """The records `keys` less the record `other`, by index. samples: rows of all of them, as in Frames.samples.

    A cluster is known if either side knows it; an example without one is a cluster of its own.
    """
    every = [*keys, other]
    samples = samples[samples["key"].isin(every)]
    index, row = np.unique(samples["index"], return_inverse=True)
    column = pd.Index(every).get_indexer(pd.Index(samples["key"]))
    score = np.full((len(index), len(every)), np.nan)
    score[row, column] = samples["score"]
    there = np.zeros(score.shape, dtype=bool)
    there[row, column] = True
    score[~np.isfinite(score)] = np.nan
    shared = there[:, :-1] & there[:, -1:]
    plain = np.isin(score, (0.0, 1.0))
    binary = np.logical_and(((plain[:, :-1] & plain[:, -1:]) | ~shared).all(axis=0), shared.any(axis=0))
    return Paired(score[:, :-1] - score[:, -1:], shared, cluster_codes(samples, row, len(index)), binary)


def cluster_codes(samples: pd.DataFrame, row: np.ndarray, examples: int) -> np.ndarray:
    """[N]: a number for each cluster, in the examples' order. row: which example each of the samples is of."""
    known = (samples["cluster"] != "").to_numpy()
    names: list[tuple[str, object]] = [("example", place) for place in range(examples)]
    for place, cluster in zip(row[known], samples["cluster"][known], strict=True):
        names[place] = ("cluster", cluster)
    return pd.factorize(pd.Series(names, dtype=object))[0]
