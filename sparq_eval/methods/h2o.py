"""H2O (arXiv 2306.14048): keep the most recent positions and the heavy hitters, evict the rest for good.

A position's score is the attention it has received so far, prompt included; the statistics start with the column sums
of the dense prefill (REFERENCE of the SparQ paper, one ledger a key/value head).
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparq_eval.methods.method import Attended, Method, Shape, State, require
from sparq_eval.ops import Prompt, attend_at, one_by_one
from sparq_eval.step import Step


class Ledger(NamedTuple):
    score: Float[Tensor, "B H S"]
    alive: Bool[Tensor, "B H S"]


@final
@dataclass(frozen=True)
class H2O(Method):
    """k: cached positions kept, of which `local` (default k // 4) are the most recent; the query's own comes on top."""

    k: int = 256
    local: int | None = None

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", self.k, "at least one position must be kept")
        local = self.k // 4 if self.local is None else self.local
        require(0 <= local <= self.k, "local", local, f"between 0 and k={self.k}")
        object.__setattr__(self, "local", local)

    def prefill(self, prompt: Prompt) -> Ledger:
        score = prompt.column_sums
        return Ledger(score, torch.ones_like(score, dtype=torch.bool))

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        if step.q.shape[3] == 1:
            return self.attend_one(step, state)
        parts, state = one_by_one(self.attend_one, step, state)
        return Attended.join(parts), state

    def attend_one(self, step: Step, state: Ledger) -> tuple[Attended, Ledger]:
        """Evict down to k + 1, attend to what is left, add this query's weights to the ledger."""
        seen = step.visible.mask[:, 0, None]  # (B, 1, S)
        score, alive = grow(state, step.k.shape[2])
        alive = alive & seen
        recent = step.visible.recent(self.local or 0)[:, 0, None]
        ranked = score.masked_fill(~alive, -torch.inf).masked_fill(recent, torch.inf)
        index = ranked.topk(min(self.k + 1, ranked.shape[-1]), dim=-1, sorted=False).indices  # (B, H, N)
        keep = alive.gather(-1, index)
        out, weights = attend_at(step, index[:, :, None], keep[:, :, None])
        score = score.scatter_add(-1, index, weights.mean(dim=2)[:, :, 0])
        # what cannot be seen yet is not evicted
        survivors = torch.zeros_like(alive).scatter_(-1, index, keep) | ~seen
        selected = keep.sum(dim=-1, keepdim=True)
        # every candidate's score is read, every survivor's written back
        moved = (selected - 1) * 2 * step.head_size + 2 * step.head_size + alive.sum(-1, keepdim=True) + selected
        return Attended(out, selected, moved), Ledger(score, survivors)

    def transfers(self, S: float, shape: Shape) -> float:
        return 2 * self.k * shape.head_size + 2 * shape.head_size + 2 * S + 1


def grow(ledger: Ledger, S: int) -> Ledger:
    """Room for the positions that have come since: not scored yet, alive."""
    new = S - ledger.score.shape[-1]
    return Ledger(
        torch.nn.functional.pad(ledger.score, (0, new)), torch.nn.functional.pad(ledger.alive, (0, new), value=True)
    )
