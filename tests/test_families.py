"""Every family under our attention answers as under transformers' own: MHA, GQA, MQA, windows, caps, sinks, norms."""

import pytest
import torch
from families import BINDING, FAMILIES, engine_of, family_model
from tiny import DEVICE, VOCABULARY, naive_logits, tiny_requests
from torch import Tensor
from transformers import PreTrainedModel

from sparq_eval.hf.families import check_family, context_length, shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, SparQ
from sparq_eval.request import Request

pytestmark = pytest.mark.models

# for a sum over some ten tokens; in half precision, eager attention is as far from its own float32
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.06, torch.bfloat16: 0.5}

families = pytest.mark.parametrize("family", FAMILIES)


def loglikelihood(logits: Tensor, request: Request) -> float:
    """Of the forced tokens, from the logits (T, V) that came before them."""
    forced = torch.tensor(request.forced, device=logits.device)[:, None]
    return logits.float().log_softmax(dim=-1).gather(-1, forced).sum().item()


@torch.inference_mode()
def eager_loglikelihood(model: PreTrainedModel, request: Request) -> float:
    ids = torch.tensor([request.prompt + request.forced], device=DEVICE)
    return loglikelihood(model(input_ids=ids, use_cache=False).logits[0, len(request.prompt) - 1 : -1], request)


@families
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_forced_text_is_as_likely_as_with_eager_attention(family: str, dtype: torch.dtype) -> None:
    requests = tiny_requests([5, 33, 20], forced=[8, 9, 7])
    [answers] = engine_of(family, dtype).answer(requests, [Dense()])
    eager = family_model(family, "eager", dtype)
    for request, answer in zip(requests, answers, strict=True):
        expected = eager_loglikelihood(eager, request)
        assert answer.loglikelihood == pytest.approx(expected, abs=TOLERANCE[dtype]), request.id


@families
def test_dense_answers_are_those_of_generate_alone(family: str) -> None:
    requests = tiny_requests([5, 33, 20], steps=8)
    [answers] = engine_of(family).answer(requests, [Dense()])
    stock = family_model(family, "eager")
    for request, answer in zip(requests, answers, strict=True):
        prompt = torch.tensor([request.prompt], device=DEVICE)
        options = dict(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        out = stock.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert answer.tokens == tuple(out[0, prompt.shape[1] :].tolist()), request.id


@families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_generates_with_every_method(family: str, dtype: torch.dtype) -> None:
    methods = [method.resolve(shape_of(FAMILIES[family])) for method in BINDING]
    for answers in engine_of(family, dtype).answer(tiny_requests([5, 33], steps=4), methods):
        assert all(answer.finite and len(answer.tokens) == 4 for answer in answers)


@families
def test_an_unlimited_budget_is_dense(family: str) -> None:
    shape = shape_of(FAMILIES[family])
    unlimited = [SparQ(r=shape.head_size, k=99, reallocate=False), SparQ(r=shape.head_size, k=99, reallocate=True)]
    unlimited += [H2O(k=99), LMInfinite(k=99), FlexGen(k=99)]
    requests = tiny_requests([5, 33], forced=[6, 8])
    dense, *others = engine_of(family).answer(requests, [Dense(), *unlimited])
    for method, answers in zip(unlimited, others, strict=True):
        for answer, reference in zip(answers, dense, strict=True):
            assert answer.loglikelihood == pytest.approx(reference.loglikelihood, abs=1e-4), method
            assert answer.certificate.sparse_steps == 0


@families
def test_a_binding_budget_scores_the_same_in_one_pass_step_by_step_and_naively(family: str) -> None:
    engine = engine_of(family)
    methods = [method.resolve(shape_of(FAMILIES[family])) for method in BINDING]
    requests = tiny_requests([5, 33], forced=[6, 8])
    quick, slow = (engine.answer(requests, methods, stepwise=stepwise) for stepwise in (False, True))
    for method, fast, steps in zip(methods, quick, slow, strict=True):
        for request, one, other in zip(requests, fast, steps, strict=True):
            naive = loglikelihood(naive_logits(engine.model, method, request, request.forced), request)
            assert one.loglikelihood == pytest.approx(naive, abs=1e-3), f"{method} on {request.id}"
            assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=1e-3), f"{method} on {request.id}"
            assert one.traffic == pytest.approx(other.traffic), f"{method} on {request.id}"


def test_sinks_matter() -> None:
    requests = tiny_requests([5, 33], forced=[6, 8])
    engine = engine_of("gpt-oss")
    before = engine.answer(requests, BINDING)
    for layer in engine.model.model.layers:
        layer.self_attn.sinks.data += 2
    for method, one, other in zip(BINDING, before, engine.answer(requests, BINDING), strict=True):
        for a, b in zip(one, other, strict=True):
            assert abs(a.loglikelihood - b.loglikelihood) > 0.01, method


def test_long_rope_ends_where_its_frequencies_change() -> None:
    assert context_length(FAMILIES["phi 3"]) == 128
    assert context_length(FAMILIES["llama gqa"]) == 256
    assert VOCABULARY < 128  # so that no prompt here is longer


@families
def test_a_family_that_can_be_replaced_is_not_refused(family: str) -> None:
    check_family(FAMILIES[family])
