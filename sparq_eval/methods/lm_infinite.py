"""LM-Infinite (arXiv 2308.16137), its attention mask alone: the first tokens and the most recent ones."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Int
from torch import Tensor

from sparq_eval.methods.method import Attended, Method, Shape, State, require
from sparq_eval.ops import attend_at
from sparq_eval.step import Step, Visible


@final
@dataclass(frozen=True)
class LMInfinite(Method):
    """k: positions attended, the query's own among them; the first `sink` of the sequence and the k - sink latest."""

    k: int = 256
    sink: int = 16

    def __post_init__(self) -> None:
        require(self.sink >= 0, "sink", self.sink, "at least 0")
        require(self.k > self.sink, "k", self.k, f"above sink={self.sink}, or nothing recent is left")

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        keep, index = step.visible.once((LMInfinite, self.k, self.sink), lambda: self.ends(step.visible))
        H = step.k.shape[1]
        keep, index = (x[:, None].expand(-1, H, -1, -1) for x in (keep, index))
        out, _ = attend_at(step, index, keep)
        selected = keep.sum(dim=-1)
        return Attended(out, selected, 2 * selected * step.head_size), state

    def ends(self, visible: Visible) -> tuple[Bool[Tensor, "B T N"], Int[Tensor, "B T N"]]:
        """N places for the chosen positions: whether a place is used, and the position there."""
        age, count = visible.age, visible.count[..., None]  # (B, T, S), (B, T, 1)
        chosen = (age >= 0) & ((age < self.k - self.sink) | (count - 1 - age < self.sink))
        # true before false, so that the first N hold every chosen position
        keep, index = chosen.byte().topk(min(self.k, age.shape[-1]), dim=-1)
        return keep.bool(), index

    def transfers(self, S: float, shape: Shape) -> float:
        return 2 * self.k * shape.head_size + 2 * shape.head_size
