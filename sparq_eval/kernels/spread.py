"""The best of all positions of a head (Triton), found by programs that share them.

For budgets that leave chunks little to drop, and for what ranks by weights, which are known only when all is scored.
The key of the last that is chosen is found digit by digit, of 8 bits, a launch for each: programs count how often each
value of a digit follows the digits before. Then each lists its own, at places that follow from how many the programs
before it have, so that the list is the same each time.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from sparq_eval.kernels.candidates import Candidates, Ranked
from sparq_eval.kernels.merge import fill, of_head, share, totals, wanted, weigh
from sparq_eval.kernels.rank import overlap
from sparq_eval.kernels.select import DIGITS, HIGHEST, LOWEST, order, places

BLOCK, WARPS = 2048, 4  # positions of a program, and its warps


def spread(found: Candidates, arrived: Int[Tensor, "R"], B: int, H: int, G: int) -> Ranked:
    """The k best of all positions. arrived: as in `Attention`."""
    how, device = found.how, found.score.device
    R, HP, N = found.score.shape
    chunks, blocks = found.mass.shape[2], triton.cdiv(N, BLOCK)

    def scratch(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    key, tally, part = scratch(R, N), scratch(R, 2, blocks), scratch(R, HP, blocks, dtype=torch.float32)
    begin = scratch(R, DIGITS.value, 2)
    chosen, covered = scratch(B, H, how.k), scratch(B, H, found.heads, dtype=torch.float32)
    sinks = arrived if how.sinks is None else how.sinks.contiguous()
    early = overlap(found.score)
    heads = {
        "SINKS": how.sinks is not None, "OWN": how.own, "HEADS": found.heads, "HP": HP, "BLOCK": BLOCK,
        "CHUNKS_P": triton.next_power_of_2(chunks), "EARLY": bool(early), "num_warps": WARPS, **early,
    }  # fmt: skip
    grid = (R, blocks)
    key_kernel[grid](
        found.first, found.stop, found.score, found.peak, found.mass, sinks, key, found.counts,
        H, G, how.local, N, chunks, WEIGHTS=how.by_weights, **heads,
    )  # fmt: skip
    for place in range(1, DIGITS.value + 1):
        digit_kernel[grid](
            found.first, found.stop, key, found.counts, begin, tally, H, how.k, N, blocks,
            PLACE=place, OWN=how.own, BLOCK=BLOCK, EARLY=bool(early), num_warps=WARPS, **early,
        )  # fmt: skip
    list_kernel[grid](
        found.first, found.stop, key, begin, tally, found.score, found.peak, found.mass, found.own, sinks,
        chosen, part, arrived, covered, H, G, how.k, N, chunks, blocks,
        COVERED=how.covered, BLOCKS_P=triton.next_power_of_2(blocks), **heads,
    )  # fmt: skip
    return Ranked(chosen, covered.expand(B, H, G) if how.covered else None)


@triton.jit
def key_kernel(
    p_first, p_stop, p_score, p_peak, p_mass, p_sinks, p_key, p_counts, H, G, local, N, chunks,
    WEIGHTS: tl.constexpr, SINKS: tl.constexpr, OWN: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr,
    BLOCK: tl.constexpr, CHUNKS_P: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Write the keys that positions are ranked by, and count their first digits."""
    i_row, i_block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    follow(EARLY)
    o_n = i_block * BLOCK + tl.arange(0, BLOCK)
    seen = (o_n >= first) & (o_n < stop - (1 if OWN else 0))
    total = tl.zeros([BLOCK], dtype=tl.float32)
    if WEIGHTS:
        top, mass = totals_with_sinks(i_row, p_peak, p_mass, p_sinks, H, G, chunks, SINKS, HP, CHUNKS_P)
    for h in tl.static_range(HEADS):
        b_s = tl.load(p_score + (i_row * HP + h) * N + o_n, mask=seen, other=float("-inf"))
        if WEIGHTS:
            total += tl.exp(b_s - of_head(top, h, HP)) / of_head(mass, h, HP)
        else:
            total += b_s
    keys = tl.where(o_n >= stop - 1 - local, HIGHEST, order(total))
    keys = tl.where(seen, keys, LOWEST)
    tl.store(p_key + i_row * N + o_n, keys, mask=o_n < N)
    count_digits(p_counts + i_row * DIGITS * 256, keys, seen, 0)


@triton.jit
def digit_kernel(
    p_first, p_stop, p_key, p_counts, p_begin, p_tally, H, k, N, blocks,
    PLACE: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Count a digit of the keys that begin with the digits before it; behind the last digit, those of the block that
    are above the limit, and those that equal it.
    """
    i_row, i_block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    follow(EARLY)
    p_counts += i_row * DIGITS * 256
    p_begin += i_row * DIGITS * 2
    begin, left = tl.zeros([], dtype=tl.uint32), wanted(k, first, stop, OWN)
    if PLACE > 1:
        begin, left = load_begin(p_begin, PLACE - 1)
    begin, left = next_digit(p_counts + (PLACE - 1) * 256, begin, left)
    if i_block == 0:
        tl.store(p_begin + 2 * (PLACE - 1), begin.to(tl.int32, bitcast=True))
        tl.store(p_begin + 2 * (PLACE - 1) + 1, left)
    o_n = i_block * BLOCK + tl.arange(0, BLOCK)
    keys = tl.load(p_key + i_row * N + o_n, mask=o_n < N, other=LOWEST)
    there = keys > LOWEST
    if PLACE < DIGITS:
        count_digits(p_counts, keys, there & (unsigned(keys) >> (32 - 8 * PLACE) == begin), PLACE)
    else:
        p_tally += i_row * 2 * blocks + i_block
        tl.store(p_tally, tl.sum((unsigned(keys) > begin).to(tl.int32), axis=0))
        tl.store(p_tally + blocks, tl.sum((there & (unsigned(keys) == begin)).to(tl.int32), axis=0))


@triton.jit
def list_kernel(
    p_first, p_stop, p_key, p_begin, p_tally, p_score, p_peak, p_mass, p_own, p_sinks, p_chosen, p_part, p_arrived,
    p_covered, H, G, k, N, chunks, blocks,
    COVERED: tl.constexpr, SINKS: tl.constexpr, OWN: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS_P: tl.constexpr, CHUNKS_P: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """List the chosen; the program of a head that ends last adds up the weight that the approximation gives them."""
    i_row, i_block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, stop = tl.load(p_first + i_row // H), tl.load(p_stop + i_row // H)
    follow(EARLY)
    want = wanted(k, first, stop, OWN)
    limit, left = load_begin(p_begin + i_row * DIGITS * 2, DIGITS)
    o_n, o_b, o_h = i_block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCKS_P), tl.arange(0, HP)
    keys = tl.load(p_key + i_row * N + o_n, mask=o_n < N, other=LOWEST)
    p_tally += i_row * 2 * blocks
    above_before = tl.sum(tl.load(p_tally + o_b, mask=o_b < i_block, other=0), axis=0)
    equal_before = tl.sum(tl.load(p_tally + blocks + o_b, mask=o_b < i_block, other=0), axis=0)
    # the limit is a key that is there, so that what is not there does not equal it
    above, equal, at_above, at_equal = places(unsigned(keys), limit)
    slot = tl.where(above, above_before + at_above, want - left + equal_before + at_equal)
    taken = above | (equal & (slot < want))
    tl.store(p_chosen + i_row * k + slot, o_n, mask=taken)
    if i_block == 0:
        fill(p_chosen + i_row * k, want, k, BLOCK)
    if COVERED:
        top, mass = totals_with_sinks(i_row, p_peak, p_mass, p_sinks, H, G, chunks, SINKS, HP, CHUNKS_P)
        part = weigh(p_score + i_row * HP * N, o_n, N, taken, top, HEADS, HP)
        p_part += (i_row * HP + o_h) * blocks
        tl.store(p_part + i_block, part)
        tl.debug_barrier()
        if tl.atomic_add(p_arrived + i_row, 1, sem="acq_rel") == blocks - 1:
            tl.store(p_arrived + i_row, 0)
            # .cg: written by other programs, so not to be looked for in this multiprocessor's own cache
            parts = tl.load(
                p_part[:, None] + o_b[None, :], mask=(o_b < blocks)[None, :], other=0.0, cache_modifier=".cg"
            )  # [HP, BLOCKS]
            part = tl.sum(parts, axis=1)
            if OWN & (stop > first):
                part += tl.exp(tl.load(p_own + i_row * HP + o_h) - top)
            tl.store(p_covered + i_row * HEADS + o_h, share(part, mass), mask=o_h < HEADS)


@triton.jit
def follow(EARLY: tl.constexpr):
    """Where the kernel was made ready early: let the next be, and wait for what the one before writes."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def unsigned(keys):
    """Keys as integers from 0 that sort alike."""
    return keys.to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def count_digits(p_counts, keys, there, PLACE: tl.constexpr):
    """Add how often each value of a digit is there."""
    o_d = tl.arange(0, 256)
    digit = ((unsigned(keys) >> (24 - 8 * PLACE)) & 255).to(tl.int32)
    if PLACE == 0:
        # which is the same for most: they are counted on the chip
        counts = tl.histogram(digit, 256, mask=there)
        tl.atomic_add(p_counts + o_d, counts, mask=counts > 0, sem="relaxed")
    else:
        tl.atomic_add(p_counts + PLACE * 256 + digit, 1, mask=there, sem="relaxed")


@triton.jit
def next_digit(p_counts, begin, left):
    """The digits of the key of the last that is chosen, with one more; and how many with these are chosen, of those
    `left` that were with the digits before. counts: of the next digit.
    """
    o_d = tl.arange(0, 256)
    counts = tl.load(p_counts + o_d)
    # how many have this digit or a larger one
    reach = tl.sum(counts, axis=0) - tl.cumsum(counts, axis=0) + counts
    # the largest digit that reaches what is wanted; where nothing is wanted, the largest of all
    digit = tl.max(tl.where(reach >= left, o_d, 0), axis=0)
    return (begin << 8) | digit.to(tl.uint32), left - tl.sum(tl.where(o_d > digit, counts, 0), axis=0)


@triton.jit
def load_begin(p_begin, PLACES: tl.constexpr):
    """What `next_digit` gave for so many digits."""
    begin, left = tl.load(p_begin + 2 * (PLACES - 1)), tl.load(p_begin + 2 * (PLACES - 1) + 1)
    return begin.to(tl.uint32, bitcast=True), left


@triton.jit
def totals_with_sinks(
    i_row, p_peak, p_mass, p_sinks, H, G, chunks, SINKS: tl.constexpr, HP: tl.constexpr, CHUNKS_P: tl.constexpr
):
    """By head, the largest logit and the sum of exponentials beside it, the sink's among them."""
    top, mass = totals(i_row, p_peak, p_mass, chunks, HP, CHUNKS_P)
    if SINKS:
        o_h = tl.arange(0, HP)
        b_sink = tl.load(p_sinks + (i_row % H) * G + o_h, mask=o_h < G, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, b_sink)
        mass = mass * tl.exp(top - higher) + tl.exp(b_sink - higher)
        top = higher
    return top, mass
