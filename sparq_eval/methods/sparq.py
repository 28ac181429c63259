"""SparQ Attention (arXiv 2312.04985, Algorithm 1): rank positions by the largest query components, read the best.

Step 1 reads r components of every key and ranks positions by approximate logits; step 2 reads the keys and values of
the k best; the weight that the approximation gives to the rest goes to the mean value.
"""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.methods.method import Attended, Method, Shape, State, count_of, require
from sparq_eval.ops import Prompt, attend_at, cap, dot, hide, softmax, value_mean
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class SparQ(Method):
    """r: query components read in step 1. k: cached positions read in step 2, of which `local` are the most recent
    (default k // 4); the query's own comes on top. reallocate: give the missing weight to the mean value (default: only
    where every query head has its own key/value head, as in the paper).
    """

    r: int = 32
    k: int = 128
    local: int | None = None
    reallocate: bool | None = None

    def __post_init__(self) -> None:
        require(self.r >= 1, "r", self.r, "at least one component must be read")
        require(self.k >= 1, "k", self.k, "at least one position must be read")
        local = self.k // 4 if self.local is None else self.local
        require(0 <= local <= self.k, "local", local, f"between 0 and k={self.k}")
        object.__setattr__(self, "local", local)

    def resolve(self, shape: Shape) -> Self:
        require(self.r <= shape.head_size, "r", self.r, f"at most the model's head size, {shape.head_size}")
        return self if self.reallocate is not None else replace(self, reallocate=shape.groups == 1)

    def prefill(self, prompt: Prompt) -> Float[Tensor, "B H D"] | None:
        # a sliding window forgets values too: there the mean is taken anew at each step
        return prompt.value_sum if self.reallocate and prompt.visible.window is None else None

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        scores = approximate(step, self.r)  # (B, H, G, T, S)
        recent = step.visible.recent(self.local or 0)
        ranked = scores.sum(dim=2).masked_fill(recent[:, None], torch.inf)  # (B, H, T, S)
        index = ranked.topk(min(self.k + 1, ranked.shape[-1]), dim=-1, sorted=False).indices
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

    def transfers(self, S: float, shape: Shape) -> float:
        return S * self.r + 2 * self.k * shape.head_size + (5 if self.reallocate else 3) * shape.head_size


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
