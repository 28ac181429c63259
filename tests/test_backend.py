"""Laws of kernels in the engine: answers are those of the methods, whatever the family and whoever shares the batch."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny import CONFIGS, DEVICE, Letters, tiny_model, tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.evaluate.backend import Kernels
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.hf.speed import STEPS, decode_speed, same_answers
from sparq_eval.kernels import cpu
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.methods.kernel import Kernel
from sparq_eval.request import Request

KINDS = sorted(CONFIGS)
SPARQ = [
    SparQ(r=3, k=4),
    SparQ(r=3, k=4, reallocate=True, copy="none"),
    SparQ(r=5, k=6, copy="int8", reallocate=True),
    SparQ(r=5, k=6, copy="fp8"),
    SparQ(r=8, k=500, reallocate=True),
]
OTHERS: list[Method] = [Dense(), H2O(k=6), LMInfinite(k=7, sink=2), FlexGen(k=3), SparQ(r=3, k=4, rank_by="weights")]


def on_cpu(method: Method) -> Kernel | None:
    if DEVICE != "cpu":
        pytest.skip("tiny models are on a GPU here")
    return cpu.KERNELS[type(method)](method) if type(method) in cpu.KERNELS else None


def in_triton(method: Method) -> Kernel | None:
    pytest.importorskip("triton", reason="triton cannot be installed here")
    from sparq_eval.kernels import cuda

    return cuda.KERNELS[type(method)](method)


def engine_of(kind: str, kernel_for: Callable[[Method], Kernel | None], methods: list[Method]) -> tuple:
    shape = shape_of(CONFIGS[kind])
    resolved = [method.resolve(shape) for method in methods]
    return Engine(tiny_model(kind), Letters(), kernel_for=kernel_for), resolved


def assert_same_as_torch(
    engine: Engine, methods: list[Method], requests: list[Request], *context: list[Method]
) -> None:
    fast = engine.answer(requests, methods, *context)
    slow = Engine(engine.model, engine.tokenizer).answer(requests, methods, *context)
    for method, ours, theirs in zip(
        [*methods, *(method for more in context for method in more)], fast, slow, strict=True
    ):
        for one, other in zip(ours, theirs, strict=True):
            assert one.tokens == other.tokens, method
            assert one.certificate == other.certificate
            if not isinstance(method, H2O | FlexGen):  # dropped scores are not read, and a chosen own value is not seen
                assert one.traffic == pytest.approx(other.traffic)


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_cpu_kernels_are_those_of_the_methods(kind: str) -> None:
    engine, methods = engine_of(kind, on_cpu, SPARQ)
    assert_same_as_torch(engine, methods, tiny_requests([5, 30, 17, 41], steps=9))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_triton_kernels_are_those_of_the_methods(kind: str) -> None:
    engine, methods = engine_of(kind, in_triton, [SPARQ[0], SPARQ[2], *OTHERS])
    assert_same_as_torch(engine, methods, tiny_requests([23] if kind == "mha" else [5, 23], steps=3))


@pytest.mark.parametrize("kernel_for", [on_cpu, in_triton])
def test_kernels_start_from_a_context_as_methods_do(kernel_for: Callable[[Method], Kernel | None]) -> None:
    engine, methods = engine_of("gqa", kernel_for, [SPARQ[2], H2O(k=6)] if kernel_for is in_triton else SPARQ)
    requests = [
        dataclasses.replace(request, context=length - 2)
        for request, length in zip(tiny_requests([9, 20], steps=2), [9, 20], strict=True)
    ]
    assert_same_as_torch(engine, methods, requests, methods)


def test_an_int8_copy_is_scaled_by_the_context_where_a_method_starts_from_it() -> None:
    """Of a prompt that is mostly question, keys of the question are larger than any of the context's."""
    engine, methods = engine_of("gqa", on_cpu, [SPARQ[2], SparQ(r=5, k=6, copy="int8")])
    requests = [dataclasses.replace(request, context=10) for request in tiny_requests([40] * 8, steps=12)]
    assert_same_as_torch(engine, methods, requests, methods)


def test_examples_that_end_early_leave_the_kernels_caches_too() -> None:
    engine, methods = engine_of("mha", on_cpu, SPARQ)
    requests = [
        dataclasses.replace(request, steps=steps)
        for request, steps in zip(tiny_requests([12, 30, 17, 9], steps=1), [2, 3, 12, 2], strict=True)
    ]
    assert_same_as_torch(engine, methods, requests)


def test_speed_is_of_each_setting_alone_and_kernels_are_held_against_torch() -> None:
    engine, methods = engine_of("gqa", on_cpu, [SPARQ[0], Dense()])
    requests = tiny_requests([12, 30], steps=5)
    for speed in decode_speed(engine, requests, methods):
        assert 0 < speed.low <= speed.seconds <= speed.high
        assert (speed.batch, speed.prompt) == (2, 30)
    assert same_answers(engine, requests, methods) == [2, 2]
    assert STEPS >= 10


def test_a_backend_without_any_kernel_is_refused_and_names_what_is_missing() -> None:
    shape, device = shape_of(CONFIGS["gqa"]), torch.device("cpu")
    Kernels("kernel", device, shape).check([Dense(), SPARQ[0]])
    Kernels("auto", device, shape).check([Dense()])
    with pytest.raises(UserError, match=r"^backend=kernel: there is no kernel of Dense on cpu"):
        Kernels("kernel", device, shape).check([Dense()])


def test_torch_answers_unless_kernels_are_wanted() -> None:
    shape, device = shape_of(CONFIGS["gqa"]), torch.device("cpu")
    assert Kernels("torch", device, shape)(SPARQ[0]) is None
    assert Kernels("auto", device, shape)(SPARQ[0]) is None
    assert Kernels("kernel", device, shape)(SPARQ[0]) is not None
    assert Kernels("kernel", device, shape)(Dense()) is None
