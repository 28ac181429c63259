"""One decode step of attention: every dense back end that is there beside the methods and their kernels, case by case.

A case is a batch and its sizes. What is timed must first be right: each implementation's result, with memory poisoned
that it did not write, is compared with the method in float64 on inputs drawn for this case; one that fails is not
timed.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparq_eval.bench.case import SPREAD, Case, Runner, steps_of
from sparq_eval.bench.timing import time_calls
from sparq_eval.kernels import find_kernel
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.methods.kernel import Kernel
from sparq_eval.methods.sparq import Kept
from sparq_eval.ops import Prompt
from sparq_eval.progress import Advance
from sparq_eval.results.bench_rows import AttentionRow
from sparq_eval.step import Step, Visible

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


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
        try:
            sets = [steps_of(case, copies) for _ in range(max(1, min(8, SPREAD // case.cache_bytes)))]
        except torch.OutOfMemoryError:
            sets = []
        for runner in runners:
            tell(time_one(case, runner, sets))
            advance(1)
        del sets
        gc.collect()
        if case.device.type == "cuda":
            torch.cuda.empty_cache()


def time_one(case: Case, runner: Runner, sets: Sequence[dict[str | None, Step]]) -> AttentionRow:
    method, D = runner.method, case.D
    moved = method.transfers(case.S - 1, case.shape) * case.B * case.H * case.dtype.itemsize
    r, k = getattr(method, "r", None), getattr(method, "k", None)
    read = r if r is not None else (D if not isinstance(method, LMInfinite | H2O) else 0)
    chosen = min(k, case.S) if k is not None else case.S
    flops = 2.0 * case.B * case.H * case.G * (case.S * read + 2 * chosen * D if k is not None else 2 * case.S * D)
    row: dict[str, Any] = dict(
        implementation=runner.name, method=name_of(method), backend=runner.backend,
        B=case.B, H=case.H, G=case.G, D=D, S=case.S, r=r, k=k, copy=getattr(method, "copy", None),
        reallocate=getattr(method, "reallocate", None), dtype=str(case.dtype).removeprefix("torch."),
        bytes=float(moved), flops=flops,
    )  # fmt: skip
    if not sets:
        return AttentionRow(**row | {"note": "out of memory"})
    try:
        error = error_of(case, runner, sets)
        row["error"] = error
        if not error <= tolerance(case, runner):
            return AttentionRow(**row | {"note": f"wrong: differs from float64 by {error:.2g}"})
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


def tolerance(case: Case, runner: Runner) -> float:
    """torch's own SparQ rounds its scores to the dtype, so that it may choose other positions than float64 does."""
    rough = 10 if runner.backend == "torch" and case.dtype != torch.float32 else 1
    return TOLERANCE[case.dtype] * rough


def name_of(method: Method) -> str:
    return {Dense: "dense", SparQ: "sparq", H2O: "h2o", LMInfinite: "lm_infinite", FlexGen: "flexgen"}[type(method)]


def error_of(case: Case, runner: Runner, sets: Sequence[dict[str | None, Step]]) -> float:
    """Norm of the difference to the method in float64, over its norm, on a query drawn for it, in poisoned memory."""
    base = sets[0][runner.copy]
    r = getattr(runner.method, "r", None)
    step = replace(base, q=untied(case, r) if r is not None and r < case.D else torch.randn_like(base.q))
    with poisoned():
        out = runner.call(step, runner.start(step)).double()
    ours = torch.zeros((), dtype=torch.float64, device=case.device)
    norm = ours.clone()
    for b in range(case.B):
        reference = in_float64(runner.method, step, b)
        ours += (out[b : b + 1] - reference).square().sum()
        norm += reference.square().sum()
    error = (ours / norm).sqrt().item()
    return error if error == error else float("inf")


def in_float64(method: Method, step: Step, b: int) -> Tensor:
    """The method's result for one example, in float64."""
    q, k, v = (x[b : b + 1].double() for x in (step.q, step.k, step.v))
    exact = Step(q, k, v, Visible(step.visible.valid[b : b + 1], 1), step.scale)
    state: Any = None
    if isinstance(method, SparQ):
        scale = None if step.columns is None or step.columns.scale is None else step.columns.scale[b : b + 1]
        state = Kept(None, scale)
    elif isinstance(method, H2O):
        state = method.prefill(prompt_of(exact))
    return method.attend(exact, state)[0].out


def prompt_of(step: Step) -> Prompt:
    """What came before the step's token, with scores for heavy hitters that are the same in every dtype."""
    visible = Visible(step.visible.valid[:, :-1], 1)
    prompt = Prompt(step.q, step.k[:, :, :-1], step.v[:, :, :-1], visible, step.scale)
    # sums of values do for chance: they are the same for an example alone
    prompt.__dict__["column_sums"] = prompt.v.sum(dim=-1, dtype=torch.float64).sigmoid().float()
    return prompt


def untied(case: Case, r: int) -> Tensor:
    """A query whose r-th and r+1-th largest components differ, over each group: which is taken is not left open."""
    q = torch.randn(case.B, case.H, case.G, 1, case.D, device=case.device, dtype=case.dtype)
    for _ in range(20):
        size = q.float().abs().sum(dim=2).sort(dim=-1, descending=True).values[..., 0, :]  # (B, H, D)
        tied = size[..., r - 1] - size[..., r] < 1e-5 * size[..., r]
        if not tied.any():
            break
        q = torch.where(tied[:, :, None, None, None], torch.randn_like(q), q)
    return q


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is taken and not written holds not-a-number."""
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)


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
