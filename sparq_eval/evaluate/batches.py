"""Batches of examples that fit the memory; one that does not is halved, and the run goes on."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from sparq_eval.errors import UserError
from sparq_eval.evaluate.provenance import peak_memory
from sparq_eval.hf.cache import bytes_per_example
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.workers import Workers, on_one
from sparq_eval.methods import Method, Shape
from sparq_eval.progress import say
from sparq_eval.request import Answer, Request


class OutOfMemory(UserError):
    """Memory does not hold a single example with these settings."""


@dataclass(frozen=True)
class Batch:
    """Answers by method, then by request; seconds that they took together; bytes held at most until then."""

    requests: Sequence[Request]
    answers: Sequence[Sequence[Answer]]
    seconds: float
    size: int
    peak_memory: int


def answer_all(
    engine: Engine | Workers,
    requests: Sequence[Request],
    methods: Sequence[Method],
    batch_size: int,
    context_methods: Sequence[Method] = (),
) -> Iterator[Batch]:
    """Answer all requests, longest prompts first so that batches are even and memory runs out early if it does.

    Answers of `context_methods`, which start from the context alone, come behind those of `methods`. Prompts for which
    a share of them becomes another k are not batched together.
    """
    alike = in_order(requests, methods, context_methods)
    if isinstance(engine, Workers):
        # each process runs this function on one part after another
        ordered = [request for waiting in alike.values() for request in waiting]
        own = {request: request for request in ordered}
        for batch in engine.share(answer_all, ordered, methods, batch_size, context_methods):
            yield replace(batch, requests=[own[request] for request in batch.requests])
        return
    size = batch_size
    for both, waiting in alike.items():
        while waiting:
            batch = waiting[:size]
            start = time.monotonic()
            try:
                answers = engine.answer(batch, *both)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                answers = None
            # out of the handler, so that the failed batch's tensors are let go before the next try
            if answers is None:
                size = halve(len(batch), len(batch[0].prompt), len(methods) + len(context_methods))
                continue
            seconds = time.monotonic() - start
            yield Batch(batch, answers, seconds, size, peak_memory(engine.placement.devices))
            waiting = waiting[len(batch) :]


Alike = dict[tuple[tuple[Method, ...], tuple[Method, ...]], list[Request]]


def in_order(requests: Sequence[Request], methods: Sequence[Method], context_methods: Sequence[Method]) -> Alike:
    """Requests that may be batched together, longest prompts first, by the methods as they are for them."""
    alike = defaultdict(list)
    for request in sorted(requests, key=lambda request: -len(request.prompt)):
        alike[fitted(methods, request), fitted(context_methods, request)].append(request)
    return alike


def beside(
    lacking: set[int],
    requests: Sequence[Request],
    methods: Sequence[Method],
    batch_size: int,
    context_methods: Sequence[Method] = (),
) -> list[Request]:
    """Requests of the lacking examples and those that share a batch with them where all requests are answered.

    What goes on after an interruption is batched as if there had been none, so that its bits are the same too.
    """
    found = list[Request]()
    for waiting in in_order(requests, methods, context_methods).values():
        for first in range(0, len(waiting), batch_size):
            batch = waiting[first : first + batch_size]
            if any(request.index in lacking for request in batch):
                found += batch
    return found


def fitted(methods: Sequence[Method], request: Request) -> tuple[Method, ...]:
    """Methods with every k made whole for this prompt."""
    return tuple(method.fit(seen(request)) for method in methods)


def seen(request: Request) -> int:
    """Tokens of the prompt that the model sees, special ones not counted."""
    return min(request.prompt_tokens, len(request.prompt))


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out; torch raises a plain RuntimeError for it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def halve(size: int, longest: int, methods: int) -> int:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size == 1:
        raise OutOfMemory(
            f"batch_size=1: out of memory with one prompt of {longest} tokens and {methods} settings; "
            "ask for fewer settings at a time (k, r, method), a smaller dtype or a smaller model"
        )
    say(f"out of memory with {size} examples at a time: going on with {size // 2}")
    return size // 2


@on_one
def fitting(engine: Engine, requests: Sequence[Request], methods: Sequence[Method]) -> int:
    """How many examples to prefill together: as many as fit the device with the least room for its layers' cache."""
    shape, itemsize = shape_of(engine.model.config.get_text_config()), engine.model.dtype.itemsize
    kernels = [engine.kernel_for(method) for method in methods]
    copies = len({kernel.copy for kernel in kernels if kernel and kernel.copy})
    return min(
        fitting_batch(requests, len(methods), shape, layers, itemsize, device, copies)
        for device, layers in engine.layers_by_device.items()
    )


def fitting_batch(
    requests: Sequence[Request],
    methods: int,
    shape: Shape,
    layers: int,
    itemsize: int,
    device: torch.device,
    copies: int = 0,
) -> int:
    """How many examples to prefill together: at most 64 (8 on a CPU), their cache in a share of free memory."""
    longest = max(len(request.prompt) for request in requests)
    room = max(max(request.steps, len(request.forced)) for request in requests)
    each = bytes_per_example(
        layers, shape.heads, shape.head_size, itemsize, prompt=longest, room=room, settings=methods, copies=copies
    )
    if device.type == "cuda":
        most, share = 64, torch.cuda.mem_get_info(device)[0] * 0.4
    else:
        most, share = 8, min(psutil.virtual_memory().available * 0.25, 2**30)
    return max(1, min(most, int(share // each)))
