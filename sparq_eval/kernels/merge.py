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
    WHOLE: tl.constexpr, CHUNKS_P: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    merge_row(i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
              OWN, COVERED, HEADS, HP, HELD, WHOLE, CHUNKS_P)  # fmt: skip


@triton.jit
def merge_row(
    i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_chosen, p_covered, k, local, N, chunks,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    WHOLE: tl.constexpr, CHUNKS_P: tl.constexpr,
):  # fmt: skip
    """List the best candidates of all chunks, and add up the weight that the approximation gives them."""
    want = tl.minimum(k, tl.maximum(stop - first - (1 if OWN else 0), 0))
    p_score += i_row * HP * N
    p_position += i_row * N
    p_chosen += i_row * k
    o_n, o_h, o_c = tl.arange(0, HELD), tl.arange(0, HP), tl.arange(0, CHUNKS_P)
    top = tl.zeros([HP], dtype=tl.float32)
    found = tl.zeros([HP], dtype=tl.float32)
    total = tl.zeros([HP], dtype=tl.float32)
    if COVERED:
        # [HP, CHUNKS]
        o_p = (i_row * HP + o_h)[:, None] * chunks + o_c[None, :]
        b_mass = tl.load(p_mass + o_p, mask=(o_c < chunks)[None, :], other=0.0)
        # a chunk of which nothing is seen has no peak
        b_peak = tl.load(p_peak + o_p, mask=b_mass > 0, other=float("-inf"))
        top = tl.max(b_peak, axis=1)
        top = tl.where(top == float("-inf"), 0.0, top)
        total = tl.sum(b_mass * tl.exp(b_peak - top[:, None]), axis=1)
        if OWN & (stop > first):
            found = tl.exp(tl.load(p_own + i_row * HP + o_h) - top)
    if WHOLE:
        keys, b_p = load_keys(p_score, p_position, o_n, N, stop, local, HEADS)
        taken, slot = slots(keys, threshold(keys, want, want), want)
        tl.store(p_chosen + slot, b_p, mask=taken)
        if COVERED:
            found += weigh(p_score, o_n, N, taken, top, o_h, HEADS)
    else:
        # more than a program can hold: the threshold by digits of 8 bits, from counts of each digit
        limit, before = digits(p_score, p_position, N, want, stop, local, HEADS, HELD)
        above_count, equal_count = 0, 0
        for n in range(0, N, HELD):
            keys, b_p = load_keys(p_score, p_position, n + o_n, N, stop, local, HEADS)
            above, equal = keys > limit, keys == limit
            scan = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), axis=0)
            slot = tl.where(above, above_count + (scan & 0xFFFF) - 1, before + equal_count + (scan >> 16) - 1)
            taken = (above | (equal & (slot < want))) & (b_p >= 0)
            tl.store(p_chosen + slot, b_p, mask=taken)
            above_count += tl.sum(above.to(tl.int32), axis=0)
            equal_count += tl.sum(equal.to(tl.int32), axis=0)
            if COVERED:
                found += weigh(p_score, n + o_n, N, taken, top, o_h, HEADS)
    for n in range(want, k, HELD):
        tl.store(p_chosen + n + o_n, -1, mask=n + o_n < k)
    if COVERED:
        tl.store(p_covered + i_row * HEADS + o_h, found / tl.where(total > 0, total, 1.0), mask=o_h < HEADS)


@triton.jit
def load_keys(p_score, p_position, o_n, N, stop, local, HEADS: tl.constexpr):
    """Keys of candidates and their positions, -1 where there is none."""
    b_p = tl.load(p_position + o_n, mask=o_n < N, other=-1)
    total = tl.zeros(o_n.shape, dtype=tl.float32)
    for h in tl.static_range(HEADS):
        # whether there is a candidate or not: this load need not wait for the positions
        total += tl.load(p_score + h * N + o_n, mask=o_n < N, other=0.0)
    keys = tl.where(b_p >= stop - 1 - local, HIGHEST, order(total))
    return tl.where(b_p >= 0, keys, LOWEST), b_p


@triton.jit
def weigh(p_score, o_n, N, taken, top, o_h, HEADS: tl.constexpr):
    """By head, the sum of the exponentials of the taken candidates' scores."""
    found = tl.zeros(top.shape, dtype=tl.float32)
    for h in tl.static_range(HEADS):
        b_s = tl.load(p_score + h * N + o_n, mask=taken, other=float("-inf"))
        own_top = tl.sum(tl.where(o_h == h, top, 0.0), axis=0)
        found += tl.where(o_h == h, tl.sum(tl.exp(b_s - own_top), axis=0), 0.0)
    return found


@triton.jit
def digits(p_score, p_position, N, want, stop, local, HEADS: tl.constexpr, HELD: tl.constexpr):
    """The key of the `want`-th best candidate, and how many are better."""
    o_n, o_b = tl.arange(0, HELD), tl.arange(0, 256)
    prefix = tl.zeros([], dtype=tl.uint32)
    left = want
    for place in tl.static_range(4):
        shift = 24 - 8 * place
        counts = tl.zeros([256], dtype=tl.int32)
        for n in range(0, N, HELD):
            keys, b_p = load_keys(p_score, p_position, n + o_n, N, stop, local, HEADS)
            u = keys.to(tl.uint32, bitcast=True) ^ 0x80000000
            alike = b_p >= 0
            if place > 0:
                alike = alike & ((u >> (shift + 8)) == prefix)
            counts += tl.histogram(((u >> shift) & 255).to(tl.int32), 256, mask=alike)
        # how many have this digit or a larger one
        reach = tl.sum(counts, axis=0) - tl.cumsum(counts, axis=0) + counts
        # the largest digit that reaches what is wanted; where nothing is wanted, the largest of all
        digit = tl.max(tl.where(reach >= left, o_b, 0), axis=0)
        left -= tl.sum(tl.where(o_b > digit, counts, 0), axis=0)
        prefix = (prefix << 8) | digit.to(tl.uint32)
    return (prefix ^ 0x80000000).to(tl.int32, bitcast=True), want - left
