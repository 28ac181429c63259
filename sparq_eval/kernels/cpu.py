"""SparQ's decoding step on a CPU: the twin of `SparQ.attend` that reads only the components and positions it chose.

Step 1 sums rows of the second copy of the keys by weight, as torch's embedding bag does it: nothing is copied. Cheapest
is a copy whose room for positions is a multiple of 1,024; other rooms are read in longer pieces, up to whole rows.

It differs from its twin where that gives no number: what is not read cannot spoil a result (an infinite key component
that was not chosen, anything at padding), and an example that sees nothing gets zeros.
"""

from dataclasses import dataclass, replace
from math import ceil, gcd, isqrt
from typing import final

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sparq_eval.kernels.rows import as_table, bags, bags_of_narrow, scratch
from sparq_eval.methods import State
from sparq_eval.methods.kernel import Kernel, columns_of
from sparq_eval.methods.method import Attended, count_of, whole
from sparq_eval.methods.sparq import Kept, SparQ, approximate, components
from sparq_eval.ops import cap, dot, softmax, value_mean
from sparq_eval.step import Columns, Step, Visible

PIECE = 1024  # positions in a row of the table of columns, where the room for positions divides by it
SHORT = 64  # pieces below it cost more than they save
SUMS = 2**17  # scores made at once, for the same reason as `scratch`


def attend(method: SparQ, step: Step, state: Kept | None) -> tuple[Attended, Kept | None]:
    """As `SparQ.attend`, for one query. Raises ValueError for more, and without the second copy of the keys."""
    columns = check(method, step)
    step = visible_part(step)
    B, H, S, _ = step.k.shape
    mask, N = hidden(step.visible), min(whole(method.k) + 1, S)
    covered = None
    if N == S:
        out, selected = attend_everywhere(step, mask), count_of(step)
    else:
        scores = approximate(step, whole(method.r), "none") if columns is None else rough(method, step)
        scores = hide(scores, mask)  # (B, H, G or 1, 1, S)
        weights = None
        if method.reallocate:
            weights = torch.softmax(scores, dim=-1, out=scratch(step.visible, "weights", scores.shape))
        ranked = (scores if scores.shape[2] == 1 else method.rank(scores).unsqueeze(2)).view(B, H, S)
        # in place, as nothing asks for the scores any more: fresh memory costs more than the pass
        index = best(torch.maximum(ranked, local(step.visible, method.local or 0), out=ranked), N)  # (B, H, N)
        if weights is not None:
            spread = index[:, :, None, None].expand(-1, -1, step.groups, -1, -1)
            covered = weights.gather(-1, spread).sum(dim=-1, keepdim=True)  # (B, H, G, 1, 1)
        keep = None if mask is None else mask.expand(-1, H, -1).gather(-1, index)
        out = attend_at(step, index, keep)
        selected = torch.full((B, H, 1), N) if keep is None else keep.sum(dim=-1, keepdim=True)
    state = state or Kept()
    if covered is not None:
        mean = value_mean(step, state.value_sum) if state.value_sum is not None else mean_anew(step, mask)
        out = (covered * out + (1 - covered) * mean[:, :, None]).to(step.v.dtype)
    if mask is not None:
        # an example that sees nothing has nothing to weigh
        out = out.masked_fill((step.visible.count == 0)[:, None, None, :, None], 0)
    return Attended(out, selected, method.moved(step, selected)), state.after(step)


def check(method: SparQ, step: Step) -> Columns | None:
    """The second copy of the keys that the method reads, if it reads one."""
    if step.q.shape[3] != 1:
        raise ValueError(f"the CPU kernel decodes one token at a time; got {step.q.shape[3]}")
    if step.q.device.type != "cpu":
        raise ValueError(f"the CPU kernel needs tensors on the CPU; got {step.q.device}")
    if method.ablation:
        raise ValueError(f"{method.ablation}: this kernel ranks as SparQ does")
    if method.copy == "none":
        return None
    return columns_of(step, method.copy)


def visible_part(step: Step) -> Step:
    """The step without the positions behind the query, and without those before its window."""
    visible = step.visible
    S = step.k.shape[2]
    if visible.place is None and (visible.window is None or visible.window >= S):
        return step

    def cut() -> tuple[int, int, Visible]:
        end = S if visible.place is None else int(visible.place) + 1
        first = 0 if visible.window is None else max(0, end - visible.window)
        return first, end, Visible(visible.valid[:, first:end], 1)

    first, end, seen = visible.once("cpu kernel's part", cut)
    columns = step.columns and replace(step.columns, values=step.columns.values[..., first:end])
    return replace(step, k=step.k[:, :, first:end], v=step.v[:, :, first:end], visible=seen, columns=columns)


def hidden(visible: Visible) -> Bool[Tensor, "B 1 S"] | None:
    """Which positions are seen; None where all are, which saves passes over the scores."""
    return visible.once("hidden", lambda: None if visible.mask.all() else visible.mask)


def hide(scores: Float[Tensor, "B H G 1 S"], mask: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B H G 1 S"]:
    """-inf where nothing is to be seen, in place."""
    if mask is None:
        return scores
    # twice as fast as masked_fill_
    return torch.where(mask[:, None, None], scores, torch.tensor(-torch.inf, dtype=scores.dtype), out=scores)


def local(visible: Visible, n: int) -> Float[Tensor, "B 1 S"]:
    """inf at the query's own position and the n before it, -inf elsewhere: a maximum is faster than a mask."""
    return visible.once(("local", n), lambda: torch.where(visible.recent(n), torch.inf, -torch.inf))


def rough(method: SparQ, step: Step) -> Float[Tensor, "B H G 1 S"]:
    """Capped logits from r components, as `approximate` has them; summed over G where nothing else is asked of them."""
    assert step.columns is not None
    q, scale = step.q.squeeze(3), step.columns.scale  # (B, H, G, D)
    index = components(step.q, whole(method.r)).view(*q.shape[:2], 1, -1)  # (B, H, 1, R)
    part = q.gather(-1, index.expand(-1, -1, q.shape[2], -1))  # (B, H, G, R)
    coverage = part.float().abs().sum(dim=-1, keepdim=True) / q.float().abs().sum(dim=-1, keepdim=True)
    # a query of zeros is covered by any components
    part = part * (step.scale / coverage.nan_to_num(1.0).sqrt())
    if scale is not None:
        part = part * scale[:, :, None].gather(-1, index)
    if method.rank_by == "logits" and not method.reallocate and step.softcap is None:
        # a sum of products with the same key is the product with the sum
        part = part.sum(dim=2, keepdim=True)
    scores = weigh(step.columns.values, index.squeeze(2), part.to(q.dtype), step.visible)
    if step.softcap is not None:
        scores.div_(step.softcap).tanh_().mul_(step.softcap)
    return scores.unsqueeze(3)


def weigh(
    values: Shaped[Tensor, "B H D S"], index: Int[Tensor, "B H R"], weights: Float[Tensor, "B H G R"], visible: Visible
) -> Float[Tensor, "B H G S"]:
    """Columns summed by weight, piece by piece: the queries of a group find a piece in the cache."""
    B, H, _, S = values.shape
    G = weights.shape[2]
    steps = [values.stride(dim) if values.shape[dim] > 1 else 0 for dim in range(3)]
    room = gcd(*steps) or S
    width = piece if (piece := gcd(room, PIECE)) >= SHORT else room
    table = as_table(values, width)
    pieces = ceil((table.skip + S) / width)
    scores = scratch(visible, "scores", (B, H, G, S))
    heads = max(1, SUMS // (G * pieces * width))
    rows, weights = (table.first + index * table.step).flatten(0, 1), weights.flatten(0, 1)
    for out, first, w in zip(scores.flatten(0, 1).split(heads), rows.split(heads), weights.split(heads), strict=True):
        every = (first[:, None] + torch.arange(pieces)[:, None]).flatten(0, 1)  # (heads * pieces, R)
        each = w[:, None].expand(-1, pieces, -1, -1).flatten(0, 1)  # (heads * pieces, G, R)
        narrow = table.rows.dtype != w.dtype
        sums = bags_of_narrow(table.rows, every, each, visible) if narrow else bags(table.rows, every, each)
        out.copy_(sums.unflatten(0, (-1, pieces)).transpose(1, 2).flatten(2)[..., table.skip : table.skip + S])
    return scores


def best(ranked: Float[Tensor, "B H S"], n: int) -> Int[Tensor, "B H N"]:
    """Positions of the n largest. They lie in the n sets of positions whose largest are largest, so few are sorted."""
    S = ranked.shape[-1]
    ways = isqrt(S // n)
    sets = S // ways
    if ways == 1:
        return ranked.topk(n, dim=-1, sorted=False).indices
    # positions of a set lie `sets` apart, the last few are in none
    parts = ranked[..., : ways * sets].unflatten(-1, (ways, sets))
    chosen = parts.amax(dim=-2).topk(n, dim=-1, sorted=False).indices  # (B, H, N)
    spread = chosen[:, :, None].expand(-1, -1, ways, -1)
    values = torch.cat([parts.gather(-1, spread).flatten(2), ranked[..., ways * sets :]], dim=-1)
    picked = values.topk(n, dim=-1, sorted=False).indices
    place = chosen.gather(-1, picked % n) + picked // n * sets
    return torch.where(picked < ways * n, place, picked + ways * (sets - n))


def attend_at(
    step: Step, index: Int[Tensor, "B H N"], keep: Bool[Tensor, "B H N"] | None
) -> Float[Tensor, "B H G 1 D"]:
    """Softmax attention over the chosen positions alone. `keep` is false at unused places."""
    B, H, N = index.shape
    G, D = step.groups, step.head_size
    if keep is not None:
        # a weight of zero does not undo what padding may hold: a seen position stands in for it
        index = torch.where(keep, index, last_seen(step.visible)[:, None])
    keys, values = as_table(step.k, D), as_table(step.v, D)
    k = keys.rows.index_select(0, (keys.first + index * keys.step).flatten()).view(B, H, N, D)
    scores = cap(dot(step.q, k).mul_(step.scale), step.softcap)  # (B, H, G, 1, N)
    if keep is not None:
        scores = scores.masked_fill_(~keep[:, :, None, None], -torch.inf)
    weights = softmax(scores, step.sinks).to(step.v.dtype)
    rows = (values.first + index * values.step).flatten(0, 1)
    return bags(values.rows, rows, weights.view(B * H, G, N)).view(B, H, G, 1, D)


def attend_everywhere(step: Step, mask: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B H G 1 D"]:
    """Dense attention, for where everything is chosen."""
    scores = hide(cap(dot(step.q, step.k).mul_(step.scale), step.softcap), mask)
    weights = softmax(scores, step.sinks).to(step.v.dtype)
    return torch.matmul(weights.squeeze(3), seen_values(step, mask)).unsqueeze(3)


def mean_anew(step: Step, mask: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B H 1 D"]:
    """Mean of the values that the query sees, from all of them."""
    count = step.visible.count[:, None, :, None].clamp(min=1)
    return seen_values(step, mask).sum(dim=2, keepdim=True, dtype=torch.float32) / count


def seen_values(step: Step, mask: Bool[Tensor, "B 1 S"] | None) -> Float[Tensor, "B H S D"]:
    """Values, zeros where nothing is to be seen."""
    return step.v if mask is None else torch.where(mask[:, :, :, None], step.v, 0)


def last_seen(visible: Visible) -> Int[Tensor, "B 1"]:
    """The last position that each example sees; 0 where it sees none."""
    return visible.once("last seen", lambda: (visible.mask * torch.arange(visible.valid.shape[1])).amax(dim=-1))


@final
@dataclass
class SparQKernel(Kernel):
    method: SparQ

    @property
    def copy(self) -> str | None:
        return None if self.method.copy == "none" else self.method.copy

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        S = step.k.shape[2]
        if step.columns is not None and step.columns.values.shape[-1] != S:
            # a copy has more room than the keys
            step = replace(step, columns=replace(step.columns, values=step.columns.values[..., :S]))
        return attend(self.method, step, state)


KERNELS: dict[type, type[Kernel]] = {SparQ: SparQKernel}
