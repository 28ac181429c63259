"""Before a run, on its own model and dtype: is the attention that replaces the model's own right?

Three laws in a few seconds: with a budget that leaves nothing out each method gives the logits of transformers' own
eager attention; an example gives the same beside a longer one, where it is padded, as alone; every layer attends by the
method at every step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparq_eval.errors import UserError
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.seam import NAME
from sparq_eval.hf.tally import Tally
from sparq_eval.hf.workers import on_one
from sparq_eval.methods import Dense, Method
from sparq_eval.request import Request

# largest ||logits - reference|| / ||reference||, logits less their mean: five times and more what real models show
TOLERANCE = {torch.float32: 1e-3, torch.float16: 4e-2, torch.bfloat16: 2e-1}
FLUKE = 4  # times the tolerance at a single position, which eager attention's own rounding may take in 16 bits
STEPS = 4
SHORT, LONG = 64, 1024  # tokens of a prompt: without a sliding window that a prompt can pass, and at most


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, how far apart it was, and how far it may be."""

    what: str
    error: float
    tolerance: float


@on_one
def self_check(engine: Engine, requests: Sequence[Request], methods: Sequence[Method]) -> dict[str, Any]:
    """The largest error of each law, as JSON values. Raises UserError that says what differed and by how much."""
    shape = shape_of(engine.model.config.get_text_config())
    unlimited = {type(method).__name__: method.unlimited(shape) for method in [Dense(), *methods]}
    checked = {name: method for name, method in unlimited.items() if method is not None}
    samples = sample(engine, requests)
    dtype = engine.model.dtype
    tolerance = TOLERANCE[dtype]
    reference = eager(engine, samples)
    together = decoded(engine, samples, list(checked.values()))
    alone = decoded(engine, samples[1:], list(checked.values()))
    checks = [
        Check(f"{name} with an unlimited budget and eager attention", distance(got, reference, dtype), tolerance)
        for name, got in zip(checked, together, strict=True)
    ]
    checks += [
        Check(f"{name} on a padded example and on the same alone", distance(got[1:], single, dtype), tolerance)
        for name, got, single in zip(checked, together, alone, strict=True)
    ]
    for check in checks:
        if not check.error <= check.tolerance:
            raise UserError(
                f"selfcheck: the logits of {check.what} differ by {check.error:.2g} (relative norm) where "
                f"{check.tolerance:.2g} is allowed in {str(dtype).removeprefix('torch.')}: this model is "
                "not evaluated rightly here; selfcheck=off runs it all the same, and records that"
            )
    return {
        "tolerance": tolerance,
        "eager": max(check.error for check in checks[: len(checked)]),
        "padded": max(check.error for check in checks[len(checked) :]),
        "not_checked": sorted(set(unlimited) - set(checked)),
    }


def sample(engine: Engine, requests: Sequence[Request]) -> list[Request]:
    """A longer and a shorter prompt out of the run's own, each with a few tokens to be fed behind it."""
    windows = [window for window in layer_windows(engine.model.config.get_text_config()) if window]
    wanted = max([window + SHORT for window in windows if window + SHORT <= LONG], default=SHORT)
    tokens = max((request.prompt + request.forced for request in requests), key=len)
    if len(tokens) < 2 * STEPS:
        tokens = tokens * (2 * STEPS)
    n = min(wanted, len(tokens) - STEPS)
    lengths = (n, max(1, n - n // 3))
    return [Request(i, "", tokens[:m], m, forced=tokens[m : m + STEPS]) for i, m in enumerate(lengths)]


@torch.inference_mode()
def eager(engine: Engine, samples: Sequence[Request]) -> Float[Tensor, "B t V"]:
    """Logits behind each prompt and behind each fed token by transformers' eager attention, without padding."""
    model = engine.model
    model.set_attn_implementation("eager")
    try:
        found = []
        for request in samples:
            ids = torch.tensor([request.prompt + request.forced], device=engine.device)
            found.append(model(input_ids=ids, use_cache=False, logits_to_keep=STEPS + 1).logits[0])
    finally:
        model.set_attn_implementation(NAME)
    return torch.stack(found).float()


@torch.inference_mode()
def decoded(engine: Engine, samples: Sequence[Request], methods: Sequence[Method]) -> Float[Tensor, "N B t V"]:
    """The same logits by each method: prompts prefilled as a batch, tokens fed one at a time."""
    N, B = len(methods), len(samples)
    cache, last = engine.prefill(samples, methods, STEPS, tails=True, kernels=True)
    tallies = [Tally.zero(B, engine.layers, engine.device) for _ in methods]
    rows = [torch.arange(B, device=engine.device)] * N
    found = [last.expand(N, *last.shape)]
    for t in range(STEPS):
        session = Decode(cache, rows, t, tallies)
        ids = torch.tensor([[request.forced[t]] for request in samples]).repeat(N, 1)
        at = torch.tensor([[len(request.prompt) + t] for request in samples]).repeat(N, 1)
        logits = engine.forward(ids, at, session, last_only=True)[:, -1]
        session.close()
        found.append(logits.float().unflatten(0, (N, B)))
    for method, tally in zip(methods, tallies, strict=True):
        if not (tally.calls == STEPS).all():
            layers = (tally.calls != STEPS).any(dim=0).nonzero().flatten().tolist()
            raise UserError(f"selfcheck: {method} was not called at every step on layers {layers}")
    return torch.stack(found, dim=2)


def distance(x: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    """Relative norm: of the worst example and position; in 16 bits of the worst example's median position, and of the
    worst position a FLUKE-th. inf where anything is not finite.

    Eager attention rounds logits and weights to 16 bits: at one position of Qwen2.5-Coder-1.5B in bfloat16 it is off by
    0.46 from itself in float32, where what replaces it is off by 0.02 (docs/log.md).
    """
    x, reference = (y - y.mean(dim=-1, keepdim=True) for y in (x, reference))
    errors = (x - reference).norm(dim=-1) / reference.norm(dim=-1).clamp(min=1e-30)
    worst = errors.nan_to_num(float("inf")).max().item()
    if dtype == torch.float32 or not math.isfinite(worst):
        return worst
    return max(errors.median(dim=-1).values.max().item(), worst / FLUKE)
