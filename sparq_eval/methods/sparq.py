"""SparQ Attention (arXiv 2312.04985, Algorithm 1): rank positions by the largest query components, read the best.

Step 1 reads r components of every key and ranks positions by approximate logits; step 2 reads the keys and values of
the k best; the weight that the approximation gives to the rest goes to the mean value.
"""

from dataclasses import dataclass, replace
from functools import cache
from math import sqrt
from typing import Any, NamedTuple, Self, final

import torch
from jaxtyping import Float, Int, Num
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
from sparq_eval.ops import Prompt, attend_at, cap, dot, hide, logits, narrow, restore, softmax, value_mean
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class SparQ(Method):
    """r: query components read in step 1, or a share of the head size. k: cached positions read in step 2, or a share
    of the prompt, then at least `min_k`; `local` of them are the most recent (default k // 4); the query's own comes on
    top. reallocate: give the missing weight to the mean value (default: only where every query head has its own
    key/value head, as in the paper). rank_by: what is summed over the query heads of a group to rank positions, their
    approximate `logits`, as in the published code, or the `weights` these make, as in the paper's Appendix B.

    copy: what step 1 reads: `same`, a second copy of the keys; `fp8` (e4m3) or `int8` (scaled by the largest of each
    component in the prompt), a second copy of one byte an element; `none`, the keys themselves (slower, the same
    numbers).

    For ablations (Figure 7), in torch alone. temperature: what divides the approximate logits, by which they tell how
    much weight was missed: `coverage`, sqrt(D |q[largest r]|_1 / |q|_1); `sqrt_d`, `sqrt_r`; `none`, 1. score: what
    ranks: `query`, the largest components of the query; `low_rank`, query and keys in the same r dimensions, drawn at
    random for each key/value head, at sqrt(D); `oracle`, the true logits (r is not used). As the paper counts, reading
    a projected key moves r elements, and an oracle ranks for nothing: it moves 2 k D, what is written, the mean value.
    """

    r: Budget = 32
    k: Budget = 128
    local: int | None = None
    reallocate: bool | None = None
    rank_by: str = "logits"
    copy: str = "same"
    min_k: int = 1
    temperature: str = "coverage"
    score: str = "query"

    def __post_init__(self) -> None:
        require(self.score in SCORES, "score", self.score, ", ".join(SCORES))
        if self.score == "oracle":
            object.__setattr__(self, "r", 1)  # so that settings that do the same are equal
        require_budget("r", self.r, "the head size")
        require(self.temperature in TEMPERATURES, "temperature", self.temperature, ", ".join(TEMPERATURES))
        for name in ("temperature", "copy"):
            right = f"score={self.score} has no other than {DEFAULTS[name]}; leave one of them out"
            require(self.score == "query" or getattr(self, name) == DEFAULTS[name], name, getattr(self, name), right)
        require(self.rank_by in ("logits", "weights"), "rank_by", self.rank_by, "logits or weights")
        require(self.copy in COPIES, "copy", self.copy, ", ".join(COPIES))
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

    def prefill(self, prompt: Prompt) -> "Kept | None":
        # a sliding window forgets values too: there the mean is taken anew at each step
        value_sum = prompt.value_sum if self.reallocate and prompt.visible.window is None else None
        scale = prompt.key_peaks / 127 if self.copy == "int8" else None
        return None if value_sum is None and scale is None else Kept(value_sum, scale)

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        state = state or Kept()
        scores = self.scores(step, state.scale)  # (B, H, G, T, S)
        recent = step.visible.recent(self.local or 0)
        ranked = self.rank(scores).masked_fill(recent[:, None], torch.inf)  # (B, H, T, S)
        index = ranked.topk(min(whole(self.k) + 1, ranked.shape[-1]), dim=-1, sorted=False).indices
        seen = step.visible.mask[:, None].expand_as(ranked).gather(-1, index)
        out, _ = attend_at(step, index, seen)
        selected = seen.sum(dim=-1)
        if self.reallocate:
            spread = index[:, :, None].expand(-1, -1, step.groups, -1, -1)
            covered = softmax(scores).gather(-1, spread).sum(dim=-1, keepdim=True)  # alpha: (B, H, G, T, 1)
            mean = value_mean(step, state.value_sum)[:, :, None]
            out = (covered * out + (1 - covered) * mean).to(step.v.dtype)
        return Attended(out, selected, self.moved(step, selected)), state.after(step)

    def scores(self, step: Step, scale: Float[Tensor, "B H D"] | None = None) -> Float[Tensor, "B H G T S"]:
        """The logits that rank, -inf where a query may not look. scale: of an int8 copy."""
        if self.score == "oracle":
            return logits(step)
        if self.score == "low_rank":
            return project(step, whole(self.r))
        return approximate(step, whole(self.r), self.copy, scale, self.temperature)

    def moved(self, step: Step, selected: Int[Tensor, "B H T"]) -> Num[Tensor, "B H T"]:
        """Elements: components of each cached key, chosen keys and values, what is written, the mean value."""
        D, itemsize = step.head_size, step.k.itemsize
        return (count_of(step) - 1) * self.read(itemsize) + (selected - 1) * 2 * D + self.fixed(D, itemsize)

    def read(self, itemsize: int) -> float:
        """Elements, of so many bytes, that step 1 reads of a cached key."""
        return 0 if self.score == "oracle" else self.r * COPIES[self.copy].width(itemsize)

    def fixed(self, D: int, itemsize: int) -> float:
        """Elements that do not depend on how much is cached: key, value, second key, the scales, the mean value."""
        # an oracle reads no copy, so none is written
        copy = COPIES["none" if self.score == "oracle" else self.copy]
        second = copy.width(itemsize) if copy.written else 0
        return (2 + second + (2 if self.reallocate else 0)) * D + (self.r if copy.scaled else 0)

    def rank(self, scores: Float[Tensor, "B H G T S"]) -> Float[Tensor, "B H T S"]:
        # where a head has no group, its weights rank as its logits do, and logits do not vanish
        if self.rank_by == "logits" or scores.shape[2] == 1:
            return scores.sum(dim=2)
        # a weight may vanish; what cannot be seen comes after it
        return softmax(scores).sum(dim=2).masked_fill(scores[:, :, 0] == -torch.inf, -1)

    def transfers(self, S: float, shape: Shape) -> float:
        D = shape.head_size
        return S * self.read(shape.itemsize) + 2 * self.k * D + self.fixed(D, shape.itemsize)

    def transfers_as_printed(self, S: float, shape: Shape) -> float:
        """Appendix G: one formula, whether the missing weight is reallocated or not."""
        D = shape.head_size
        return S * self.read(shape.itemsize) + 2 * self.k * D + 4 * D

    @property
    def settings(self) -> dict[str, Any]:
        """Without a copy, a temperature or a score that is nothing special, and without an r that is not used."""
        values = super().settings
        for name, default in DEFAULTS.items():
            if values[name] == default:
                values.pop(name)
        if self.score == "oracle":
            values.pop("r")
        return values

    @property
    def ablation(self) -> str:
        """What of the settings only torch has: `score=oracle`; "" for nothing."""
        return " ".join(f"{name}={value}" for name, value in self.settings.items() if name in ("temperature", "score"))


TEMPERATURES = ("coverage", "sqrt_d", "sqrt_r", "none")
SCORES = ("query", "low_rank", "oracle")
# of settings that came later, so that records of before keep their keys
DEFAULTS = {"copy": "same", "temperature": "coverage", "score": "query"}


class Copy(NamedTuple):
    """What step 1 reads. size: bytes of an element, None for a key's own. written: whether it is a second copy."""

    size: int | None = None
    written: bool = True
    scaled: bool = False

    def width(self, itemsize: int) -> float:
        """An element of the copy as a part of one of the cache, which has so many bytes."""
        return 1 if self.size is None else self.size / itemsize


COPIES = {"same": Copy(), "fp8": Copy(1), "int8": Copy(1, scaled=True), "none": Copy(written=False)}


class Kept(NamedTuple):
    """value_sum: of the values so far, for the running mean; None where it is taken anew. scale: of the int8 copy."""

    value_sum: Float[Tensor, "B H D"] | None = None
    scale: Float[Tensor, "B H D"] | None = None

    def after(self, step: Step) -> "Kept | None":
        if self.value_sum is None:
            return self if self.scale is not None else None
        return self._replace(value_sum=self.value_sum + step.own_v.float().sum(dim=2))


def components(q: Float[Tensor, "B H G T D"], r: int) -> Int[Tensor, "B H 1 T R"]:
    """The r components that are largest in magnitude, summed over the group."""
    return q.float().abs().sum(dim=2, keepdim=True).topk(r, dim=-1, sorted=False).indices


def approximate(
    step: Step, r: int, copy: str = "same", scale: Float[Tensor, "B H D"] | None = None, temperature: str = "coverage"
) -> Float[Tensor, "B H G T S"]:
    """Logits from r components of query and key; the paper's temperature makes up for the missing ones."""
    q, k, D = step.q, restore(narrow(step.k, copy, scale), step.k.dtype, scale), step.head_size
    index = components(q, r).expand(-1, -1, q.shape[2], -1, -1)
    # other components are zeroed rather than left out: the same sum, as one product with the keys as they lie
    part = torch.zeros_like(q).scatter(-1, index, q.gather(-1, index))
    # of the paper's sqrt(d) the model's own scale takes the place
    if temperature == "coverage":
        coverage = part.float().abs().sum(dim=-1, keepdim=True) / q.float().abs().sum(dim=-1, keepdim=True)
        # a query of zeros is covered by any components
        part = (part * (step.scale / coverage.nan_to_num(1.0).sqrt())).to(q.dtype)
    else:
        part = part * (step.scale * {"sqrt_d": 1, "sqrt_r": sqrt(D / r), "none": sqrt(D)}[temperature])
    return hide(cap(dot(part, k), step.softcap), step)


def project(step: Step, r: int) -> Float[Tensor, "B H G T S"]:
    """Logits of queries and keys that are projected to r dimensions."""
    basis = projection(step.k.shape[1], step.head_size, r, step.q.device)
    # the query is projected there and back: the same products, with the keys as they lie
    part = torch.einsum("bhgtd,hdr,her->bhgte", step.q.float(), basis, basis) * step.scale
    return hide(cap(dot(part.to(step.q.dtype), step.k), step.softcap), step)


@cache
def projection(H: int, D: int, r: int, device: torch.device) -> Float[Tensor, "H D R"]:
    """Orthonormal columns, drawn at random for each head as in the paper's ablation; the same in every layer."""
    source = torch.Generator().manual_seed(2312_04985)
    drawn = torch.randn(H, D, r, generator=source, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.float().to(device)
