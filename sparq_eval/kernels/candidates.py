"""What is ranked and how, what scoring leaves of it, and what is chosen in the end."""

from dataclasses import dataclass

import triton
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Ranked:
    """positions: the best, -1 at unused places, in no order. covered: the weight that the approximation gives to them
    and to the query's own (alpha), by head; None where it was not asked for.
    """

    positions: Int[Tensor, "B H N"]
    covered: Float[Tensor, "B H G"] | None


@dataclass(frozen=True)
class Ranking:
    """What is ranked and how. own: whether the query's own position is left out, as it is attended in any case.

    local: so many positions before the query's own come first. scale: of the logits, beside the temperature.
    by_weights: whether what is summed over a group are its heads' weights, not their logits. sinks: logits that weigh
    among these, and in what is covered.
    """

    r: int
    k: int
    local: int
    scale: float
    softcap: float | None
    covered: bool
    own: bool = True
    by_weights: bool = False
    sinks: Float[Tensor, "H G"] | None = None


@dataclass(frozen=True)
class Candidates:
    """What scoring left of each head (R of them, N candidates from chunks): scores by head of the group, positions (-1:
    none), and of each chunk the largest score and the sum of exponentials beside it.

    Where every position is one (`everything`), they lie in their order, and counts are zeros for what looks for the
    best of them.
    """

    score: Float[Tensor, "R h N"]
    position: Int[Tensor, "R N"] | None
    peak: Float[Tensor, "R h chunks"]
    mass: Float[Tensor, "R h chunks"]
    own: Float[Tensor, "R h"]
    counts: Int[Tensor, "R digits 256"]
    heads: int
    how: Ranking
    first: Int[Tensor, "B"]
    stop: Int[Tensor, "B"]

    @property
    def everything(self) -> bool:
        return self.position is None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        assert self.position is not None
        return self.score, self.position, self.peak, self.mass, self.own

    @property
    def numbers(self) -> tuple[int, ...]:
        """k, local, N, chunks: how merging functions take them."""
        return self.how.k, self.how.local, self.score.shape[2], self.mass.shape[2]

    @property
    def held(self) -> int:
        """Room for the candidates in a merging program."""
        return max(256, triton.next_power_of_2(self.score.shape[2]))

    @property
    def warps(self) -> int:
        return max(4, min(16, self.held // 512))

    @property
    def constants(self) -> dict[str, int | bool]:
        return {
            "OWN": self.how.own, "COVERED": self.how.covered, "HEADS": self.heads, "HP": self.score.shape[1],
            "HELD": self.held, "CHUNKS_P": triton.next_power_of_2(self.mass.shape[2]),
        }  # fmt: skip
