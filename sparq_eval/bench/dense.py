"""Dense attention by others' kernels, the baselines: torch's back ends, FlexAttention, FlashInfer if installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from sparq_eval.bench.case import Case, Runner
from sparq_eval.methods import Dense
from sparq_eval.step import Step

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
PAGE = 16  # positions of a page of FlashInfer's cache


def dense_runners(case: Case, flex: bool = False) -> list[Runner]:
    """Every back end of torch's attention; a group of queries as heads and, where there is one, as query positions.

    On a CPU also two matrix products and a softmax, which is often faster there.
    """
    on_gpu = case.device.type == "cuda"
    found = [] if on_gpu else [Runner("dense torch", "torch", Dense(), nothing, products)]
    if flex and on_gpu:
        found.append(Runner("flex", "flex", Dense(), nothing, flex_attention_call()))
    if on_gpu and find_spec("flashinfer"):
        found.append(Runner("flashinfer", "flashinfer", Dense(), paged, run_flashinfer))
    for name in list(BACKENDS) if on_gpu else ["flash", "math"]:
        found.append(Runner(f"sdpa {name}", "sdpa", Dense(), nothing, sdpa(BACKENDS[name], folded=False)))
        if case.G > 1:
            call = sdpa(BACKENDS[name], folded=True)
            found.append(Runner(f"sdpa {name}, group as queries", "sdpa", Dense(), nothing, call))
    return found


def nothing(step: Step) -> None:
    return None


def products(step: Step, _: Any) -> Tensor:
    return Dense().attend(step, None)[0].out


def sdpa(backend: SDPBackend, folded: bool) -> Callable[[Step, Any], Tensor]:
    def call(step: Step, _: Any) -> Tensor:
        B, H, G, _, D = step.q.shape
        with sdpa_kernel(backend):
            if folded:
                out = scaled_dot_product_attention(step.q[:, :, :, 0], step.k, step.v, scale=step.scale)
            else:
                q = step.q.flatten(1, 2)
                out = scaled_dot_product_attention(q, step.k, step.v, scale=step.scale, enable_gqa=G > 1)
        return out.view(B, H, G, 1, D)

    return call


def flex_attention_call() -> Callable[[Step, Any], Tensor]:
    """FlexAttention without a modification, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def call(step: Step, _: Any) -> Tensor:
        B, H, G, _, D = step.q.shape
        out: Any = compiled(step.q.flatten(1, 2), step.k, step.v, scale=step.scale, enable_gqa=G > 1)
        return out.view(B, H, G, 1, D)

    return call


def paged(step: Step) -> tuple[Any, tuple[Tensor, Tensor]]:
    """FlashInfer's plan for a step, and its caches: the same keys and values in pages of its own layout."""
    import flashinfer

    B, H, G, _, D = step.q.shape
    S, device = step.k.shape[2], step.q.device
    if S % PAGE:
        raise ValueError(f"its pages hold {PAGE} positions, and S={S} is no multiple")
    pages = S // PAGE
    caches = [x.unflatten(2, (pages, PAGE)).transpose(1, 2).flatten(0, 1).contiguous() for x in (step.k, step.v)]
    plan = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(2**27, dtype=torch.uint8, device=device), "HND", use_tensor_cores=G > 1
    )
    begin = torch.arange(0, B * pages + 1, pages, dtype=torch.int32, device=device)
    every = torch.arange(B * pages, dtype=torch.int32, device=device)
    last = torch.full((B,), PAGE, dtype=torch.int32, device=device)
    dtype = step.q.dtype
    plan.plan(begin, every, last, H * G, H, D, PAGE, q_data_type=dtype, kv_data_type=dtype, sm_scale=step.scale)
    return plan, (caches[0], caches[1])


def run_flashinfer(step: Step, state: tuple[Any, tuple[Tensor, Tensor]]) -> Tensor:
    plan, caches = state
    out: Tensor = plan.run(step.q.flatten(1, 3), caches)
    return out.view_as(step.q)
