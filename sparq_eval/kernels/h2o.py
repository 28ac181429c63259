"""H2O on a GPU (Triton) with a cache that is really dropped: k + 1 slots a head, the new token takes the evicted one's.

Evicting is choosing the slot with the smallest score that is not among the most recent; the weights of the step are
added to the scores in the same launch.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.kernels.gather import Attention
from sparq_eval.kernels.softmax import attend_block
from sparq_eval.ops import Prompt, take


class Slots(NamedTuple):
    """What is left of the cache. position: -1 where a slot is free."""

    k: Float[Tensor, "B H N D"]
    v: Float[Tensor, "B H N D"]
    score: Float[Tensor, "B H N"]
    position: Int[Tensor, "B H N"]


def keep(prompt: Prompt, k: int, local: int, room: int) -> Slots:
    """The prompt's k best positions, the `local` most recent among them, and a free slot. `room`: tokens to come."""
    P, T = prompt.k.shape[2], prompt.q.shape[3]
    last = prompt.visible.narrow(T - 1, T)
    N = min(k, P + room)
    # the first token to come evicts, and sees one position less of a sliding window's
    window = prompt.visible.window
    seen = last.mask if window is None else last.mask & (last.age < window - 1)
    score = prompt.column_sums.masked_fill(~seen, -torch.inf)
    recent = (seen & (last.age < local)).expand_as(score)
    index = score.masked_fill(recent, torch.inf).topk(min(N, P), dim=-1, sorted=False).indices
    free = N + 1 - index.shape[-1]
    there = seen.expand_as(score).gather(-1, index)
    position = torch.nn.functional.pad(index.masked_fill(~there, -1).int(), (0, free), value=-1)
    kept = torch.nn.functional.pad(prompt.column_sums.gather(-1, index).masked_fill(~there, 0), (0, free))
    k_rows, v_rows = (
        torch.nn.functional.pad(take(x, index), (0, 0, 0, free)).contiguous() for x in (prompt.k, prompt.v)
    )
    return Slots(k_rows, v_rows, kept, position)


def attend_and_evict(
    step: Attention, slots: Slots, new_k: Float[Tensor, "B H D"], new_v: Float[Tensor, "B H D"], local: int
) -> Float[Tensor, "B H G D"]:
    """Put the new token, at position stop - 1, where the worst one was, attend to all slots, add to their scores.

    The slots are changed in place.
    """
    B, H, G, D = step.q.shape
    N = slots.score.shape[-1]
    GP, DP = max(16, triton.next_power_of_2(G)), max(16, triton.next_power_of_2(D))
    NP, BN = triton.next_power_of_2(N), max(16, min(64, 8192 // DP, triton.next_power_of_2(N)))
    out = torch.empty(B, H, G, D, dtype=step.v.dtype, device=step.q.device)
    logits = torch.empty(B * H, GP, NP, dtype=torch.float32, device=step.q.device)
    evict_kernel[(B * H,)](
        step.q.contiguous(), *slots, new_k.contiguous(), new_v.contiguous(), step.first, step.stop,
        step.arrived if step.sinks is None else step.sinks.contiguous(), logits, out,
        H, G, D, N, local, step.scale, step.softcap or 0.0,
        CAPPED=step.softcap is not None, SINKS=step.sinks is not None, GP=GP, DP=DP, NP=NP, BN=BN,
        num_warps=4 if NP <= 2048 else 8,
    )  # fmt: skip
    return out


@triton.jit
def evict_kernel(
    p_q, p_k, p_v, p_score, p_position, p_new_k, p_new_v, p_first, p_stop, p_sinks, p_logits, p_out,
    H, G, D, N, local, scale, softcap,
    CAPPED: tl.constexpr, SINKS: tl.constexpr, GP: tl.constexpr, DP: tl.constexpr, NP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    i_row = tl.program_id(0).to(tl.int64)
    i_b, i_h = i_row // H, i_row % H
    first, stop = tl.load(p_first + i_b), tl.load(p_stop + i_b)
    p_k += i_row * N * D
    p_v += i_row * N * D
    p_score += i_row * N
    p_position += i_row * N
    p_logits += i_row * GP * NP
    o_g, o_d, o_s, o_n = tl.arange(0, GP), tl.arange(0, DP), tl.arange(0, NP), tl.arange(0, BN)
    m_g, m_d = o_g < G, o_d < D
    if stop > first:
        # [NP]
        b_p = tl.load(p_position + o_s, mask=o_s < N, other=-1)
        b_s = tl.load(p_score + o_s, mask=o_s < N, other=0.0)
        # free and out of sight before all others, the most recent and what is no slot never
        b_s = tl.where(b_p >= stop - 1 - local, float("inf"), b_s)
        b_s = tl.where(b_p < first, float("-inf"), b_s)
        b_s = tl.where(o_s < N, b_s, float("inf"))
        victim = tl.argmin(b_s, axis=0)
        b_new = tl.load(p_new_k + i_row * D + o_d, mask=m_d, other=0.0)
        tl.store(p_k + victim * D + o_d, b_new, mask=m_d)
        b_new = tl.load(p_new_v + i_row * D + o_d, mask=m_d, other=0.0)
        tl.store(p_v + victim * D + o_d, b_new, mask=m_d)
        tl.store(p_position + victim, stop - 1)
        tl.store(p_score + victim, 0.0)
    # what one thread wrote others read next
    tl.debug_barrier()
    # [GP, DP]
    b_q = tl.load(p_q + (i_row * G + o_g)[:, None] * D + o_d[None, :], mask=m_g[:, None] & m_d[None, :], other=0.0)
    b_m = tl.full([GP], float("-inf"), dtype=tl.float32)
    b_l = tl.zeros([GP], dtype=tl.float32)
    b_acc = tl.zeros([GP, DP], dtype=tl.float32)
    for n in range(0, N, BN):
        b_p = tl.load(p_position + n + o_n, mask=n + o_n < N, other=-1)
        m_n = (b_p >= 0) & (b_p >= first) & (b_p < stop)
        # [DP, BN], [BN, DP]
        b_k = tl.load(p_k + (n + o_n)[None, :] * D + o_d[:, None], mask=m_n[None, :] & m_d[:, None], other=0.0)
        b_v = tl.load(p_v + (n + o_n)[:, None] * D + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0)
        b_m, b_l, b_acc, b_s = attend_block(b_q, b_k, b_v, m_n, b_m, b_l, b_acc, scale, softcap, CAPPED)
        tl.store(p_logits + o_g[:, None] * NP + n + o_n[None, :], b_s, mask=(n + o_n < NP)[None, :])
    top = tl.where(b_m == float("-inf"), 0.0, b_m)
    if SINKS:
        b_sink = tl.load(p_sinks + i_h * G + o_g, mask=m_g, other=float("-inf")).to(tl.float32)
        top = tl.maximum(top, b_sink)
        shrink = tl.exp(b_m - top)
        b_l = b_l * shrink + tl.exp(b_sink - top)
        b_acc = b_acc * shrink[:, None]
    b_l = tl.where(b_l > 0, b_l, 1.0)
    p_out += i_row * G * D
    tl.store(
        p_out + o_g[:, None] * D + o_d[None, :], (b_acc / b_l[:, None]).to(p_out.dtype.element_ty),
        mask=m_g[:, None] & m_d[None, :],
    )  # fmt: skip
    tl.debug_barrier()
    for n in range(0, N, BN):
        b_s = tl.load(
            p_logits + o_g[:, None] * NP + n + o_n[None, :],
            mask=m_g[:, None] & (n + o_n < N)[None, :],
            other=float("-inf"),
        )
        b_w = tl.sum(tl.exp(b_s - top[:, None]) / b_l[:, None], axis=0) / G  # [BN]
        b_old = tl.load(p_score + n + o_n, mask=n + o_n < N, other=0.0)
        tl.store(p_score + n + o_n, b_old + b_w, mask=n + o_n < N)
