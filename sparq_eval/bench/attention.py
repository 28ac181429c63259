"""One decode step of attention: every dense back end that is there beside the methods and their kernels, case by case.

A case is a batch and its sizes. What is timed must first be right (see `gate`); what is wrong is not timed.
"""

import gc
import warnings
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from sparq_eval.bench.case import Case, Runner
from sparq_eval.bench.gate import compare, is_rough, prompt_of
from sparq_eval.bench.sets import Sets
from sparq_eval.bench.timing import time_calls
from sparq_eval.kernels import find_kernel
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.methods.kernel import Kernel
from sparq_eval.methods.sparq import Kept
from sparq_eval.progress import Advance
from sparq_eval.results.bench_rows import AttentionRow
from sparq_eval.step import Step


def measure(
    cases: Sequence[Case],
    choose: Callable[[Case], Sequence[Runner]],
    tell: Callable[[AttentionRow], None],
    advance: Advance,
) -> None:
    """Time every runner of every case; rows are told as they come."""
    for case in cases:
        runners = choose(case)
        copies = {runner.copy for runner in runners if runner.copy}
        sets = Sets(case, copies)
        for runner in runners:
            tell(time_one(case, runner, sets.enough(bytes_of(case, runner.method))))
            advance(1)
        del sets
        gc.collect()
        if case.device.type == "cuda":
            torch.cuda.empty_cache()


def time_one(case: Case, runner: Runner, sets: Sequence[dict[str | None, Step]]) -> AttentionRow:
    method, D = runner.method, case.D
    r, k = getattr(method, "r", None), getattr(method, "k", None)
    read = r if r is not None else (D if not isinstance(method, LMInfinite | H2O) else 0)
    chosen = min(k, case.S) if k is not None else case.S
    flops = 2.0 * case.B * case.H * case.G * (case.S * read + 2 * chosen * D if k is not None else 2 * case.S * D)
    row: dict[str, Any] = dict(
        implementation=runner.name, method=name_of(method), backend=runner.backend,
        B=case.B, H=case.H, G=case.G, D=D, S=case.S, r=r, k=k, copy=getattr(method, "copy", None),
        reallocate=getattr(method, "reallocate", None), dtype=str(case.dtype).removeprefix("torch."),
        bytes=bytes_of(case, method), flops=flops,
    )  # fmt: skip
    if not sets:
        return AttentionRow(**row | {"note": "out of memory"})
    try:
        with warnings.catch_warnings():
            # a back end that does not take a case warns of every condition that it looked at
            warnings.simplefilter("ignore", UserWarning)
            error, wrong = error_of(runner, sets[0][runner.copy])
        row["error"] = error if isfinite(error) else None
        if wrong:
            return AttentionRow(**row | {"note": wrong})
        steps = [each[runner.copy] for each in sets]
        started = [(step, runner.start(step)) for step in steps]
        calls = [lambda step=step, state=state: runner.call(step, state) for step, state in started]
        timed = time_calls(calls, case.device)
    except torch.OutOfMemoryError:
        return AttentionRow(**row | {"note": "out of memory"})
    except (RuntimeError, ValueError, NotImplementedError, ImportError) as error:
        # a back end that does not take this case says so by raising
        return AttentionRow(**row | {"note": str(error).strip().splitlines()[0][:200]})
    return AttentionRow(**row, seconds=timed.seconds, low=timed.low, high=timed.high, repeats=timed.repeats)


def bytes_of(case: Case, method: Method) -> float:
    """The least that a step must move."""
    return method.transfers(case.S - 1, case.shape) * case.B * case.H * case.dtype.itemsize


def name_of(method: Method) -> str:
    return {Dense: "dense", SparQ: "sparq", H2O: "h2o", LMInfinite: "lm_infinite", FlexGen: "flexgen"}[type(method)]


def error_of(runner: Runner, step: Step) -> tuple[float, str]:
    """How far a runner is from its method, and what is wrong with that; "" for nothing."""

    def call(other: Step) -> Tensor:
        return runner.call(other, runner.start(other))

    dtype = step.k.dtype
    rough = is_rough(runner.method, dtype, in_triton=step.k.is_cuda and runner.backend == "kernel")
    away = compare(runner.method, step, call, rough)
    return away.whole, away.wrong(dtype, rough)


def torch_runner(method: Method) -> Runner:
    """The method as it is evaluated."""
    name = f"{name_of(method)} torch"
    return Runner(name, "torch", method, state_of(method), lambda step, state: method.attend(step, state)[0].out)


def kernel_runner(method: Method, case: Case) -> Runner:
    kernel = find_kernel(method, case.device, case.shape)
    label = "triton" if case.device.type == "cuda" else "cpu"
    copy = kernel.copy
    return Runner(
        f"{name_of(method)} {label}", "kernel", method, state_of(method, kernel),
        lambda step, state: kernel.attend(step, state)[0].out, copy,
    )  # fmt: skip


def state_of(method: Method, kernel: Kernel | None = None) -> Callable[[Step], Any]:
    """What is kept when the step comes."""

    def start(step: Step) -> Any:
        if isinstance(method, SparQ):
            # the running sum is that before the step's own token
            total = step.v[:, :, :-1].sum(dim=2, dtype=torch.float32) if method.reallocate else None
            return Kept(total, None if step.columns is None else step.columns.scale)
        prompt = prompt_of(step)
        return kernel.prefill(prompt, 1) if kernel else method.prefill(prompt)

    return start
