"""Decode attention on a GPU (Triton) over listed positions, over ranked ones, or over the first and the latest.

Step 2 of SparQ, and all of a method that attends to a window or to everything. The positions are split over programs
where batches are small, as in flash decoding; the program of a head that ends last adds the parts up. A short list is
made from the candidates by the program that reads it.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.kernels.candidates import Candidates, Ranked
from sparq_eval.kernels.merge import merge, merge_row
from sparq_eval.kernels.rank import FEW, overlap
from sparq_eval.kernels.softmax import attend_block, bend
from sparq_eval.kernels.spread import spread

MOST_PARTS = 64


@dataclass(frozen=True)
class Attention:
    """A decode step as kernels see it: queries of one token, caches, where visible positions begin and end.

    arrived: zeros, at least B * H of them; every kernel leaves zeros.
    """

    q: Float[Tensor, "B H G D"]
    k: Float[Tensor, "B H S D"]
    v: Float[Tensor, "B H S D"]
    first: Int[Tensor, "B"]
    stop: Int[Tensor, "B"]
    arrived: Int[Tensor, "R"]
    scale: float
    softcap: float | None = None
    sinks: Float[Tensor, "H G"] | None = None


def attend_ends(step: Attention, head: int, latest: int) -> Float[Tensor, "B H G D"]:
    """Softmax attention over the first `head` visible positions and the `latest` ones, each once. Zeros where there is
    nothing to attend to.
    """
    N = min(head + latest, step.k.shape[2])
    return launch(step, N, split(step, N), head=head)


def attend_ranked(
    step: Attention, found: Candidates, value_sum: Float[Tensor, "B H D"] | None
) -> tuple[Float[Tensor, "B H G D"], Float[Tensor, "B H D"] | None]:
    """Softmax attention over the best candidates and, where they are ranked without it, the query's own position.

    With `covered` the result is weighted by it, and the rest goes to the mean of the values: `value_sum` is that of the
    values before the query's own, and the one after it is returned. Without a sum the rest is nothing.
    """
    parts = split(step, found.how.k)
    after = None if value_sum is None else torch.empty_like(value_sum)
    # the candidates for a list that one program reads are merged by that program
    ranked = None if parts == 1 and not found.everything else choose(step, found)
    out = launch(step, found.how.k, parts, found=found, ranked=ranked, value_sum=value_sum, after=after)
    return out, after


def choose(step: Attention, found: Candidates) -> Ranked:
    """The best of the candidates, by launches of their own."""
    B, H, G, _ = step.q.shape
    return spread(found, step.arrived, B, H, G) if found.everything else merge(found, B, H, G)


def block(step: Attention, N: int) -> int:
    """Positions that are read at a time: no more bytes than `most` of 128 numbers of 16 bits, to fit on the chip."""
    DP = triton.next_power_of_2(step.q.shape[-1])
    most = 128 if few(step) else 64
    return max(16, min(most, 256 * most // (DP * step.k.element_size()), triton.next_power_of_2(N)))


def few(step: Attention) -> bool:
    return step.q.shape[0] * step.q.shape[1] <= FEW


def split(step: Attention, N: int) -> int:
    """Over how many programs a head's N positions go: enough to keep the device reading, a few blocks each at least."""
    blocks = triton.cdiv(N, block(step, N))
    wanted = max(1, min(blocks // 4, triton.cdiv(1024, step.q.shape[0] * step.q.shape[1]), MOST_PARTS))
    return triton.cdiv(blocks, triton.cdiv(blocks, wanted))


def launch(
    step: Attention,
    N: int,
    parts: int,
    *,
    head: int = 0,
    found: Candidates | None = None,
    ranked: Ranked | None = None,
    value_sum: Tensor | None = None,
    after: Tensor | None = None,
) -> Float[Tensor, "B H G D"]:
    B, H, G, D = step.q.shape
    GP, DP, BN = max(16, triton.next_power_of_2(G)), max(16, triton.next_power_of_2(D)), block(step, N)
    per = triton.cdiv(triton.cdiv(N, BN), parts) * BN
    merging = found is not None and ranked is None

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(B * H, *shape, dtype=dtype, device=step.q.device)

    no = step.arrived  # a pointer that is not read
    sums = (scratch(parts, GP), scratch(parts, GP), scratch(parts, GP, DP)) if parts > 1 else (no, no, no)
    out = torch.empty(B, H, G, D, dtype=step.v.dtype, device=step.q.device)
    blend = found is not None and found.how.covered
    if ranked is not None:
        chosen, covered = ranked.positions, no if ranked.covered is None else ranked.covered.contiguous()
    elif found is not None:
        chosen, covered = scratch(N, dtype=torch.int32), scratch(found.heads) if blend else no
    else:
        chosen, covered = no, no
    tensors = found.tensors if merging and found else (no,) * 5
    numbers = found.numbers if merging and found else (0,) * 4
    constants = found.constants if merging and found else NO_CONSTANTS
    early = overlap(step.q) if found is not None else {}
    gather_kernel[(B * H, parts)](
        step.q.contiguous(), step.k, step.v, step.first, step.stop, chosen,
        no if step.sinks is None else step.sinks.contiguous(), covered,
        no if value_sum is None else value_sum.contiguous(), no if after is None else after,
        *sums, step.arrived, out, *tensors,
        H, G, D, N, per, head, step.scale, step.softcap or 0.0, *step.k.stride(), *step.v.stride(), *numbers,
        PARTS=parts, LISTED=found is not None, MERGING=merging, SELF=found is not None and found.how.own,
        CAPPED=step.softcap is not None, SINKS=step.sinks is not None, BLEND=blend,
        MEAN=blend and value_sum is not None, GP=GP, DP=DP, BN=BN, **constants,
        EARLY=bool(early), num_warps=max(8 if few(step) else 4, found.warps if merging and found else 0), **early,
    )  # fmt: skip
    return out


NO_CONSTANTS = {"OWN": False, "COVERED": False, "HEADS": 1, "HP": 1, "HELD": 16, "CHUNKS_P": 1}


@triton.jit
def gather_kernel(
    p_q, p_k, p_v, p_first, p_stop, p_list, p_sinks, p_covered, p_sum, p_after,
    p_m, p_l, p_acc, p_arrived, p_out,
    p_score, p_position, p_peak, p_mass, p_own,
    H, G, D, N, per, head, scale, softcap,
    stride_kb, stride_kh, stride_ks, stride_kd, stride_vb, stride_vh, stride_vs, stride_vd,
    k, local, candidates, chunks,
    PARTS: tl.constexpr, LISTED: tl.constexpr, MERGING: tl.constexpr, SELF: tl.constexpr, CAPPED: tl.constexpr,
    SINKS: tl.constexpr, BLEND: tl.constexpr, MEAN: tl.constexpr, GP: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr,
    OWN: tl.constexpr, COVERED: tl.constexpr, HEADS: tl.constexpr, HP: tl.constexpr, HELD: tl.constexpr,
    CHUNKS_P: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    i_row, i_part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i_b, i_h = i_row // H, i_row % H
    first, stop = tl.load(p_first + i_b), tl.load(p_stop + i_b)
    if EARLY:
        # launched before the kernel that ranks has ended
        tl.extra.cuda.gdc_wait()
    if MERGING:
        merge_row(i_row, first, stop, p_score, p_position, p_peak, p_mass, p_own, p_list, p_covered,
                  k, local, candidates, chunks, OWN, COVERED, HEADS, HP, HELD, CHUNKS_P)  # fmt: skip
        # what other threads of this program wrote is read next
        tl.debug_barrier()
    p_k += i_b * stride_kb + i_h * stride_kh
    p_v += i_b * stride_vb + i_h * stride_vh
    o_g, o_d, o_n = tl.arange(0, GP), tl.arange(0, DP), tl.arange(0, BN)
    m_g, m_d = o_g < G, o_d < D
    # [GP, DP]
    b_q = tl.load(p_q + (i_row * G + o_g)[:, None] * D + o_d[None, :], mask=m_g[:, None] & m_d[None, :], other=0.0)
    b_m = tl.full([GP], float("-inf"), dtype=tl.float32)
    b_l = tl.zeros([GP], dtype=tl.float32)
    b_acc = tl.zeros([GP, DP], dtype=tl.float32)
    if SELF:  # noqa: SIM102  (a constant of compilation, the next is not)
        if (i_part == 0) & (stop > first):
            own = (stop - 1).to(tl.int64)
            b_k = tl.load(p_k + own * stride_ks + o_d * stride_kd, mask=m_d, other=0.0).to(tl.float32)  # [DP]
            b_v = tl.load(p_v + own * stride_vs + o_d * stride_vd, mask=m_d, other=0.0).to(tl.float32)
            b_m = bend(tl.sum(b_q.to(tl.float32) * b_k[None, :], axis=1) * scale, softcap, CAPPED)
            b_l += 1.0
            b_acc += b_v[None, :]
    seen_count = tl.maximum(tl.minimum(N, stop - first), 0)
    for n in range(i_part * per, tl.minimum((i_part + 1) * per, N if LISTED else seen_count), BN):
        if LISTED:
            b_p = tl.load(p_list + i_row * N + n + o_n, mask=n + o_n < N, other=-1)
        else:
            b_p = tl.where(n + o_n < head, first + n + o_n, stop - seen_count + n + o_n)
            b_p = tl.where(n + o_n < seen_count, b_p, -1)
        m_n = b_p >= 0
        b_p = tl.where(m_n, b_p, 0).to(tl.int64)
        # [DP, BN]
        b_k = tl.load(
            p_k + b_p[None, :] * stride_ks + o_d[:, None] * stride_kd, mask=m_n[None, :] & m_d[:, None], other=0.0
        )
        # [BN, DP]
        b_v = tl.load(
            p_v + b_p[:, None] * stride_vs + o_d[None, :] * stride_vd, mask=m_n[:, None] & m_d[None, :], other=0.0
        )
        b_m, b_l, b_acc, _ = attend_block(b_q, b_k, b_v, m_n, b_m, b_l, b_acc, scale, softcap, CAPPED)
    if PARTS == 1:
        finish(b_m, b_l, b_acc, p_v, p_sinks, p_covered, p_sum, p_after, p_out, i_row, i_h, first, stop, G, D,
               stride_vs, stride_vd, SINKS, BLEND, MEAN, GP, DP)  # fmt: skip
    else:
        at = i_row * PARTS
        tl.store(p_m + (at + i_part) * GP + o_g, b_m)
        tl.store(p_l + (at + i_part) * GP + o_g, b_l)
        tl.store(p_acc + ((at + i_part) * GP + o_g)[:, None] * DP + o_d[None, :], b_acc)
        tl.debug_barrier()
        if tl.atomic_add(p_arrived + i_row, 1, sem="acq_rel") == PARTS - 1:
            tl.store(p_arrived + i_row, 0)
            b_m = tl.full([GP], float("-inf"), dtype=tl.float32)
            b_l = tl.zeros([GP], dtype=tl.float32)
            b_acc = tl.zeros([GP, DP], dtype=tl.float32)
            for part in range(PARTS):
                # .cg: written by other programs, so not to be looked for in this multiprocessor's own cache
                other_m = tl.load(p_m + (at + part) * GP + o_g, cache_modifier=".cg")
                other_l = tl.load(p_l + (at + part) * GP + o_g, cache_modifier=".cg")
                other = tl.load(
                    p_acc + ((at + part) * GP + o_g)[:, None] * DP + o_d[None, :], cache_modifier=".cg"
                )  # [GP, DP]
                top = tl.maximum(b_m, other_m)
                top_ = tl.where(top == float("-inf"), 0.0, top)
                shrink, grow = tl.exp(b_m - top_), tl.exp(other_m - top_)
                b_l = b_l * shrink + other_l * grow
                b_acc = b_acc * shrink[:, None] + other * grow[:, None]
                b_m = top
            finish(b_m, b_l, b_acc, p_v, p_sinks, p_covered, p_sum, p_after, p_out, i_row, i_h, first, stop, G, D,
                   stride_vs, stride_vd, SINKS, BLEND, MEAN, GP, DP)  # fmt: skip


@triton.jit
def finish(
    b_m, b_l, b_acc, p_v, p_sinks, p_covered, p_sum, p_after, p_out, i_row, i_h, first, stop, G, D,
    stride_vs, stride_vd,
    SINKS: tl.constexpr, BLEND: tl.constexpr, MEAN: tl.constexpr, GP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Divide by the sum of the weights, the sink's among them, blend with the mean value, and write."""
    o_g, o_d = tl.arange(0, GP), tl.arange(0, DP)
    m = (o_g < G)[:, None] & (o_d < D)[None, :]
    if SINKS:
        b_sink = tl.load(p_sinks + i_h * G + o_g, mask=o_g < G, other=float("-inf")).to(tl.float32)
        top = tl.maximum(b_m, b_sink)
        top = tl.where(top == float("-inf"), 0.0, top)
        shrink = tl.exp(b_m - top)
        b_l = b_l * shrink + tl.exp(b_sink - top)
        b_acc = b_acc * shrink[:, None]
    b_out = b_acc / tl.where(b_l > 0, b_l, 1.0)[:, None]
    if BLEND:
        covered = tl.load(p_covered + i_row * G + o_g, mask=o_g < G, other=1.0)
        b_out = b_out * covered[:, None]
        if MEAN:
            own = tl.maximum(stop - 1, 0).to(tl.int64)
            seen = o_d < tl.where(stop > first, D, 0)
            b_v = tl.load(p_v + own * stride_vs + o_d * stride_vd, mask=seen, other=0.0).to(tl.float32)
            b_sum = tl.load(p_sum + i_row * D + o_d, mask=o_d < D, other=0.0) + b_v
            tl.store(p_after + i_row * D + o_d, b_sum, mask=o_d < D)
            b_out += (1 - covered)[:, None] * (b_sum / tl.maximum(stop - first, 1))[None, :]
    tl.store(
        p_out + (i_row * G + o_g)[:, None] * D + o_d[None, :],
        tl.where(stop > first, b_out, 0.0).to(p_out.dtype.element_ty),
        mask=m,
    )
