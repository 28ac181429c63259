"""What is timed is right: right runners pass the bench's gate, and one wrong head or position does not."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sparq_eval.bench.attention import kernel_runner, time_one, torch_runner
from sparq_eval.bench.case import Case, Runner, steps_of
from sparq_eval.bench.dense import dense_runners
from sparq_eval.bench.gate import in_float64, left_open, parts, prompt_of, settle, summed
from sparq_eval.bench.sets import MOST, TIMES, Sets, count, set_bytes, size_of
from sparq_eval.bench.timing import Timed
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.ops import logits, softmax
from sparq_eval.step import Step

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CPU = torch.device("cpu")
METHODS: list[Method] = [Dense(), H2O(96), LMInfinite(96), FlexGen(96), SparQ(r=16, k=96, reallocate=True)]


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparq_eval.bench.attention.time_calls", lambda calls, device: Timed(1.0, 1.0, 1.0, 1))


def case_of(dtype: torch.dtype = torch.float32, B: int = 2, G: int = 1) -> Case:
    return Case(B, 3, G, 32, 1000, dtype, CPU)


def note_of(case: Case, runner: Runner) -> str | None:
    """Why a runner was not timed; None if it was."""
    row = time_one(case, runner, [steps_of(case, {runner.copy} if runner.copy else set())])
    assert (row.seconds is None) == (row.note is not None)
    return row.note


def wrong(runner: Runner, spoil: Any) -> Runner:
    """The runner with its result spoiled."""
    return replace(runner, call=lambda step, state: spoil(runner.call(step, state).clone()))


def zero_a_head(out: Tensor) -> Tensor:
    out[-1, 1, 0] = 0
    return out


@pytest.mark.parametrize("G", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_runners_are_timed(dtype: torch.dtype, G: int, seed: int) -> None:
    case = case_of(dtype, G=G)
    runners = [*dense_runners(case), *map(torch_runner, [*METHODS, SparQ(r=16, k=96, rank_by="weights")])]
    runners += [
        kernel_runner(SparQ(r=16, k=96, copy=copy).resolve(case.shape), case) for copy in ("same", "fp8", "int8")
    ]
    for runner in runners:
        assert note_of(case, runner) is None, runner.name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_one_head_of_many_that_is_not_written_is_refused(method: Method, dtype: torch.dtype, seed: int) -> None:
    case = case_of(dtype, B=100)
    runners = [torch_runner(method)] + ([kernel_runner(method, case)] if isinstance(method, SparQ) else [])
    for runner in runners:
        assert (note_of(case, wrong(runner, zero_a_head)) or "").startswith("wrong: a head differs"), runner.name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_heads_that_are_judged_one_by_one_are_judged_as_together(
    method: Method, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(torch.float16)
    step = steps_of(case, set())[None]
    together = list(parts(step))
    monkeypatch.setattr("sparq_eval.bench.gate.LARGE", 1)
    alone = list(parts(step))
    assert (len(together), len(alone)) == (2, 6)
    pieces = torch.cat([in_float64(method, step, part) for part in alone], dim=1)
    whole = torch.cat([in_float64(method, step, part) for part in together], dim=1)
    torch.testing.assert_close(pieces, whole)


def test_what_is_no_number_is_refused(seed: int) -> None:
    case = case_of()
    for worst in (torch.nan, torch.inf):
        runner = wrong(torch_runner(Dense()), lambda out, worst=worst: out.masked_fill(out == out.max(), worst))
        assert (note_of(case, runner) or "").startswith("wrong")


@pytest.mark.parametrize("reallocate", [True, False])
def test_one_position_that_is_not_the_right_one_is_refused(reallocate: bool, seed: int) -> None:
    case, method = case_of(B=4), SparQ(r=16, k=96, local=0, reallocate=reallocate)
    plain = SparQ.rank

    def swapped(self: SparQ, scores: Tensor) -> Tensor:
        """In one head the last position that is chosen and the first that is not change places."""
        ranked = plain(self, scores)
        row = ranked[-1, 2, 0, :-1]  # the query's own is chosen in any case
        last, first = row.topk(97).indices[-2:].tolist()
        row[last], row[first] = row[first].item(), row[last].item()
        return ranked

    def call(step: Step, state: Any) -> Tensor:
        with patch.object(SparQ, "rank", swapped):
            return method.attend(step, state)[0].out

    right = torch_runner(method)
    assert note_of(case, right) is None
    assert (note_of(case, replace(right, call=call)) or "").startswith("wrong: a head differs")


@pytest.mark.parametrize("G", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_the_gate_leave_no_choice_open(dtype: torch.dtype, G: int, seed: int) -> None:
    case, sparq = case_of(dtype, B=8, G=G), SparQ(r=16, k=96, local=3, reallocate=True)
    for method in (sparq, replace(sparq, rank_by="weights"), FlexGen(96)):
        step = steps_of(case, set())[None]
        assert not left_open(method, settle(method, step)).any()
    tie = step.q.clone()
    tie[3, 1] = 1.0
    assert left_open(sparq, replace(step, q=tie)).nonzero().tolist().count([3, 1]) == 1


@pytest.mark.parametrize("sinks", [False, True])
def test_weights_are_compared_by_their_logarithms(sinks: bool, seed: int) -> None:
    step = steps_of(case_of(G=3), set())[None]
    step = replace(step, sinks=torch.randn(3, 3) if sinks else None)
    weights = softmax(logits(step), step.sinks).sum(dim=2).squeeze(2)
    torch.testing.assert_close(summed(logits(step), by_weights=True, sinks=step.sinks), weights.log())


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_two_positions_are_equally_heavy_hitters(dtype: torch.dtype, seed: int) -> None:
    step = steps_of(case_of(dtype), set())[None]
    ordered = prompt_of(step).column_sums.sort(dim=-1).values
    assert (ordered.diff(dim=-1) > 0).all()
    wider = replace(step, q=step.q.double(), k=step.k.double(), v=step.v.double())
    assert prompt_of(wider).column_sums.equal(prompt_of(step).column_sums)


@pytest.mark.parametrize("own", [2**25, 5 * 10**7])
def test_sets_together_move_more_than_a_cache_holds(own: int) -> None:
    for moved in (1e3, 2e6, 3.57e7, 2.7e8, 1e10):
        number = count(moved, own, room=10**6)
        assert number == MOST or moved * number >= TIMES * own
        assert number == 1 or moved * (number - 1) < TIMES * own
        assert count(moved, own, room=3) == min(number, 3) and count(moved, own, room=0) == 1


def test_each_runner_gets_its_own_number_of_sets_and_every_set_its_own_query(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of()
    monkeypatch.setattr("sparq_eval.bench.sets.own_cache", lambda device: 10**5)
    sets = Sets(case, {"same", "fp8"})
    assert [len(sets.enough(moved)) for moved in (4e4, 4e5, 1e5)] == [10, 1, 4] and len(sets.drawn) == 10
    queries = torch.stack([each[None].q for each in sets.drawn]).flatten(1)
    assert len(queries.unique(dim=0)) == 10
    bytes_ = [2 * each[None].k.nbytes for each in sets.drawn]
    assert set_bytes(case, {"same", "fp8"}) == bytes_[0] + bytes_[0] // 2 + bytes_[0] // 8
    monkeypatch.setattr("sparq_eval.bench.sets.free_memory", lambda device: 2 * 3 * set_bytes(case, ()))
    assert len(Sets(case, ()).enough(1.0)) == 3


def test_a_cache_is_read_as_linux_writes_its_size() -> None:
    assert [size_of(text) for text in ("32768K\n", "48M", "512")] == [2**25, 48 * 2**20, 512]
