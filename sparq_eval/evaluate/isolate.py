"""A setting that raises or runs out of memory fails alone: a group that cannot be answered is halved."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import Batch, OutOfMemory
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.hf.workers import Workers, on_one
from sparq_eval.methods import Method
from sparq_eval.progress import say
from sparq_eval.request import Request

Group = tuple[int, ...]


def apart(
    engine: Engine | Workers,
    group: Group,
    ask: Callable[[Group], Iterable[Batch]],
    fail: Callable[[int, str], None],
) -> Iterator[tuple[Group, Batch]]:
    """Batches that `ask` answers for the group, and for which part of it. `fail` is told each setting that cannot be.

    ask: answers what is missing of a part. Halves go on without each other: what they share is prefilled again, which
    happens once for a failure and not once for an example.
    """
    parts = [group]
    while parts:
        part = parts.pop(0)
        try:
            for batch in ask(part):
                yield part, batch
        except Exception as error:  # whatever a method raises is its setting's; what is not is raised again
            if not blames_a_setting(error) or not usable(engine):
                raise
            why = reason(error)
        else:
            continue
        if len(part) == 1:
            fail(part[0], why)
        else:
            say(f"{len(part)} settings could not be answered together ({why}): going on with halves of them")
            parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]


def blames_a_setting(error: Exception) -> bool:
    """Whether an error may come from what a setting does: not one that stops the run, nor a full disk or a lost hub."""
    if isinstance(error, OutOfMemory):
        return True
    return not isinstance(error, UserError | OSError) and not stops_the_job(error)


def stops_the_job(error: BaseException) -> bool:
    """Whether the launcher raised it in our midst: its handler of signals runs wherever we are, and ends the job."""
    trace = error.__traceback__
    while trace:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("submitit."):
            return True
        trace = trace.tb_next
    return False


@on_one
def usable(engine: Engine) -> bool:
    """Whether the device still computes: after some errors a GPU does nothing more for this process."""
    try:
        return bool(torch.ones(1, device=engine.device).add(1).item() == 2)
    except RuntimeError:
        return False


def reason(error: BaseException) -> str:
    """An error in one line: of a worker's traceback, the last."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError):
        return str(error)
    if "Traceback (most recent call last):" in lines:
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def checked(engine: Engine | Workers, requests: Sequence[Request], methods: Sequence[Method]) -> dict[str, Any]:
    """The self-check of those methods that do not raise; the others are `not_checked`, and fail when they are asked."""
    try:
        return self_check(engine, requests, methods)
    except Exception as error:  # as above: a method may raise anything
        if not blames_a_setting(error):
            raise
        kinds = list({type(method): method for method in methods}.values())
        sound = [method for method in kinds if passes(engine, requests, method)]
        if not sound:
            raise
        found = self_check(engine, requests, sound)
        left = {type(method).__name__ for method in kinds} - {type(method).__name__ for method in sound}
        return found | {"not_checked": sorted({*found["not_checked"], *left})}


def passes(engine: Engine | Workers, requests: Sequence[Request], method: Method) -> bool:
    try:
        self_check(engine, requests, [method])
    except Exception as error:  # as above
        if not blames_a_setting(error):
            raise
        return False
    return True
