"""SparQ Attention (arXiv 2312.04985, Algorithm 1): rank positions by the largest query components, read the best.

Step 1 reads r components of every key and ranks positions by approximate logits; step 2 reads the keys and values of
the k best; the weight that the approximation gives to the rest goes to the mean value.
"""

from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.methods.method import (
    Attended,
    Budget,
    Method,
    Shape,
    State,
    count_of,
    fit_k,
    is_share,
    least_k,
    local_of,
    require,
    require_budget,
    whole,
)
from sparq_eval.ops import Prompt, attend_at, cap, dot, hide, softmax, value_mean
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class SparQ(Method):
    """r: query components read in step 1, or a share of the head size. k: cached positions read in step 2, or a share
    of the prompt, then at least `min_k`; `local` of them are the most recent (default k // 4); the query's own comes on
    top. reallocate: give the missing weight to the mean value (default: only where every query head has its own
    key/value head, as in the paper). rank_by: what is summed over the query heads of a group to rank positions, their
    approximate `logits`, as in the published code, or the `weights` these make, as in the paper's Appendix B.
    """

    r: Budget = 32
    k: Budget = 128
    local: int | None = None
    reallocate: bool | None = None
    rank_by: str = "logits"
    min_k: int = 1

    def __post_init__(self) -> None:
        require_budget("r", self.r, "the head size")
        require(self.rank_by in ("logits", "weights"), "rank_by", self.rank_by, "logits or weights")
        object.__setattr__(self, "min_k", least_k(self.k, self.min_k))
        object.__setattr__(self, "local", local_of(self.k, self.local))

    def resolve(self, shape: Shape) -> Self:
        r = max(1, round(self.r * shape.head_size)) if is_share(self.r) else self.r
        require(r <= shape.head_size, "r", r, f"at most the model's head size, {shape.head_size}")
        return replace(self, r=r, reallocate=shape.groups == 1 if self.reallocate is None else self.reallocate)

    def fit(self, S: int) -> Self:
        return replace(self, k=fit_k(self.k, S, max(self.min_k, self.local or 1))) if is_share(self.k) else self

    @classmethod
    def compressed(cls, compression: float, shape: Shape) -> dict[str, Any]:
        # half of the budget for each step, as in the paper's needle and long-context sweeps
        return {"r": max(1, round(shape.head_size / compression))}

    def prefill(self, prompt: Prompt) -> Float[Tensor, "B H D"] | None:
        # a sliding window forgets values too: there the mean is taken anew at each step
        return prompt.value_sum if self.reallocate and prompt.visible.window is None else None

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        scores = approximate(step, whole(self.r))  # (B, H, G, T, S)
        recent = step.visible.recent(self.local or 0)
        ranked = self.rank(scores).masked_fill(recent[:, None], torch.inf)  # (B, H, T, S)
        index = ranked.topk(min(whole(self.k) + 1, ranked.shape[-1]), dim=-1, sorted=False).indices
        seen = step.visible.mask[:, None].expand_as(ranked).gather(-1, index)
        out, _ = attend_at(step, index, seen)
        selected = seen.sum(dim=-1)
        # step 1 reads r components of each cached key; a key is written twice, a value once
        D = step.head_size
        moved = (count_of(step) - 1) * self.r + (selected - 1) * 2 * D + 3 * D
        if self.reallocate:
            spread = index[:, :, None].expand(-1, -1, step.groups, -1, -1)
            covered = softmax(scores).gather(-1, spread).sum(dim=-1, keepdim=True)  # alpha: (B, H, G, T, 1)
            mean = value_mean(step, state)[:, :, None]
            out = (covered * out + (1 - covered) * mean).to(step.v.dtype)
            moved = moved + 2 * D  # the mean value is read and written
        if state is not None:
            state = state + step.own_v.float().sum(dim=2)
        return Attended(out, selected, moved), state

    def rank(self, scores: Float[Tensor, "B H G T S"]) -> Float[Tensor, "B H T S"]:
        # where a head has no group, its weights rank as its logits do, and logits do not vanish
        if self.rank_by == "logits" or scores.shape[2] == 1:
            return scores.sum(dim=2)
        # a weight may vanish; what cannot be seen comes after it
        return softmax(scores).sum(dim=2).masked_fill(scores[:, :, 0] == -torch.inf, -1)

    def transfers(self, S: float, shape: Shape) -> float:
        return S * self.r + 2 * self.k * shape.head_size + (5 if self.reallocate else 3) * shape.head_size

    def transfers_as_printed(self, S: float, shape: Shape) -> float:
        """Appendix G: one formula, whether the missing weight is reallocated or not."""
        return S * self.r + 2 * self.k * shape.head_size + 4 * shape.head_size


def components(q: Float[Tensor, "B H G T D"], r: int) -> Int[Tensor, "B H 1 T R"]:
    """The r components that are largest in magnitude, summed over the group."""
    return q.float().abs().sum(dim=2, keepdim=True).topk(r, dim=-1, sorted=False).indices


def approximate(step: Step, r: int) -> Float[Tensor, "B H G T S"]:
    """Logits from r components of query and key, at the temperature that makes up for the missing ones."""
    q = step.q
    index = components(q, r).expand(-1, -1, q.shape[2], -1, -1)
    # other components are zeroed rather than left out: the same sum, as one product with the keys as they lie
    part = torch.zeros_like(q).scatter(-1, index, q.gather(-1, index))
    coverage = part.float().abs().sum(dim=-1, keepdim=True) / q.float().abs().sum(dim=-1, keepdim=True)
    # a query of zeros is covered by any components
    coverage = coverage.nan_to_num(1.0)
    # the paper's sqrt(d * coverage), with 1/sqrt(d) being the model's own scale
    part = (part * (step.scale / coverage.sqrt())).to(q.dtype)
    return hide(cap(dot(part, step.k), step.softcap), step)
