"""Attention to one block of positions after another, the softmax being brought up to date (Triton functions)."""

import triton
import triton.language as tl


@triton.jit
def bend(scores, softcap, CAPPED: tl.constexpr):
    if CAPPED:
        # tanh by the exponential, which does not overflow towards -1
        scores = softcap * (1 - 2 / (tl.exp(2 * scores / softcap) + 1))
    return scores


@triton.jit
def attend_block(b_q, b_k, b_v, m_n, b_m, b_l, b_acc, scale, softcap, CAPPED: tl.constexpr):
    """Largest logit, sum of weights and weighted values so far, with a block more; and the block's logits.

    b_q: [GP, DP], b_k: [DP, BN], b_v: [BN, DP]. m_n: which of the block's positions are there.
    """
    b_s = bend(tl.dot(b_q, b_k, input_precision="ieee") * scale, softcap, CAPPED)  # [GP, BN]
    b_s = tl.where(m_n[None, :], b_s, float("-inf"))
    top = tl.maximum(b_m, tl.max(b_s, axis=1))
    # nothing seen so far: any finite number will do
    top_ = tl.where(top == float("-inf"), 0.0, top)
    b_w = tl.exp(b_s - top_[:, None])
    shrink = tl.exp(b_m - top_)
    b_l = b_l * shrink + tl.sum(b_w, axis=1)
    b_acc = b_acc * shrink[:, None] + tl.dot(b_w.to(b_v.dtype), b_v, input_precision="ieee")
    return top, b_l, b_acc, b_s
