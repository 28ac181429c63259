"""What one query of a single example says of its scores: how concentrated they are, how well they are approximated."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sparq_eval.methods import SparQ
from sparq_eval.ops import logits, softmax
from sparq_eval.step import Step


def top_mass(step: Step, n: int) -> Float[Tensor, "H G"]:
    """The share of a query's attention that its n largest weights have; what a sink takes is nowhere."""
    weights = softmax(logits(step), step.sinks)[0, :, :, 0]  # (H, G, S)
    return weights.topk(min(n, weights.shape[-1]), dim=-1).values.sum(dim=-1)


def agreement(step: Step, score: str, r: int, ks: Sequence[int]) -> dict[int, Float[Tensor, "H"]]:
    """For each k the share of the k positions with the largest logits that are among the k of the approximate ones.

    Logits are summed over a group, which selects once for all its queries, as SparQ does. A k that would leave nothing
    out is left out here.
    """
    true, approximate = (
        SparQ(r=r, score=name).scores(step).sum(dim=2)[0, :, 0] for name in ("oracle", score)
    )  # (H, S)
    count = int(step.visible.count[0, 0])
    some = [k for k in ks if k < count]
    if not some:
        return {}
    # the places of the best by one order, looked up in the other
    best = true.topk(max(some), dim=-1).indices
    place = approximate.argsort(dim=-1, descending=True).argsort(dim=-1).gather(-1, best)
    return {k: (place[:, :k] < k).double().mean(dim=-1) for k in some}


class Covered(NamedTuple):
    """alpha: the weight that SparQ thinks its k positions have; the weight that they have; that of the k largest."""

    alpha: Float[Tensor, "H G"]
    chosen: Float[Tensor, "H G"]
    best: Float[Tensor, "H G"]


def coverage(step: Step, temperature: str, r: int, k: int) -> Covered:
    """How much weight is covered by the k positions that SparQ ranks first.

    Sinks are left out, as what SparQ estimates is the weight among positions.
    """
    method = SparQ(r=r, temperature=temperature)
    scores = method.scores(step)
    index = method.rank(scores).topk(k, dim=-1).indices[:, :, None].expand(-1, -1, step.groups, -1, -1)
    true = softmax(logits(step))
    alpha, chosen = (weights.gather(-1, index).sum(dim=-1) for weights in (softmax(scores), true))
    best = true.topk(k, dim=-1).values.sum(dim=-1)
    return Covered(*(share[0, :, :, 0] for share in (alpha, chosen, best)))
