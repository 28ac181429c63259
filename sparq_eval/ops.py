"""The few tensor operations that methods share. Matrix products run in the model's dtype, softmax in float32."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sparq_eval.step import Columns, Step

ROUND = 128  # the room for positions of a second copy of the keys is a multiple of it
GATHER = 5  # gather where at most one in so many positions is chosen; measured on two CPU cores


def dot(q: Float[Tensor, "B H G T D"], k: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H G T N"]:
    """Products of every query with every key of its head, in float32."""
    # G and T folded into rows: one matrix product a head
    return torch.matmul(q.flatten(2, 3), k.mT).unflatten(2, q.shape[2:4]).float()


def mix(weights: Float[Tensor, "B H G T N"], v: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H G T D"]:
    """Values summed by weight."""
    return torch.matmul(weights.flatten(2, 3).to(v.dtype), v).unflatten(2, weights.shape[2:4])


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def hide(scores: Float[Tensor, "B H G T S"], step: Step) -> Float[Tensor, "B H G T S"]:
    """-inf where a query may not look, in place."""
    return scores.masked_fill_(~step.visible.mask[:, None, None], -torch.inf)


def logits(step: Step) -> Float[Tensor, "B H G T S"]:
    """Scaled and capped logits, -inf where a query may not look."""
    return hide(cap(dot(step.q, step.k).mul_(step.scale), step.softcap), step)


def softmax(
    scores: Float[Tensor, "B H G T N"], sinks: Float[Tensor, "H G"] | None = None
) -> Float[Tensor, "B H G T N"]:
    """Weights over the last dimension; a sink takes its share and gives no value."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    column = sinks.float()[None, :, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]


@dataclass(frozen=True)
class Prompt(Step):
    """The dense step over a whole prompt, with the statistics that methods start from, each computed once for all."""

    def begin(self, drop: Int[Tensor, "B"]) -> "Prompt":
        """The prompt without the last `drop` positions of each example, its end where this one's is."""
        k, v, valid = (shift(x, drop, dim) for x, dim in ((self.k, 2), (self.v, 2), (self.visible.valid, 1)))
        return replace(self, q=shift(self.q, drop, 3), k=k, v=v, visible=replace(self.visible, valid=valid))

    @cached_property
    def value_sum(self) -> Float[Tensor, "B H D"]:
        """Sum of the values that the last query sees, in float32."""
        T = self.q.shape[3]
        seen = self.visible.narrow(T - 1, T).mask[:, 0]
        return torch.einsum("bs,bhsd->bhd", seen.float(), self.v.float())

    @cached_property
    def key_peaks(self) -> Float[Tensor, "B H D"]:
        """Largest finite magnitude of each key component in the prompt, in float32; 1 where it is 0."""
        sizes = self.k.float().abs().nan_to_num_(nan=0, posinf=0)
        peaks = sizes.masked_fill_(~self.visible.valid[:, None, :, None], 0).amax(dim=2)
        return peaks.masked_fill(peaks == 0, 1)

    @cached_property
    def column_sums(self) -> Float[Tensor, "B H S"]:
        """Weight that each position has had from all queries under dense attention: mean over the group, sum over T."""
        sums = torch.zeros(self.k.shape[:3], device=self.k.device)
        for part in blocks(self):
            # a padded query sees nothing: its row is all -inf and its weights are not a number
            weights = softmax(logits(part), part.sinks).nan_to_num_()
            sums[:, :, : weights.shape[-1]] += weights.sum(dim=(2, 3)) / self.groups
        return sums


def blocks(step: Step) -> list[Step]:
    """The step by blocks of queries whose logits fit a processor's cache, or a small part of a device's memory."""
    B, H, G, T, _ = step.q.shape
    elements = 2**21 if step.q.device.type == "cpu" else 2**27
    rows = max(1, elements // (B * H * G * step.k.shape[2]))
    return [step.narrow(first, min(first + rows, T)) for first in range(0, T, rows)]


def attend_at(
    step: Step, index: Int[Tensor, "B H T N"], keep: Bool[Tensor, "B H T N"]
) -> tuple[Float[Tensor, "B H G T D"], Float[Tensor, "B H G T N"]]:
    """Softmax attention over the chosen positions alone, and its weights there. `keep` is false at unused places."""
    T, N, S = index.shape[2], index.shape[3], step.k.shape[2]
    if T == 1 and GATHER * N <= S:
        k, v = take(step.k, index[:, :, 0]), take(step.v, index[:, :, 0])
        scores = cap(dot(step.q, k).mul_(step.scale), step.softcap)  # (B, H, G, 1, N)
        weights = softmax(scores.masked_fill_(~keep[:, :, None], -torch.inf), step.sinks)
        return mix(weights, v), weights
    # one product over all positions is cheaper than gathering many of them, or other ones for each query
    chosen = torch.zeros(*index.shape[:3], S, dtype=torch.bool, device=index.device)
    chosen.scatter_(-1, index, keep)
    weights = softmax(logits(step).masked_fill_(~chosen[:, :, None], -torch.inf), step.sinks)
    spread = index[:, :, None].expand(-1, -1, step.groups, -1, -1)
    return mix(weights, step.v), weights.gather(-1, spread)


def shift(x: Tensor, by: Int[Tensor, "B"], dim: int) -> Tensor:
    """Each example's entries along `dim`, that many places later; zeros or false come in, what leaves is lost."""
    source = torch.arange(x.shape[dim], device=x.device) - by[:, None]  # (B, S)
    index = source.clamp(min=0).view(len(by), *(1,) * (dim - 1), -1, *(1,) * (x.dim() - dim - 1)).expand_as(x)
    gone = (source < 0).view(len(by), *(1,) * (dim - 1), -1, *(1,) * (x.dim() - dim - 1))
    return x.gather(dim, index).masked_fill_(gone, 0)


def take(x: Float[Tensor, "B H S D"], index: Int[Tensor, "B H N"]) -> Float[Tensor, "B H N D"]:
    """Rows of x by position, for each example and head."""
    B, H, _ = index.shape
    example = torch.arange(B, device=x.device)[:, None, None]
    head = torch.arange(H, device=x.device)[:, None]
    return x[example, head, index]


def narrow(k: Float[Tensor, "B H S D"], copy: str, scale: Float[Tensor, "B H D"] | None) -> Shaped[Tensor, "B H S D"]:
    """Keys as a second copy holds them: as they are, in `fp8`, or in `int8` by a scale a component.

    Both have a largest number in place of what is larger; int8 has a 0 in place of what is no number.
    """
    if copy == "fp8":
        largest = torch.finfo(torch.float8_e4m3fn).max
        return k.clamp(-largest, largest).to(torch.float8_e4m3fn)
    if copy == "int8":
        assert scale is not None
        return (k.float() / scale[:, :, None]).round_().clamp_(-127, 127).nan_to_num_(nan=0).to(torch.int8)
    return k


def second_copy(k: Float[Tensor, "B H S D"], copy: str, scale: Float[Tensor, "B H D"] | None, room: int = 0) -> Columns:
    """Keys by component, with room for more positions behind them, rounded up so that reads are wide."""
    B, H, S, D = k.shape
    kind = narrow(k[:1, :1, :1], copy, None if scale is None else scale[:1, :1]).dtype
    values = torch.zeros(B, H, D, -(-(S + room) // ROUND) * ROUND, dtype=kind, device=k.device)
    fill(values, k, copy, scale)
    return Columns(values, scale)


def fill(
    values: Shaped[Tensor, "B H D C"], k: Float[Tensor, "B H S D"], copy: str, scale: Float[Tensor, "B H D"] | None
) -> None:
    """Write keys into the first S places of a second copy."""
    for b in range(len(k)):  # one after another, to spare memory
        part = slice(b, b + 1)
        values[part, :, :, : k.shape[2]] = narrow(k[part], copy, None if scale is None else scale[part]).mT


def restore(
    narrow: Shaped[Tensor, "B H S D"], dtype: torch.dtype, scale: Float[Tensor, "B H D"] | None
) -> Float[Tensor, "B H S D"]:
    """The keys that a second copy stands for."""
    if scale is None:
        return narrow.to(dtype)
    return (narrow.float() * scale[:, :, None]).to(dtype)


def value_mean(step: Step, past: Float[Tensor, "B H D"] | None) -> Float[Tensor, "B H T D"]:
    """Mean of the values that each query sees. `past`: their sum before this step, which saves reading them again."""
    count = step.visible.count[:, None, :, None].clamp(min=1)
    if past is not None:
        total = past[:, :, None] + step.own_v.float().cumsum(dim=2)
    else:
        total = torch.einsum("bts,bhsd->bhtd", step.visible.mask.float(), step.v.float())
    return total / count


def one_by_one(attend: Callable[[Step, Any], tuple[Any, Any]], step: Step, state: Any) -> tuple[list[Any], Any]:
    """Run queries one after another, each with the state that the one before it left."""
    results = []
    for t in range(step.q.shape[3]):
        result, state = attend(step.narrow(t, t + 1), state)
        results.append(result)
    return results, state
