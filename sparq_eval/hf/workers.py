"""Copies of a model on several devices, each in a process of its own, that look like one engine.

Threads would not do: decoding is bound by launching kernels, which happens under one interpreter's lock.
"""

import functools
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from transformers import PretrainedConfig
from transformers.utils import logging

from sparq_eval.errors import UserError
from sparq_eval.hf.checkpoint import Checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.placement import Placement
from sparq_eval.methods import Method
from sparq_eval.request import Answer, Request

P = ParamSpec("P")
R = TypeVar("R")
DONE = object()


@contextmanager
def start(checkpoint: Checkpoint, dtype: str, placement: Placement, accounting: str) -> "Iterator[Engine | Workers]":
    """The engine of a placement. Processes that it needs end with the block."""
    load = functools.partial(load_engine, checkpoint, dtype, accounting)
    if placement.copies == 1:
        yield load(placement)
    else:
        with Workers(load, placement) as workers:
            yield workers


def load_engine(checkpoint: Checkpoint, dtype: str, accounting: str, placement: Placement) -> Engine:
    model = checkpoint.load(dtype, str(placement.devices[0]), modules=placement.modules)
    return Engine(model, checkpoint.tokenizer, accounting)


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


@dataclass(eq=False)
class Worker:
    """The parent's end of a process that runs one task after another, beginning with loading its engine."""

    device: torch.device
    process: BaseProcess
    pipe: Connection
    busy: bool = True

    def begin(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        if self.busy:
            raise RuntimeError(f"the process on {self.device} is still at another task")
        try:
            self.pipe.send((function, arguments, named))
        except OSError:
            raise self.died() from None
        self.busy = True

    def result(self) -> Any:
        """The next result of its task, DONE behind the last. Raises what the task raised."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            self.busy = False
            raise self.died() from None
        self.busy = kind == "result"
        if kind == "error":
            raise value
        return value if self.busy else DONE

    def died(self) -> UserError:
        self.process.join(10)
        code = self.process.exitcode
        why = ", killed, most likely for lack of memory" if code == -signal.SIGKILL else ""
        return UserError(
            f"device={self.device}: the process there ended (exit code {code}{why}); what was measured is kept, and "
            "the same command goes on from there"
        )


class Workers:
    """An engine to the code above it. `load` makes the engine of one process; like all that is sent to a process, it
    must be importable by its name.
    """

    def __init__(self, load: Callable[[Placement], Engine], placement: Placement) -> None:
        self.placement = placement
        self.workers: list[Worker] = []
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // placement.copies)
        try:
            for device in placement.devices:
                here, there = context.Pipe()
                process = context.Process(target=serve, args=(there, load, device, threads), daemon=True)
                with interrupts_ignored():
                    process.start()
                # the worker's end is the worker's alone: it closes when the worker dies
                there.close()
                self.workers.append(Worker(device, process, here))
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
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()
            worker.busy = False

    @property
    def device(self) -> torch.device:
        return self.placement.devices[0]

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def answer(
        self, requests: Sequence[Request], methods: Sequence[Method], *others: Sequence[Method], **options: Any
    ) -> list[list[Answer]]:
        return self.call(Engine.answer, requests, methods, *others, **options)

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
        *others: Any,
    ) -> Iterator[Any]:
        """The batches that `function(engine, part, methods, size, *others)` yields for all parts of the requests, as
        they come.

        Each process takes `size` of the requests as soon as it has answered those before, fewer once memory ran out
        there. When one fails the others finish what they have begun, so that no answer is lost; then the error is
        raised. Leaving early closes the workers.
        """
        waiting = list(requests)
        sizes = dict.fromkeys(self.workers, max(1, min(size, math.ceil(len(waiting) / len(self.workers)))))
        failed: Exception | None = None
        try:
            while True:
                for worker in self.workers if failed is None else ():
                    if waiting and not worker.busy:
                        most = sizes[worker]
                        worker.begin(function, waiting[:most], methods, most, *others)
                        waiting = waiting[most:]
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


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C is the parent's to act on: a process started in this block never sees it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def serve(pipe: Connection, load: Callable[[Placement], Engine], device: torch.device, threads: int) -> None:
    """What a process does until its parent closes the pipe, or is gone."""
    threading.Thread(target=leave_with_parent, daemon=True).start()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with telling(pipe, device):
        engine = load(Placement((device,)))
    while True:
        try:
            function, arguments, named = pipe.recv()
        except EOFError:
            return
        with telling(pipe, device):
            results = function(engine, *arguments, **named)
            for result in results if isinstance(results, Iterator) else [results]:
                pipe.send(("result", result))


@contextmanager
def telling(pipe: Connection, device: torch.device) -> Iterator[None]:
    """Tell the parent how the block ended."""
    try:
        yield
    except UserError as error:
        pipe.send(("error", error))
    except Exception:  # a parent that waits must hear of whatever it was
        pipe.send(("error", RuntimeError(f"the process on {device} failed:\n{traceback.format_exc()}")))
    else:
        pipe.send(("done", None))


def leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
