"""What a report has to say: the records, each setting beside dense, and how far each method compresses."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from sparq_eval.results.frames import Frames
from sparq_eval.statistics import MARGIN, compare, headline
from sparq_eval.statistics.lines import forms

NUMBERS = ["difference", "low", "high", "test", "p", "q", "more", "clusters"]
FLAGS = ["better", "worse"]


@dataclass(frozen=True)
class Findings:
    """comparisons, headline: as `statistics.compare` and `statistics.headline` give them."""

    frames: Frames
    comparisons: pd.DataFrame
    headline: pd.DataFrame

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records with what was found of each; dense, which is compared with nothing, has no numbers or flags."""
        joined = self.frames.records.merge(self.comparisons[["key", *NUMBERS, *FLAGS]], how="left", on="key")
        return joined.assign(**{name: joined[name].eq(True) for name in FLAGS})

    def of(self, keys: Collection[str]) -> "Findings":
        """Only these records, and the headlines of the methods, tasks and models that are among them."""
        records = self.frames.records[self.frames.records["key"].isin(keys)]
        samples = self.frames.samples[self.frames.samples["key"].isin(keys)]
        there = records[["model", "task", "variant"]].assign(form=forms(records)).drop_duplicates()
        return replace(
            self,
            frames=Frames(records, samples),
            comparisons=self.comparisons[self.comparisons["key"].isin(keys)],
            headline=self.headline.merge(there),
        )


def find(frames: Frames, margin: float = MARGIN) -> Findings:
    """The statistics of all of `frames`. margin: points, or per cent of dense's value, see `statistics.headline`."""
    return Findings(frames, compare(frames), headline(frames, margin))
