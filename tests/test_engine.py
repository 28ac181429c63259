"""Laws of the engine: every fast path equals the obvious one, and nothing depends on company."""

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIGS, DEVICE, Letters, naive_logits, tiny_model, tiny_requests

from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.generation import lengths_of, stop_at
from sparq_eval.hf.recorded import Recorded
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.request import Answer, Request

pytestmark = pytest.mark.models

KINDS = sorted(CONFIGS)
METHODS: list[Method] = [
    Dense(),
    SparQ(r=3, k=4),
    SparQ(r=3, k=4, reallocate=True),
    SparQ(r=8, k=500, reallocate=True),
    H2O(k=6),
    H2O(k=500),
    LMInfinite(k=7, sink=2),
    FlexGen(k=3),
]


def engine_of(kind: str) -> tuple[Engine, list[Method]]:
    shape = shape_of(CONFIGS[kind])
    return Engine(tiny_model(kind), Letters()), [method.resolve(shape) for method in METHODS]


def assert_same(one: Answer, other: Answer) -> None:
    """Equal in all that does not come from floating-point sums; those nearly so."""
    exact = dataclasses.replace
    assert exact(one, loglikelihood=None, traffic=other.traffic) == exact(other, loglikelihood=None)
    assert one.traffic == pytest.approx(other.traffic, nan_ok=True) or math.isnan(one.traffic.counted)
    if one.loglikelihood is not None:
        assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_answers_are_those_of_generate(kind: str) -> None:
    engine, _ = engine_of(kind)
    stock = tiny_model(kind, "eager")
    requests = tiny_requests([5, 30, 17, 41], steps=12)
    [answers] = engine.answer(requests, [Dense()])
    for request, answer in zip(requests, answers, strict=True):
        prompt = torch.tensor([request.prompt], device=DEVICE)
        options = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        out = stock.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert answer.tokens == tuple(out[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_together_is_decoding_naively(kind: str) -> None:
    engine, methods = engine_of(kind)
    requests = tiny_requests([5, 30, 17, 41], steps=14)
    for method, answers in zip(methods, engine.answer(requests, methods), strict=True):
        for request, answer in zip(requests, answers, strict=True):
            logits = naive_logits(engine.model, method, request, answer.tokens)
            assert answer.tokens == tuple(logits.argmax(dim=-1).tolist()), f"{method} on {request.id}"


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_scores_are_stepwise_scores_and_naive_scores(kind: str) -> None:
    engine, methods = engine_of(kind)
    requests = tiny_requests([5, 30, 17, 41], forced=[12, 9, 1, 15])
    quick = engine.answer(requests, methods)
    slow = engine.answer(requests, methods, stepwise=True)
    for method, fast, steps in zip(methods, quick, slow, strict=True):
        for request, one, other in zip(requests, fast, steps, strict=True):
            assert_same(one, other)
            logprobs = naive_logits(engine.model, method, request, request.forced).log_softmax(dim=-1)
            naive = logprobs.gather(-1, torch.tensor(request.forced, device=DEVICE)[:, None]).sum().item()
            assert one.loglikelihood == pytest.approx(naive, abs=1e-3), f"{method} on {request.id}"


@pytest.mark.parametrize("forced", [None, [12, 9, 1, 15, 3, 8]], ids=["generated", "scored"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_batch_nor_company_changes_an_answer(kind: str, forced: list[int] | None) -> None:
    engine, methods = engine_of(kind)
    requests = tiny_requests([5, 30, 17, 41, 8, 23], steps=14, forced=forced)
    # rows end at different times, so that examples leave the batch on the way
    requests = [dataclasses.replace(r, until=("0", "1", "2"), steps=14 - 2 * r.index) for r in requests]
    together = engine.answer(requests, methods)
    for n, method in enumerate(methods):
        for b, request in enumerate(requests):
            [[alone]] = engine.answer([request], [method])
            assert_same(alone, together[n][b])


def test_counts_are_the_formulas_where_the_budget_binds() -> None:
    engine, _ = engine_of("mha")
    [request] = tiny_requests([60], steps=2)
    H, D, S, layers = 4, 8, 60, 3
    expected = {
        Dense(): 2 * S * D + 2 * D,
        SparQ(r=3, k=16, reallocate=True): S * 3 + 2 * 16 * D + 5 * D,
        SparQ(r=3, k=16, reallocate=False): S * 3 + 2 * 16 * D + 3 * D,
        LMInfinite(k=20, sink=4): 2 * 20 * D,
        H2O(k=16): 2 * 16 * D + 2 * D + 61 + 17,
    }
    for method, [answer] in zip(expected, engine.answer([request], list(expected)), strict=True):
        assert answer.traffic.counted == expected[method] * H * layers, method
        assert answer.traffic.counted_dense == (2 * S * D + 2 * D) * H * layers
        assert answer.traffic.nominal == method.transfers(S, shape_of(CONFIGS["mha"])) * H * layers


def test_an_unlimited_budget_is_dense() -> None:
    for kind in KINDS:
        engine, _ = engine_of(kind)
        requests = tiny_requests([5, 30, 17], forced=[6, 7, 8])
        unlimited: list[Method] = [SparQ(r=8, k=500, reallocate=False), SparQ(r=8, k=500, reallocate=True)]
        unlimited += [H2O(k=500), LMInfinite(k=500), FlexGen(k=500)]
        dense, *others = engine.answer(requests, [Dense(), *unlimited])
        for method, answers in zip(unlimited, others, strict=True):
            for answer, reference in zip(answers, dense, strict=True):
                assert answer.loglikelihood == pytest.approx(reference.loglikelihood, abs=1e-3), method
                assert answer.certificate.sparse_steps == 0


def test_a_stop_string_counts_only_after_some_text() -> None:
    assert stop_at("\n Paris\nQuestion", ["\n"]) == len("\n Paris")
    assert stop_at('"\n Paris\nQuestion', ["\n"]) == len('"\n Paris')
    assert stop_at(" \n ", ["\n"]) is None
    assert stop_at("Paris", []) is None


def of_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd")), st.integers(0, 9))
def test_a_token_adds_the_characters_that_it_makes_whole(text: str, kept: int) -> None:
    tokens, output = list(text.encode()), text[: len(text) - kept] if kept < len(text) else ""
    found = lengths_of(tokens, output, of_bytes)
    whole = [length for letter in text for length in (*[0] * (len(letter.encode()) - 1), 1)]
    assert list(found) == [*whole[: len(output.encode())], *[0] * (len(tokens) - len(output.encode()))]


def with_contexts(requests: list[Request]) -> list[Request]:
    return [dataclasses.replace(r, context=max(1, len(r.prompt) - 3 - 2 * r.index)) for r in requests]


@pytest.mark.parametrize("kind", KINDS)
def test_starting_from_the_context_is_decoding_the_question_naively(kind: str) -> None:
    engine, methods = engine_of(kind)
    requests = with_contexts(tiny_requests([5, 30, 17, 41], steps=8))
    answers = engine.answer(requests, methods[:2], methods)
    assert len(answers) == 2 + len(methods)
    for method, others in zip(methods, answers[2:], strict=True):
        for request, answer in zip(requests, others, strict=True):
            question = request.prompt[request.context :]
            context = dataclasses.replace(request, prompt=request.prompt[: request.context])
            logits = naive_logits(engine.model, method, context, question + answer.tokens)
            assert answer.tokens == tuple(logits.argmax(dim=-1)[len(question) :].tolist()), f"{method} on {request.id}"
            assert answer.certificate.steps == len(question) + len(answer.tokens) - 1
            assert answer.certificate.calls == answer.certificate.steps * engine.layers


def test_starting_from_the_context_changes_no_other_answer() -> None:
    engine, methods = engine_of("gqa")
    requests = with_contexts(tiny_requests([5, 30, 17, 41], steps=8))
    alone = engine.answer(requests, methods)
    beside = engine.answer(requests, methods, methods)
    for one, other in zip(alone, beside[: len(methods)], strict=True):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_step_gives_what_single_launches_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, methods = engine_of(kind)
    requests = with_contexts(tiny_requests([5, 30, 17, 41], steps=14))
    # rows end at different times, so that examples leave the batch on the way
    requests = [dataclasses.replace(r, until=("0", "1", "2"), steps=14 - 3 * r.index) for r in requests]
    launched = engine.answer(requests, methods, methods)
    if DEVICE == "cpu":
        # a graph cannot be recorded here, but what it would do can be done: the same shapes, the same memory
        def record(self: Recorded) -> None:
            self.graph = SimpleNamespace(replay=lambda: setattr(self, "logits", self.step(in_place=True)))

        monkeypatch.setattr(Recorded, "record", record)
    engine.can_record = True
    for one, other in zip(launched, engine.answer(requests, methods, methods), strict=True):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
