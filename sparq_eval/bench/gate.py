"""What is timed must first be right: each head of each example is held to the method in float64.

What is drawn at random may leave open, to rounding, which component or position is the last that is chosen, and another
choice is another result. So queries are drawn until nothing is left open; then a kernel that ranks in float32 chooses
what float64 does, and differs by the rounding of 16 bits alone. One position of 128 that is not the right one is some
5 to 10 per cent of a head's result, many times what is allowed; a head that was not written is all of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparq_eval.methods import H2O, FlexGen, Method, SparQ
from sparq_eval.methods.method import whole
from sparq_eval.methods.sparq import Kept
from sparq_eval.ops import Prompt, logits
from sparq_eval.step import Step, Visible

# of a head's norm: ten times what was found on an H100 over all heads (3e-4 and 2.3e-3 in 16 bits)
ROUNDING = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
# of a score: sums of some hundred products in float32 differ by less
CLOSE = 2e-5
# where scores are made in 16 bits, other positions are chosen than in float64, in some heads a good part of them: what
# was found is 0.4 in a head and 0.09 in all together; 1 is a head that was not written
ROUGH, ROUGH_ALL = 0.9, 0.3
DRAWS = 20
LARGE = 2**26  # elements of a cache that are judged at once
Part = tuple[slice, slice]  # of examples and of key/value heads


class Away(NamedTuple):
    """Norm of the difference to the method in float64, over its norm: of all heads together, and of the worst head."""

    whole: float
    head: float

    def wrong(self, dtype: torch.dtype, rough: bool) -> str:
        """What rounding does not explain; "" for nothing. rough: as in `compare`."""
        head, whole = (ROUGH, ROUGH_ALL) if rough else (ROUNDING[dtype], ROUNDING[dtype])
        for what, own, most in (("a head differs", self.head, head), ("all heads differ", self.whole, whole)):
            if not own <= most:
                return f"wrong: {what} from float64 by {own:.2g} of the norm, and rounding explains {most:.2g}"
        return ""


def compare(method: Method, base: Step, call: Callable[[Step], Tensor], rough: bool = False) -> Away:
    """How far a call is from its method, with another query than the step's; inf where it gives no number.

    Memory that it takes and does not write is poisoned.
    call: what is judged. rough: whether it ranks by scores in 16 bits, and so cannot choose as float64 does.
    """
    step = settle(method, base, rough)
    with poisoned():
        out = call(step).double()  # (B, H, G, 1, D)
    head, difference, size = 0.0, 0.0, 0.0
    for part in parts(step):
        right = in_float64(method, step, part)
        away = out[part] - right
        head = max(head, number((away.norm(dim=-1) / right.norm(dim=-1)).max()))
        difference, size = difference + number(away.square().sum()), size + number(right.square().sum())
    return Away(sqrt(difference / size), head)


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is taken and not written holds not-a-number."""
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)


def number(x: Tensor) -> float:
    return float(x.nan_to_num(nan=torch.inf))


def is_rough(method: Method, dtype: torch.dtype, in_triton: bool) -> bool:
    """Whether positions are ranked by scores in 16 bits, as torch's methods and the kernel of a CPU do."""
    return isinstance(method, SparQ | FlexGen) and dtype != torch.float32 and not in_triton


def settle(method: Method, base: Step, rough: bool = False) -> Step:
    """The step with a query that leaves nothing open; where scores are rough, no component alone."""
    q = torch.randn_like(base.q)
    for _ in range(DRAWS):
        left = left_open(method, replace(base, q=q), rough)
        if not left.any():
            break
        q = torch.where(left[:, :, None, None, None], torch.randn_like(q), q)
    return replace(base, q=q)


def left_open(method: Method, step: Step, rough: bool = False) -> Bool[Tensor, "B H"]:
    """Of which heads a component or a position is chosen or not by less than rounding."""
    found = torch.zeros(step.k.shape[:2], dtype=torch.bool, device=step.k.device)
    if isinstance(method, SparQ):
        found |= tied(step.q.float().abs().sum(dim=2).squeeze(2), whole(method.r), 1e-5)
    if isinstance(method, SparQ | FlexGen) and not rough:
        for part in parts(step):
            # what a component leaves open is drawn again in any case
            if not found[part].all():
                found[part] |= tied(*ranked(method, exact(step, part)), CLOSE)
    return found


def tied(x: Float[Tensor, "B H N"], n: int, rounding: float) -> Bool[Tensor, "B H"]:
    """Whether the n-th largest and the next differ by less than rounding."""
    if n >= x.shape[-1]:
        return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    last, first = x.topk(n + 1, dim=-1).values[..., n - 1 :].unbind(dim=-1)
    return last - first < rounding * (1 + first.abs())


def ranked(method: SparQ | FlexGen, step: Step) -> tuple[Float[Tensor, "1 H S"], int]:
    """What positions are ranked by, and how many are chosen."""
    if isinstance(method, FlexGen):
        return summed(logits(step), by_weights=True, sinks=step.sinks), whole(method.k)
    scores = summed(method.scores(step, scale_of(step)), method.rank_by == "weights")
    own = step.visible.recent(0)
    local = step.visible.recent(method.local or 0) & ~own
    return scores.masked_fill(own, -torch.inf).masked_fill(local, torch.inf), whole(method.k)


def summed(
    scores: Float[Tensor, "1 H G 1 S"], by_weights: bool, sinks: Float[Tensor, "H G"] | None = None
) -> Float[Tensor, "1 H S"]:
    """The sum over a group of its logits, or the logarithm of that of its weights, which rounding changes as much."""
    scores = scores.squeeze(3)
    if not by_weights:
        return scores.sum(dim=2)
    total = scores.logsumexp(dim=-1, keepdim=True)  # (1, H, G, 1)
    if sinks is not None:
        total = total.logaddexp(sinks.to(total)[None, :, :, None])
    return (scores - total).logsumexp(dim=2)


def parts(step: Step) -> Iterator[Part]:
    """Examples one by one, of their heads so many at once that judging leaves room for what is to be timed."""
    B, H, S, D = step.k.shape
    heads = max(1, LARGE // (S * D))
    for b in range(B):
        for h in range(0, H, heads):
            yield slice(b, b + 1), slice(h, h + heads)


def exact(step: Step, part: Part) -> Step:
    """Some heads of an example of a step, in float64."""
    example, heads = part
    q, k, v = (x[part].double() for x in (step.q, step.k, step.v))
    columns = step.columns and replace(
        step.columns,
        values=step.columns.values[part],
        scale=None if step.columns.scale is None else step.columns.scale[part],
    )
    visible = replace(step.visible, valid=step.visible.valid[example])
    sinks = None if step.sinks is None else step.sinks[heads]
    return replace(step, q=q, k=k, v=v, visible=visible, columns=columns, sinks=sinks)


def in_float64(method: Method, step: Step, part: Part) -> Float[Tensor, "1 H G 1 D"]:
    """The method's result for some heads of an example."""
    one = exact(step, part)
    state: Any = None
    if isinstance(method, SparQ):
        state = Kept(None, scale_of(one))
    elif isinstance(method, H2O):
        state = method.prefill(prompt_of(one))
    return method.attend(one, state)[0].out


def scale_of(step: Step) -> Float[Tensor, "B H D"] | None:
    return None if step.columns is None else step.columns.scale


def prompt_of(step: Step) -> Prompt:
    """What came before the step's token, with a score of its own for each, the same in every dtype."""
    visible = Visible(step.visible.valid[:, :-1], 1)
    prompt = Prompt(step.q, step.k[:, :, :-1], step.v[:, :, :-1], visible, step.scale)
    # places among the sums of values do for chance: they are the same for an example alone
    order = prompt.v.sum(dim=-1, dtype=torch.float64).argsort(dim=-1, stable=True)
    prompt.__dict__["column_sums"] = order.argsort(dim=-1).float()
    return prompt
