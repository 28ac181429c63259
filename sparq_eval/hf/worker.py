"""A process with an engine of its own, which runs one task after another.

Threads would not do: decoding is bound by launching kernels, which happens under one interpreter's lock.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

import torch
from transformers.utils import logging

from sparq_eval.errors import UserError
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.placement import Placement

DONE = object()


@dataclass(eq=False)
class Worker:
    """The parent's end of a process that runs one task after another, beginning with loading its engine."""

    device: torch.device
    process: BaseProcess
    pipe: Connection
    busy: bool = True

    @classmethod
    def start(cls, load: Callable[[Placement], Engine], device: torch.device, threads: int) -> Self:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, load, device, threads), daemon=True)
        with interrupts_ignored():
            process.start()
        # the other end is the process's alone: it closes when the process dies
        there.close()
        return cls(device, process, here)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.busy = False

    def begin(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        if self.busy:
            raise RuntimeError(f"the process on {self.device} is still at another task")
        # a process that is gone is noticed when its result is asked for
        with suppress(OSError):
            self.pipe.send((function, arguments, named))
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
