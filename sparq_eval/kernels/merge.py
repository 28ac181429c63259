"""The best of the candidates that a head's chunks named (Triton), and the weight that the approximation gives them.

It is done by the program that reads what was chosen (`gather.py`), or by a launch of its own where several read it.
"""

import torch
import triton
import triton.language as tl

from sparq_eval.kernels.candidates import Candidates, Ranked
from sparq_eval.kernels.select import HIGHEST, LOWEST, order, slots, threshold


def merge(found: Candidates, B: int, H: int, G: int) -> Ranked:
    """The k best of the candidates."""
    k, device = found.how.k, found.score.device
    chosen = torch.empty(B, H, k, dtype=torch.int32, device=device)
    covered = torch.empty(B, H, found.heads, dtype=torch.float32, device=device)
    merge_kernel[(B * H,)](
        found.first, found.stop, *found.tensors, chosen, covered, H, *found.numbers, **found.constants,
        num_warps=found.warps,
    )  # fmt: skip
    return Ranked(chosen, covered.expand(B, H, G) if found.how.covered else None)


@triton.jit
def merge_kernel(
    p_first, p_stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, H, k, local, N, chunks,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    CHUNKS_P: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    merge_row(i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
              OWN, COVERED, HEADS, HP, HELD, CHUNKS_P)  # fmt: skip


@triton.jit
def merge_row(
    i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    CHUNKS_P: tl.constexpr,
):  # fmt: skip
    """List the best candidates of all chunks, and add up the weight that the approximation gives them."""
    want = wanted(k, first, stop, OWN)
    p_score += i_row * HP * N
    p_chosen += i_row * k
    o_n, o_h = tl.arange(0, HELD), tl.arange(0, HP)
    b_p = tl.load(p_position + i_row * N + o_n, mask=o_n < N, other=-1)
    total = tl.zeros([HELD], dtype=tl.float32)
    for h in tl.static_range(HEADS):
        # whether there is a candidate or not: this load need not wait for the positions
        total += tl.load(p_score + h * N + o_n, mask=o_n < N, other=0.0)
    keys = tl.where(b_p >= stop - 1 - local, HIGHEST, order(total))
    keys = tl.where(b_p >= 0, keys, LOWEST)
    taken, slot = slots(keys, threshold(keys, want, want), want)
    tl.store(p_chosen + slot, b_p, mask=taken)
    fill(p_chosen, want, k, HELD)
    if COVERED:
        top, mass = totals(i_row, p_peak, p_mass, chunks, HP, CHUNKS_P)
        part = weigh(p_score, o_n, N, taken, top, HEADS, HP)
        if OWN & (stop > first):
            part += tl.exp(tl.load(p_own + i_row * HP + o_h) - top)
        tl.store(p_covered + i_row * HEADS + o_h, share(part, mass), mask=o_h < HEADS)


@triton.jit
def wanted(k, first, stop, OWN: tl.constexpr):
    """How many are chosen: k, or all that there are."""
    return tl.minimum(k, tl.maximum(stop - first - (1 if OWN else 0), 0))


@triton.jit
def fill(p_chosen, want, k, BLOCK: tl.constexpr):
    """Nothing at the places that are not used."""
    o_n = tl.arange(0, BLOCK)
    for n in range(want, k, BLOCK):
        tl.store(p_chosen + n + o_n, -1, mask=n + o_n < k)


@triton.jit
def totals(i_row, p_peak, p_mass, chunks, HP: tl.constexpr, CHUNKS_P: tl.constexpr):
    """By head, the largest score of all chunks and the sum of exponentials beside it."""
    o_h, o_c = tl.arange(0, HP), tl.arange(0, CHUNKS_P)
    # [HP, CHUNKS]
    o_p = (i_row * HP + o_h)[:, None] * chunks + o_c[None, :]
    b_mass = tl.load(p_mass + o_p, mask=(o_c < chunks)[None, :], other=0.0)
    # a chunk of which nothing is seen has no peak
    b_peak = tl.load(p_peak + o_p, mask=b_mass > 0, other=float("-inf"))
    top = tl.max(b_peak, axis=1)
    top = tl.where(top == float("-inf"), 0.0, top)
    return top, tl.sum(b_mass * tl.exp(b_peak - top[:, None]), axis=1)


@triton.jit
def share(part, whole):
    """A part of a whole, nothing of nothing; what is no number stays none."""
    return part / tl.where(whole == 0, 1.0, whole)


@triton.jit
def weigh(p_score, o_n, N, taken, top, HEADS: tl.constexpr, HP: tl.constexpr):
    """By head, the sum of the exponentials of the taken candidates' scores."""
    o_h = tl.arange(0, HP)
    found = tl.zeros([HP], dtype=tl.float32)
    for h in tl.static_range(HEADS):
        b_s = tl.load(p_score + h * N + o_n, mask=taken, other=float("-inf"))
        found += tl.where(o_h == h, tl.sum(tl.exp(b_s - of_head(top, h, HP)), axis=0), 0.0)
    return found


@triton.jit
def of_head(x, h, HP: tl.constexpr):
    """An entry of a block of heads, as a number."""
    return tl.sum(tl.where(tl.arange(0, HP) == h, x, 0.0), axis=0)
