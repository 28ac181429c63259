"""What kernels are for and what they change: the time of a decode step of one setting alone, and its answers."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparq_eval.hf.cache import Cache, no_kernel
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.recorded import Recorded
from sparq_eval.hf.tally import Tally
from sparq_eval.hf.workers import on_one
from sparq_eval.methods import Method
from sparq_eval.request import Request

WARM = 4  # steps before the first that counts: the first runs as it is, the second is recorded
STEPS = 16


@dataclass(frozen=True)
class Speed:
    """seconds: of a decode step of a batch, the median; low, high: 10th and 90th percentile. prompt: of its longest."""

    seconds: float
    low: float
    high: float
    batch: int
    prompt: int


@on_one
@torch.inference_mode()
def decode_speed(engine: Engine, requests: Sequence[Request], methods: Sequence[Method]) -> list[Speed]:
    """How long a token takes with each method alone, behind the prompts of one batch."""
    return [time_steps(engine, requests, method) for method in methods]


def time_steps(engine: Engine, requests: Sequence[Request], method: Method) -> Speed:
    B, device = len(requests), engine.device
    cache, last = engine.prefill(requests, [method], WARM + STEPS, tails=True, kernels=True)
    tallies = [Tally.zero(B, engine.layers, device)]
    step = Recorded(engine, cache, tallies) if engine.can_record else launched(engine, cache, tallies)
    ids = last.argmax(dim=-1, keepdim=True)
    starts = torch.tensor([[len(request.prompt)] for request in requests])
    live = torch.ones(1, B, 1, dtype=torch.bool)
    seconds = []
    for token in range(WARM + STEPS):
        synchronize(device)
        began = time.perf_counter()
        step(ids, starts + token, token, live)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    ordered = sorted(seconds[WARM:])
    return Speed(
        statistics.median(ordered),
        ordered[STEPS // 10],
        ordered[-1 - STEPS // 10],
        B,
        max(len(request.prompt) for request in requests),
    )


def launched(
    engine: Engine, cache: Cache, tallies: Sequence[Tally]
) -> Callable[[Tensor, Tensor, int, Tensor], Float[Tensor, "B V"]]:
    """A step as `Recorded` makes it, every kernel of it launched."""

    def step(ids: Tensor, at: Tensor, token: int, live: Tensor) -> Float[Tensor, "B V"]:
        rows = [torch.arange(len(ids), device=engine.device)]
        decode = Decode(cache, rows, token, tallies)
        logits = engine.forward(ids, at, decode, last_only=True)[:, -1]
        decode.close()
        return logits

    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@on_one
def same_answers(engine: Engine, requests: Sequence[Request], methods: Sequence[Method]) -> list[int]:
    """To how many of the requests each method gives the same tokens by its kernel as by itself."""
    fast = engine.answer(requests, methods)
    slow = replace(engine, kernel_for=no_kernel).answer(requests, methods)
    return [
        sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in zip(fast, slow, strict=True)
    ]
