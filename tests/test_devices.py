"""Several devices give what one gives: copies in processes of their own, or layers that lie apart."""

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import in_workers
import pytest
import torch
import transformers
from fake_devices import FIRST, SECOND, fake_devices, split_in_two
from in_workers import load_tiny
from tiny import CONFIGS, Letters, tiny_model, tiny_requests
from transformers import LlamaConfig, LlamaForCausalLM

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import Batch, answer_all, fitting
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.phases import Prefill
from sparq_eval.hf.placement import Placement
from sparq_eval.hf.selfcheck import self_check
from sparq_eval.hf.workers import Workers
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.request import Answer, Request

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(torch.cuda.is_available(), reason="these take the CPU for several devices"),
]

CPU = torch.device("cpu")
METHODS: list[Method] = [
    Dense(),
    SparQ(r=3, k=4, reallocate=True),
    H2O(k=6),
    LMInfinite(k=7, sink=2),
    FlexGen(k=3),
]


def asked() -> list[Request]:
    requests = tiny_requests([5, 30, 17], steps=4)
    # rows end at different times, so that examples leave the batch on the way
    return [
        dataclasses.replace(r, until=("0", "1", "2"), context=len(r.prompt) - 3, steps=4 - r.index) for r in requests
    ]


faked = pytest.mark.skipif(
    transformers.__version__ == "5.0.0",
    reason="its position embeddings index tensors in a way that fake ones cannot be",
)


@faked
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_layers_on_two_devices_give_what_they_give_on_one(kind: str) -> None:
    forced = tiny_requests([5, 30, 17], forced=[4, 3, 1])
    engine = Engine(tiny_model(kind), Letters())
    with fake_devices():
        split = Engine(split_in_two(tiny_model(kind)), Letters())
        generated, scored = split.answer(asked(), METHODS, METHODS), split.answer(forced, METHODS)
    assert generated == engine.answer(asked(), METHODS, METHODS)
    for one, other in zip(chain(*scored), chain(*engine.answer(forced, METHODS)), strict=True):
        assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=1e-4)
        # as text, since what was not counted is not a number
        one, other = (str(dataclasses.replace(answer, loglikelihood=None)) for answer in (one, other))
        assert one == other


@faked
def test_a_model_on_two_devices_passes_its_check() -> None:
    with fake_devices():
        split = Engine(split_in_two(tiny_model("gqa")), Letters())
        assert self_check(split, tiny_requests([14, 20], forced=[4, 5]), [SparQ(r=3, k=4)])["eager"] < 1e-5


@faked
def test_each_layer_keeps_its_cache_where_it_is_and_the_session_comes_through() -> None:
    with fake_devices():
        engine = Engine(split_in_two(tiny_model("gqa")), Letters())
        cache, last = engine.prefill(asked(), METHODS, 4, tails=True, context_methods=METHODS)
        assert engine.placement == Placement((torch.device(FIRST), torch.device(SECOND)), split=True)
        assert engine.layers_by_device == {torch.device(FIRST): 1, torch.device(SECOND): 2}
        assert last.device == cache.valid.device == cache.examples.device == engine.device == torch.device(FIRST)
        for n, layer in cache.layers.items():
            tensors = [layer.k, layer.v, *layer.tails_k, *layer.tails_v, *layer.states[2], *layer.early[2]]
            assert {x.device for x in tensors} == {torch.device(SECOND if n else FIRST)}
        sessions = []
        engine.model.base_model.layers[1].register_forward_pre_hook(
            lambda _, __, named: sessions.append(named["session"]), with_kwargs=True
        )
        session = Prefill(cache)
        cache.layers.clear()
        engine.forward(torch.tensor([[1, 2]]).expand(3, -1), torch.arange(2).expand(3, -1), session, last_only=True)
        assert len(sessions) == 1 and sessions[0] is session


def test_steps_over_several_devices_are_not_recorded() -> None:
    def model(*devices: str) -> Any:
        weights = [SimpleNamespace(device=torch.device(device)) for device in devices]
        return SimpleNamespace(device=torch.device(devices[0]), parameters=lambda: iter(weights))

    assert Engine(model("cuda:1", "cuda:1"), None).can_record
    assert not Engine(model("cuda:0", "cuda:1"), None).can_record
    assert not Engine(model("cpu"), None).can_record


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(load_tiny, Placement((CPU, CPU))) as started:
        yield started


REQUESTS = tiny_requests([9, 14, 30, 7, 21, 12, 40, 3], steps=5)


def answers_of(batches: Sequence[Batch]) -> dict[int, list[Answer]]:
    return {each[0].index: list(each) for batch in batches for each in zip(*batch.answers, strict=True)}


@pytest.mark.parametrize("size", [1, 3, 64])
def test_two_processes_answer_as_one(workers: Workers, size: int) -> None:
    alone = list(answer_all(load_tiny(workers.placement), REQUESTS, METHODS, size))
    together = list(answer_all(workers, REQUESTS, METHODS, size))
    assert answers_of(together) == answers_of(alone)
    assert len(together) >= 2 and all(batch.size <= 4 and batch.peak_memory > 0 for batch in together)
    # the very requests that were asked, not copies
    assert {id(request) for batch in together for request in batch.requests} == {id(request) for request in REQUESTS}


def test_prompts_from_their_context_are_shared_too(workers: Workers) -> None:
    alone = answer_all(load_tiny(workers.placement), asked(), METHODS[:1], 2, METHODS)
    assert answers_of(list(answer_all(workers, asked(), METHODS[:1], 2, METHODS))) == answers_of(list(alone))


def test_workers_look_like_an_engine(workers: Workers) -> None:
    engine = load_tiny(workers.placement)
    forced = tiny_requests([20, 14], forced=[4, 5])
    assert (workers.device, workers.layers, workers.model.dtype) == (engine.device, engine.layers, engine.model.dtype)
    assert workers.model.config.get_text_config().to_dict() == engine.model.config.to_dict()
    assert workers.answer(REQUESTS, METHODS) == engine.answer(REQUESTS, METHODS)
    assert self_check(workers, forced, METHODS) == self_check(engine, forced, METHODS)
    assert fitting(workers, REQUESTS, [Dense()] * 3) == 8


def test_a_process_short_of_memory_halves_its_own_batches_and_nothing_is_lost(workers: Workers) -> None:
    requests = tiny_requests([9, 14, 30, 7, 21, 12, 40, 3] * 2, steps=5)
    batches = list(workers.share(in_workers.answer_in_little_memory, requests, METHODS, 4))
    assert answers_of(batches) == answers_of(list(answer_all(load_tiny(workers.placement), requests, METHODS, 4)))
    assert {batch.size for batch in batches} == {2} and len(answers_of(batches)) == 16


def test_an_error_of_one_process_comes_after_the_answers_of_the_others(workers: Workers) -> None:
    found = []
    with pytest.raises(RuntimeError, match=r"(?s)process on cpu failed:.*ZeroDivisionError: something else is wrong"):
        for batch in workers.share(in_workers.answer_all_but_the_first, REQUESTS, METHODS, 2):
            found.append(batch)
    assert set(answers_of(found)) >= {2, 3}
    with pytest.raises(UserError, match="k=0: must be more"):
        workers.call(in_workers.refuse)
    # and the processes are there for the next task
    assert len(workers.answer(REQUESTS, METHODS)) == len(METHODS)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured as Linux tells it")
def test_a_model_is_loaded_without_a_second_copy(workers: Workers, tmp_path: Path) -> None:
    sizes = dict(hidden_size=1024, intermediate_size=2816, num_attention_heads=16, num_key_value_heads=4)
    LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=4, vocab_size=2000)).save_pretrained(tmp_path)
    for mha in (False, True):
        for dtype in ("bfloat16", "float32"):
            peak, weights = workers.call(in_workers.peak_of_loading, str(tmp_path), dtype, mha)
            assert weights > 90e6 and peak < 1.25 * weights, (dtype, mha)


# the workers do not survive the tests that follow
def test_a_process_that_dies_is_one_sentence_and_what_was_answered_is_kept(workers: Workers) -> None:
    found = []
    with pytest.raises(UserError, match=r"device=cpu: the process there ended \(exit code -9, killed, .*is kept"):
        for batch in workers.share(in_workers.die, REQUESTS, METHODS, 2):
            found.append(batch)
    assert set(answers_of(found)) >= {2, 3}
    with pytest.raises(UserError, match="the process there ended"):
        list(answer_all(workers, REQUESTS, METHODS, 2))
    # the dead one aside
    assert workers.workers.pop(0).process.exitcode == -signal.SIGKILL


def test_ctrl_c_is_the_parents_alone_and_no_process_outlives_it(workers: Workers) -> None:
    [left] = workers.workers
    os.kill(left.process.pid or 0, signal.SIGINT)
    assert len(workers.answer(REQUESTS, METHODS)) == len(METHODS)
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    # tests that were started in the background ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupt.start()
            list(workers.share(in_workers.wait_long, REQUESTS, METHODS, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.process.exitcode == -signal.SIGKILL
