"""Step 1 of SparQ on a GPU (Triton): rank cached positions by r components of the query, list the k best.

Three steps, in which nothing is sorted and small batches use the whole device: choose the components of each head;
score chunks of positions, from a copy of the keys in which a component's positions lie side by side, and keep each
chunk's best on the chip, so that only these go to memory; merge the chunks' candidates of each head (`merge.py`). The
first is done, for few heads, by every program that scores. Where chunks would keep too many, or what ranks is known
only when all is scored, every score goes to memory (`spread.py`).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.kernels.candidates import Candidates, Ranking
from sparq_eval.kernels.select import DIGITS, HIGHEST, LOWEST, order, slots, threshold
from sparq_eval.kernels.softmax import bend
from sparq_eval.step import Columns

PART = tl.constexpr(16)  # components read at a time where keys lie row by row: 32 bytes, what memory is read in
FEW = 64  # so many heads or less leave a device waiting for single programs: launches are saved, not work
ONE_WAVE = 264  # programs that a device runs at once, two on each multiprocessor
HELD = 16384  # candidates of a head that one program merges at most


@dataclass(frozen=True)
class Tile:
    """How a scoring program is made: positions of its chunk, warps, components read at a time, registers a thread."""

    chunk: int
    warps: int
    unroll: int
    registers: int | None


def tile_for(rows: int, S: int, row_major: bool, heads: int) -> Tile:
    """Sizes that were fastest on an H100 (docs/log.md)."""
    if row_major:
        return Tile(512, 4, 1, None)
    if heads > 1:
        return Tile(1024, 4, 4, None)
    if rows * S <= 2**20:
        return Tile(2048, 8, 8, 96)
    return Tile(2048, 4, 8, 128)


def rank(
    q: Float[Tensor, "B H G D"],
    keys: Columns | Float[Tensor, "B H S D"],
    first: Int[Tensor, "B"],
    stop: Int[Tensor, "B"],
    how: Ranking,
) -> Candidates:
    """Score positions first..stop-1 of each example, and name all that may be among the k best.

    Scores are float32 sums of products, over a group of query heads the sum of their logits. Of equal scores any may be
    chosen. Behind `stop` a copy may hold anything. ValueError where r is larger than D.
    """
    B, H, G, D = q.shape
    if how.r > D:
        raise ValueError(f"r={how.r}: there are {D} components to read")
    row_major = isinstance(keys, Tensor)
    values, scale = (keys.mT, None) if isinstance(keys, Tensor) else (keys.values, keys.scale)
    S = values.shape[-1]
    # a group's logits are summed before the product with the keys, unless each head's are needed
    heads = G if how.covered or how.by_weights or how.softcap is not None else 1
    tile = tile_for(B * H, S, row_major, heads)
    chunks = triton.cdiv(S, tile.chunk)
    few = B * H <= FEW
    fused = few and B * H * chunks <= ONE_WAVE
    # a chunk may name some more than k, which spares it the last steps of its search; few heads wait for the merging
    cap = min(how.k if few else how.k + how.k // 4, tile.chunk)
    if everything := how.by_weights or chunks * cap > HELD:
        cap = tile.chunk
    N = chunks * cap

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(B * H, *shape, dtype=dtype, device=q.device)

    HP, DP = triton.next_power_of_2(heads), triton.next_power_of_2(D)
    index, weight, floor = scratch(DP, dtype=torch.int32), scratch(HP, DP), scratch(dtype=torch.int32)
    score, position = scratch(HP, N), scratch(0 if everything else N, dtype=torch.int32)
    peak, mass, own = scratch(HP, chunks), scratch(HP, chunks), scratch(HP)
    counts = scratch(DIGITS.value if everything else 0, 256, dtype=torch.int32)
    q, scale = q.contiguous(), q if scale is None else scale.contiguous()
    heads_of = {
        "SCALED": scale is not q, "ROW_MAJOR": row_major, "HEADS": heads, "HP": HP, "GP": triton.next_power_of_2(G),
        "DP": DP,
    }  # fmt: skip
    early = overlap(q)
    if not fused:
        component_kernel[(B * H,)](
            q, scale, index, weight, floor, G, D, how.r, how.scale, **heads_of, EARLY=bool(early), num_warps=1
        )
    score_kernel[(B * H, chunks)](
        q, scale, values, first, stop, index, weight, floor, score, position, peak, mass, own, counts,
        H, G, D, S, how.r, how.k, how.local, how.scale, how.softcap or 0.0, *values.stride(), chunks,
        FUSED=fused, OWN=how.own, SUMMED=how.covered or how.by_weights, CAPPED=how.softcap is not None,
        EVERYTHING=everything, **heads_of,
        CHUNK=tile.chunk, CAP=cap, CAP_P=triton.next_power_of_2(cap), UNROLL=tile.unroll,
        EARLY=bool(early), num_warps=tile.warps, maxnreg=tile.registers, **({} if fused else early),
    )  # fmt: skip
    return Candidates(score, None if everything else position, peak, mass, own, counts, heads, how, first, stop)


def overlap(q: Tensor) -> dict[str, bool]:
    """How to launch a kernel that may be made ready before the one before it has ended, if it can."""
    able = q.is_cuda and torch.cuda.get_device_capability(q.device) >= (9, 0)
    return {"launch_pdl": True} if able else {}


@triton.jit
def component_kernel(
    p_q, p_scale, p_index, p_weight, p_floor, G, D, r, scale,
    SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr,
    DP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    i_row = tl.program_id(0).to(tl.int64)
    choose_components(i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale, SCALED, ROW_MAJOR, HEADS, HP, GP, DP)
    # scoring begins: no chunk has found anything yet
    tl.store(p_floor + i_row, LOWEST)


@triton.jit
def choose_components(
    i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale,
    SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr,
    DP: tl.constexpr,
):  # fmt: skip
    """Write the r components largest in magnitude, summed over the group, and what each head weights them with."""
    o_g, o_d = tl.arange(0, GP), tl.arange(0, DP)
    # [GP, DP]
    b_q = tl.load(
        p_q + (i_row * G + o_g)[:, None] * D + o_d[None, :], mask=(o_g < G)[:, None] & (o_d < D)[None, :], other=0.0
    ).to(tl.float32)
    size = tl.sum(tl.abs(b_q), axis=0)  # [DP]
    keys = tl.where(o_d < D, order(size), LOWEST)
    chosen, slot = slots(keys, threshold(keys, r, r), r)
    part = tl.sum(tl.where(chosen[None, :], tl.abs(b_q), 0.0), axis=1)  # [GP]
    whole = tl.sum(tl.abs(b_q), axis=1)
    # nothing of this head chosen, or nothing there: its part is zero at any temperature
    coverage = tl.where(part > 0, part / tl.where(whole > 0, whole, 1.0), 1.0)
    b_w = b_q * (scale / tl.sqrt(coverage))[:, None]  # [GP, DP]
    if SCALED:
        b_w = b_w * tl.load(p_scale + i_row * D + o_d, mask=o_d < D, other=0.0)[None, :]
    # row-major keys are read whole, and what was not chosen weighs nothing
    b_w = tl.where(chosen[None, :], b_w, 0.0)
    slot, written = (o_d, o_d >= 0) if ROW_MAJOR else (slot, chosen)
    p_weight += i_row * HP * DP
    if HEADS == 1:
        tl.store(p_weight + slot, tl.sum(b_w, axis=0), mask=written)
    else:
        tl.store(p_weight + o_g[:, None] * DP + slot[None, :], b_w, mask=written[None, :])
    tl.store(p_index + i_row * DP + slot, o_d, mask=written)


@triton.jit
def score_kernel(
    p_q, p_scale, p_c, p_first, p_stop, p_index, p_weight, p_floor, p_score, p_position, p_peak, p_mass, p_own,
    p_counts, H, G, D, S, r, k, local, scale, softcap, stride_b, stride_h, stride_d, stride_s, chunks,
    FUSED: tl.constexpr, SCALED: tl.constexpr, ROW_MAJOR: tl.constexpr, OWN: tl.constexpr, SUMMED: tl.constexpr,
    CAPPED: tl.constexpr, EVERYTHING: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, GP: tl.constexpr,
    DP: tl.constexpr, CHUNK: tl.constexpr, CAP: tl.constexpr, CAP_P: tl.constexpr, UNROLL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Score a chunk, and write its candidates, all that may be among the k best of the head; or everything.

    SUMMED: write the largest score and the sum of exponentials beside it, too.
    """
    i_row, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_b, i_h = i_row // H, i_row % H
    first, stop = tl.load(p_first + i_b), tl.load(p_stop + i_b)
    N = chunks * CAP
    if EARLY:
        # the next kernel may be made ready; it waits for what this one writes, as this one does for the one before it
        tl.extra.cuda.gdc_launch_dependents()
        if not FUSED:
            tl.extra.cuda.gdc_wait()
    if FUSED:
        # every program of a head writes the same
        choose_components(i_row, p_q, p_scale, p_index, p_weight, G, D, r, scale, SCALED, ROW_MAJOR, HEADS, HP, GP, DP)
        # what other threads of this program wrote is read next
        tl.debug_barrier()
    p_index += i_row * DP
    p_weight += i_row * HP * DP
    p_score += i_row * HP * N + i_chunk * CAP
    p_position += i_row * N + i_chunk * CAP
    p_peak += i_row * HP * chunks + i_chunk
    p_mass += i_row * HP * chunks + i_chunk
    o_n = i_chunk * CHUNK + tl.arange(0, CHUNK)
    o_h, o_cap = tl.arange(0, HP), tl.arange(0, CAP_P)
    found = 0
    if (i_chunk * CHUNK < stop) & ((i_chunk + 1) * CHUNK > first):
        p_c += i_b * stride_b + i_h * stride_h
        acc = tl.zeros([HP, CHUNK], dtype=tl.float32)
        # S being a multiple of 16 this mask leaves loads 16 bytes wide; `stop` would not
        inside = o_n < S
        if ROW_MAJOR:
            for d in range(0, DP, PART):
                o_d = d + tl.arange(0, PART)
                # [CHUNK, PART]
                b_c = tl.load(
                    p_c + o_n[:, None].to(tl.int64) * stride_s + o_d[None, :] * stride_d,
                    mask=inside[:, None] & (o_d < D)[None, :], other=0.0,
                ).to(tl.float32)  # fmt: skip
                for h in tl.static_range(HEADS):
                    b_w = tl.load(p_weight + h * DP + o_d)
                    part = tl.sum(tl.where(b_w[None, :] != 0, b_c * b_w[None, :], 0.0), axis=1)  # [CHUNK]
                    acc += part[None, :] if HEADS == 1 else tl.where((o_h == h)[:, None], part[None, :], 0.0)
        else:
            for j in tl.range(0, r, loop_unroll_factor=UNROLL):
                d = tl.load(p_index + j).to(tl.int64)
                b_w = tl.load(p_weight + o_h * DP + j, mask=o_h < HEADS, other=0.0)
                # [1, CHUNK]
                b_c = tl.load(p_c + d * stride_d + o_n[None, :] * stride_s, mask=inside[None, :], other=0.0)
                acc += b_w[:, None] * b_c.to(tl.float32)
        acc = bend(acc, softcap, CAPPED)
        seen = (o_n >= first) & (o_n < stop)
        if SUMMED:
            hidden = tl.where(seen[None, :], acc, float("-inf"))
            top = tl.max(hidden, axis=1)
            top = tl.where(top == float("-inf"), 0.0, top)
            tl.store(p_peak + o_h * chunks, top)
            tl.store(p_mass + o_h * chunks, tl.sum(tl.exp(hidden - top[:, None]), axis=1))
            if (stop - 1 >= i_chunk * CHUNK) & (stop - 1 < (i_chunk + 1) * CHUNK):
                tl.store(p_own + i_row * HP + o_h, tl.sum(tl.where((o_n == stop - 1)[None, :], acc, 0.0), axis=1))
        if EVERYTHING:
            # the scores of a head lie in the order of positions
            o_c = tl.arange(0, CHUNK)
            tl.store(p_score + o_h[:, None] * N + o_c[None, :], acc, mask=(o_h < HEADS)[:, None])
        else:
            if OWN:
                seen = seen & (o_n < stop - 1)
            keys = tl.where(o_n >= stop - 1 - local, HIGHEST, order(tl.sum(acc, axis=0)))
            keys = tl.where(seen, keys, LOWEST)
            if CAP == CHUNK:
                taken, slot = seen, tl.cumsum(seen.to(tl.int32), axis=0) - 1
            else:
                floor = LOWEST + 1
                if not FUSED:
                    # a chunk that has k keys of t or more shows that none below t is among the k best of the head
                    floor = tl.maximum(tl.load(p_floor + i_row, volatile=True), floor)
                if tl.sum((keys >= floor).to(tl.int32), axis=0) > CAP:
                    floor = threshold(keys, k, CAP)
                    if not FUSED:
                        tl.atomic_max(p_floor + i_row, floor, sem="relaxed")
                taken, slot = slots(keys, floor, CAP)
            found = tl.sum(taken.to(tl.int32), axis=0)
            tl.store(p_position + slot, o_n, mask=taken)
            tl.store(p_score + o_h[:, None] * N + slot[None, :], acc, mask=taken[None, :] & (o_h < HEADS)[:, None])
    elif SUMMED:
        tl.store(p_peak + o_h * chunks, tl.zeros([HP], dtype=tl.float32))
        tl.store(p_mass + o_h * chunks, tl.zeros([HP], dtype=tl.float32))
    if EVERYTHING:
        if i_chunk == 0:
            # no digit was counted yet
            o_i = tl.arange(0, DIGITS * 256)
            tl.store(p_counts + i_row * DIGITS * 256 + o_i, tl.zeros([DIGITS * 256], dtype=tl.int32))
    else:
        tl.store(p_position + o_cap, -1, mask=(o_cap >= found) & (o_cap < CAP))
