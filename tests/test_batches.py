"""Out of memory, a batch is halved and the run goes on with the same answers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import CONFIGS, Letters, tiny_model, tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import answer_all, fitting_batch
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import H2O, Dense, Method
from sparq_eval.request import Answer, Request


class Small:
    """An engine whose memory holds `most` examples."""

    def __init__(self, engine: Engine, most: int, error: type[Exception]) -> None:
        self.engine, self.most, self.error = engine, most, error
        self.placement = engine.placement
        self.sizes: list[int] = []

    def answer(self, requests: Sequence[Request], *methods: Sequence[Method]) -> list[list[Answer]]:
        self.sizes.append(len(requests))
        if len(requests) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return self.engine.answer(requests, *methods)


def answers_by_index(engine: Any, requests: Sequence[Request], size: int) -> dict[int, tuple[int, ...]]:
    batches = list(answer_all(engine, requests, [Dense(), H2O(k=5)], size))
    return {answer.index: answer.tokens for batch in batches for answer in batch.answers[1]}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_batch_too_large_is_halved_and_nothing_is_lost(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(tiny_model("gqa"), Letters())
    requests = tiny_requests([9, 14, 30, 7, 21], steps=5)
    small = Small(engine, 2, error)
    assert answers_by_index(small, requests, 5) == answers_by_index(engine, requests, 5)
    assert small.sizes == [5, 2, 2, 1]
    assert "out of memory with 5 examples at a time: going on with 2" in capsys.readouterr().err


def test_one_example_that_does_not_fit_is_refused_with_advice() -> None:
    small = Small(Engine(tiny_model("gqa"), Letters()), 0, MemoryError)
    with pytest.raises(UserError, match="out of memory with one prompt of 9 tokens and 2 settings"):
        answers_by_index(small, tiny_requests([9], steps=2), 1)


def test_other_errors_are_not_taken_for_memory() -> None:
    class Broken:
        def answer(self, *_: Any) -> None:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answers_by_index(Broken(), tiny_requests([9], steps=2), 1)


def test_a_batch_is_chosen_to_fit() -> None:
    requests = tiny_requests([20, 30], steps=5)
    shape = shape_of(CONFIGS["gqa"])
    assert fitting_batch(requests, 3, shape, layers=3, itemsize=4, device=torch.device("cpu")) == 8
    assert fitting_batch(requests, 3, shape, layers=10**7, itemsize=4, device=torch.device("cpu")) == 1
