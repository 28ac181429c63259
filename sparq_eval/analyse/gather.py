"""All statistics of an analysis, gathered prompt by prompt: what is kept does not grow with the prompts' lengths."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sparq_eval.analyse.correlation import Correlation, tail
from sparq_eval.analyse.queries import densities, moments
from sparq_eval.analyse.scores import agreement, coverage, top_mass
from sparq_eval.methods import Shape
from sparq_eval.methods.sparq import TEMPERATURES
from sparq_eval.step import Step

SHARES = np.linspace(0, 1, 21)  # bins of a share of the weight
RANKED_BY = ("query", "low_rank")


@dataclass(frozen=True)
class Choice:
    """top: positions whose mass is summed. rs, ks: of the approximations; k: of the coverage. positions: the last ones,
    over which keys and values are correlated.
    """

    top: int
    rs: tuple[int, ...]
    ks: tuple[int, ...]
    k: int
    positions: int


@dataclass
class Gathered:
    """Statistics of the last queries of the prompts so far. Call `see` for every layer of a prompt, then `close`.

    Beside sums it keeps the queries themselves (4 bytes a component), as their distribution is that of deviations from
    a mean which is known in the end only, and a sum over examples of the last keys and values.
    """

    choice: Choice
    shape: Shape
    layers: int
    examples: int = 0
    queries: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        heads = (self.layers, self.shape.heads * self.shape.groups)
        self.now = np.zeros((*heads, self.shape.head_size), dtype=np.float32)
        self.mass = np.zeros(heads)
        self.mass_counts = np.zeros(len(SHARES) - 1, dtype=np.int64)
        self.found: dict[tuple[str, int, int], np.ndarray] = defaultdict(
            lambda: np.zeros((self.layers, self.shape.heads))
        )
        self.of: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(self.layers, dtype=np.int64))
        self.covered = {(name, r): Coverage.of(heads) for name in TEMPERATURES for r in self.choice.rs}
        self.keys, self.values = Correlation(self.layers), Correlation(self.layers)

    def see(self, layer: int, step: Step) -> None:
        """One layer of a prompt: its last query over all that it may see. A single example."""
        self.now[layer] = step.q[0, :, :, 0].flatten(0, 1).float().cpu().numpy()
        mass = numbers(top_mass(step, self.choice.top))
        self.mass[layer] += mass
        self.mass_counts += np.histogram(mass.clip(0, 1), bins=SHARES)[0]
        count = int(step.visible.count[0, 0])
        for k in self.choice.ks:
            self.of[k][layer] += k < count
        for score in RANKED_BY:
            for r in self.choice.rs:
                for k, share in agreement(step, score, r, self.choice.ks).items():
                    self.found[score, r, k][layer] += share.cpu().numpy()
        if self.choice.k < count:
            for (name, r), covered in self.covered.items():
                covered.add(layer, *map(numbers, coverage(step, name, r, self.choice.k)))
        for correlation, x in ((self.keys, step.k), (self.values, step.v)):
            correlation.add(layer, tail(x, self.choice.positions))

    def close(self) -> None:
        """The end of a prompt."""
        self.queries.append(self.now.copy())
        self.keys.close()
        self.values.close()
        self.examples += 1

    def statistics(self) -> dict[str, Any]:
        """As arrays and numbers; agreement and coverage are those of prompts that are longer than k."""
        q = np.stack(self.queries)
        return {
            "mass": {"heads": self.mass / self.examples, "edges": SHARES, "counts": self.mass_counts},
            "queries": moments(q) | densities(q, self.layers // 2),
            "agreement": [self.agreed(*key) for key in sorted(self.found)],
            "coverage": [
                {"temperature": name, "r": r, "k": self.choice.k, **covered.summary()}
                for (name, r), covered in self.covered.items()
                if covered.examples.any()
            ],
            "correlation": {"keys": self.keys.ratios(), "values": self.values.ratios()},
        }

    def agreed(self, score: str, r: int, k: int) -> dict[str, Any]:
        """heads: nan in a layer whose window is never longer than k."""
        examples = self.of[k]
        with np.errstate(invalid="ignore"):
            heads = self.found[score, r, k] / examples[:, None]
        some = heads[examples > 0]
        low, middle, high = np.quantile(some, (0.1, 0.5, 0.9))
        row = {"score": score, "r": r, "k": k, "mean": some.mean(), "low": low, "median": middle, "high": high}
        return row | ({"heads": heads} if score == "query" and k == min(self.choice.ks) else {})


@dataclass
class Coverage:
    """Estimates of a share beside the truth: sums of errors of each head, and of estimates by the truth's size.

    The truth is the weight of the k best positions, as in Figure 4f; for the weight of those that were chosen, which is
    less, there are sums over all heads.
    """

    error: np.ndarray
    square: np.ndarray
    examples: np.ndarray  # by layer
    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    chosen_error: float = 0.0
    chosen_square: float = 0.0

    @staticmethod
    def of(heads: Sequence[int]) -> "Coverage":
        bins = len(SHARES) - 1
        counts, sums, squares = np.zeros((3, bins))
        return Coverage(np.zeros(heads), np.zeros(heads), np.zeros(heads[0], int), counts, sums, squares)

    def add(self, layer: int, estimated: np.ndarray, chosen: np.ndarray, true: np.ndarray) -> None:
        error = estimated - true
        self.chosen_error += (estimated - chosen).sum()
        self.chosen_square += ((estimated - chosen) ** 2).sum()
        self.error[layer] += error
        self.square[layer] += error**2
        self.examples[layer] += 1
        bins = SHARES.searchsorted(true.clip(0, 1), side="right").clip(1, len(SHARES) - 1) - 1
        for sums, values in ((self.counts, np.ones_like(true)), (self.sums, estimated), (self.squares, estimated**2)):
            np.add.at(sums, bins, values)

    def summary(self) -> dict[str, Any]:
        """rmse, bias: over heads, examples. heads: of each, nan where a layer has no examples. mean, deviation: of
        estimates by bins of the truth; nan where none.
        """
        seen = self.examples > 0
        heads = self.examples[seen].sum() * self.error.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            by_head = np.sqrt(self.square / self.examples[:, None])
            mean = self.sums / self.counts
            deviation = np.sqrt(np.maximum(self.squares / self.counts - mean**2, 0))
        return {
            "rmse": np.sqrt(self.square.sum() / heads),
            "bias": self.error.sum() / heads,
            "rmse_of_chosen": np.sqrt(self.chosen_square / heads),
            "bias_of_chosen": self.chosen_error / heads,
            "heads": by_head,
            "edges": SHARES,
            "counts": self.counts.astype(np.int64),
            "mean": mean,
            "deviation": deviation,
        }


def numbers(x: torch.Tensor) -> np.ndarray:
    """(H, G) as one row of heads, in float64."""
    return x.flatten().double().cpu().numpy()
