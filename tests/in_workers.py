"""What tests have done in other processes, which import it by name: nothing here that takes long to import."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tiny import Letters, tiny_model

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import Batch, answer_all
from sparq_eval.hf.checkpoint import open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.placement import Placement
from sparq_eval.methods import Method
from sparq_eval.request import Answer, Request


def load_tiny(_: Placement) -> Engine:
    return Engine(tiny_model("gqa"), Letters())


class Small:
    """An engine whose memory holds two examples."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.placement = engine, engine.placement

    def answer(self, requests: Sequence[Request], *methods: Sequence[Method]) -> list[list[Answer]]:
        if len(requests) > 2:
            raise MemoryError
        return self.engine.answer(requests, *methods)


def answer_in_little_memory(engine: Any, *arguments: Any) -> Iterator[Batch]:
    small: Any = Small(engine)
    return answer_all(small, *arguments)


def answer_all_but_the_first(engine: Any, requests: Sequence[Request], *arguments: Any) -> Iterator[Batch]:
    if requests[0].index == 0:
        raise ZeroDivisionError("something else is wrong")
    yield from answer_all(engine, requests, *arguments)


def refuse(_: Any) -> None:
    raise UserError("k=0: must be more")


def die(engine: Any, requests: Sequence[Request], *arguments: Any) -> Iterator[Batch]:
    if requests[0].index == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from answer_all(engine, requests, *arguments)


def wait_long(*_: Any) -> Iterator[Batch]:
    time.sleep(100)
    yield from ()


def peak_of_loading(_: Any, folder: str, dtype: str, mha: bool) -> tuple[int, int]:
    """Bytes held at most while a model is loaded, apart from those of files, and the bytes of its weights."""
    before, peak, done = held(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, held())

    checkpoint = open_checkpoint("m", folder, mha=mha)
    watching = threading.Thread(target=watch)
    watching.start()
    model = checkpoint.load(dtype)
    done.set()
    watching.join()
    return max(peak, held()) - before, sum(x.numel() * x.element_size() for x in model.parameters())


def held() -> int:
    [kib] = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(kib) * 1024
