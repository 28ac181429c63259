"""Copies of a model on several devices, each in a process of its own, that look like one engine."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from transformers import PretrainedConfig

from sparq_eval.hf.cache import no_kernel
from sparq_eval.hf.checkpoint import Checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.placement import Placement
from sparq_eval.hf.worker import DONE, Worker
from sparq_eval.methods import Method
from sparq_eval.methods.kernel import Kernel
from sparq_eval.request import Answer, Request

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def start(
    checkpoint: Checkpoint,
    dtype: str,
    placement: Placement,
    accounting: str,
    kernel_for: Callable[[Method], Kernel | None] = no_kernel,
) -> "Iterator[Engine | Workers]":
    """The engine of a placement. Processes that it needs end with the block."""
    load = functools.partial(load_engine, checkpoint, dtype, accounting, kernel_for)
    if placement.copies == 1:
        yield load(placement)
    else:
        with Workers(load, placement) as workers:
            yield workers


def load_engine(
    checkpoint: Checkpoint,
    dtype: str,
    accounting: str,
    kernel_for: Callable[[Method], Kernel | None],
    placement: Placement,
) -> Engine:
    model = checkpoint.load(dtype, str(placement.devices[0]), modules=placement.modules)
    return Engine(model, checkpoint.tokenizer, accounting, kernel_for=kernel_for)


def on_one(function: Callable[Concatenate[Engine, P], R]) -> "Callable[Concatenate[Engine | Workers, P], R]":
    """Let a module's function of an engine take workers too: one of them runs it."""

    @functools.wraps(function)
    def either(engine: Engine | Workers, *arguments: P.args, **named: P.kwargs) -> R:
        if isinstance(engine, Workers):
            return engine.call(either, *arguments, **named)
        return function(engine, *arguments, **named)

    return either


@dataclass(frozen=True)
class Outline:
    """What is to be known about a model that is elsewhere."""

    config: PretrainedConfig
    dtype: torch.dtype

    @staticmethod
    def of(engine: Engine) -> "Outline":
        return Outline(engine.model.config, engine.model.dtype)


class Workers:
    """An engine to the code above it. `load` makes the engine of one process; like all that is sent to a process, it
    must be importable by its name.
    """

    def __init__(self, load: Callable[[Placement], Engine], placement: Placement) -> None:
        self.placement = placement
        self.workers: list[Worker] = []
        threads = max(1, torch.get_num_threads() // placement.copies)
        try:
            for device in placement.devices:
                self.workers.append(Worker.start(load, device, threads))
            for worker in self.workers:
                worker.result()
            self.model = self.call(Outline.of)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()

    @property
    def device(self) -> torch.device:
        return self.placement.devices[0]

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def answer(self, requests: Sequence[Request], methods: Sequence[Method], **options: Any) -> list[list[Answer]]:
        return self.call(Engine.answer, requests, methods, **options)

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What `function(engine, …)` returns in one of the processes."""
        worker = self.workers[0]
        worker.begin(function, *arguments, **named)
        [value] = iter(worker.result, DONE)
        return value

    def share(
        self,
        function: Callable[..., Iterator[Any]],
        requests: Sequence[Request],
        methods: Sequence[Method],
        size: int,
        *more: Any,
    ) -> Iterator[Any]:
        """The batches that `function(engine, part, methods, size, …)` yields for parts of the requests, as they come.

        Each process takes `size` of the requests as soon as it has answered those before, fewer once memory ran out
        there. When one fails the others finish what they have begun, so that no answer is lost; then the error is
        raised. Leaving early closes the workers.
        """
        waiting = list(requests)
        sizes = dict.fromkeys(self.workers, max(1, min(size, math.ceil(len(waiting) / len(self.workers)))))
        failed: Exception | None = None
        try:
            while True:
                for worker in self.workers:
                    if waiting and failed is None and not worker.busy:
                        part, waiting = waiting[: sizes[worker]], waiting[sizes[worker] :]
                        worker.begin(function, part, methods, sizes[worker], *more)
                busy = {worker.pipe: worker for worker in self.workers if worker.busy}
                if not busy:
                    break
                for pipe in wait(list(busy)):
                    worker = busy[pipe]  # type: ignore[index]  # only these pipes were waited for
                    try:
                        batch = worker.result()
                    except Exception as error:  # whatever the task raised, after the others' answers
                        failed = failed or error
                        continue
                    if batch is not DONE:
                        sizes[worker] = batch.size
                        yield batch
            if failed is not None:
                raise failed
        finally:
            if any(worker.busy for worker in self.workers):
                self.close()
