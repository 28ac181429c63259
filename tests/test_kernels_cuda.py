"""SparQ's Triton kernel: the law of its choice, and its twin in float64 with this choice."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import (
    DEVICE,
    check_choice,
    check_sparq,
    columns_of,
    in_float64,
    make,
    poisoned,
    quiet,
    run,
    state_of,
)

from sparq_eval.kernels import gather, spread
from sparq_eval.kernels import rank as ranking
from sparq_eval.kernels.candidates import Ranking
from sparq_eval.kernels.cuda import SparQKernel
from sparq_eval.kernels.gather import choose, split
from sparq_eval.kernels.rank import rank
from sparq_eval.methods import SparQ
from sparq_eval.methods.kernel import run_of
from sparq_eval.ops import Prompt, narrow
from sparq_eval.step import Columns, Visible

pytestmark = quiet


@pytest.mark.parametrize(
    ("G", "D", "S", "r", "k", "reallocate"),
    [
        (1, 64, 300, 1, 20, True),
        (1, 64, 300, 5, 20, False),
        (1, 80, 1000, 5, 63, True),
        (1, 96, 300, 96, 1, True),
        (1, 128, 63, 16, 63, False),
        (1, 256, 300, 32, 63, True),
        (1, 64, 1, 64, 20, True),
        (4, 64, 1000, 5, 63, True),
        (4, 64, 1000, 5, 63, False),
        (2, 80, 300, 80, 1, True),
        (3, 96, 63, 1, 500, True),
        (7, 128, 300, 16, 63, False),
        (2, 256, 63, 5, 20, True),
        (2, 64, 1, 1, 1, False),
    ],
)
def test_it_is_its_twin(G: int, D: int, S: int, r: int, k: int, reallocate: bool, seed: int) -> None:
    method = SparQ(r=r, k=k, reallocate=reallocate)
    step = make(S, G=G, D=D, r=r)
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("reallocate", [True, False])
@pytest.mark.parametrize("G", [1, 2])
def test_with_soft_caps_and_sinks_too(G: int, reallocate: bool, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=reallocate)
    step = make(G=G, r=8, softcap=3.0, sinks=True)
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("reallocate", [True, False])
@pytest.mark.parametrize("copy", ["same", "none"])
def test_with_padding_too_and_an_example_that_sees_nothing_gets_zeros(copy: str, reallocate: bool, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=reallocate, copy=copy)
    step = make(B=4, H=1, r=8, copy=copy, firsts=[300, 7, 290, 299])
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("place", [None, 0, 99, 999])
@pytest.mark.parametrize("window", [None, 1, 50])
def test_the_window_and_the_place_bound_what_is_seen(window: int | None, place: int | None, seed: int) -> None:
    method = SparQ(r=8, k=16, reallocate=True)
    step = make(1000, H=1, r=8, window=window, place=place)
    check_sparq(method, step, state_of(method, step))


def test_without_a_running_sum_the_mean_is_taken_anew(seed: int) -> None:
    check_sparq(SparQ(r=8, k=16, reallocate=True), make(B=3, H=1, r=8, firsts=[40, 0, 300]), None)


@pytest.mark.parametrize("local", [0, 63])
def test_the_local_window_comes_first(local: int, seed: int) -> None:
    check_sparq(SparQ(r=8, k=63, local=local), make(2500, H=1, r=8))


def test_more_candidates_than_a_program_merges_are_found_together(seed: int) -> None:
    method = SparQ(r=4, k=1950, reallocate=True)
    step = make(17000, H=1, r=4)
    assert check_sparq(method, step, state_of(method, step)).found.everything


@pytest.mark.parametrize(
    ("G", "kinds", "rank_by"),
    [(1, None, "logits"), (1, 3, "logits"), (3, 3, "logits"), (2, None, "weights"), (3, 3, "weights")],
)
def test_programs_together_find_the_same_for_groups_padding_and_ties(
    G: int, kinds: int | None, rank_by: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "HELD", 0)
    monkeypatch.setattr(spread, "BLOCK", 512)
    keys = None if kinds is None else torch.randn(3, 1, kinds, 64)[:, :, torch.randint(kinds, (1500,))]
    method = SparQ(r=8, k=300, local=5, reallocate=True, rank_by=rank_by)
    step = make(1500, B=3, H=1, G=G, r=8, firsts=[1500, 1499, 7], keys=keys)
    assert check_sparq(method, step, state_of(method, step)).found.everything


@pytest.mark.parametrize("local", [0, 63])
@pytest.mark.parametrize("k", [1, 63, 2000])
def test_programs_together_find_any_number_and_the_local_window_first(
    k: int, local: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "HELD", 0)
    method = SparQ(r=8, k=k, local=min(local, k), reallocate=False)
    check_sparq(method, make(3000, H=2, r=8, place=2500, window=2300), None)


@pytest.mark.parametrize("reallocate", [True, False])
@pytest.mark.parametrize(
    "step",
    [
        {"S": 1, "G": 2},
        {"S": 63, "G": 3, "D": 80, "softcap": 3.0},
        {"S": 1000, "G": 4, "sinks": True},
        {"S": 300, "G": 2, "B": 4, "firsts": [0, 250, 299, 300]},
        {"S": 300, "G": 7, "D": 128, "place": 110, "window": 50, "dtype": torch.float16},
        {"S": 1000, "G": 2, "copy": "int8"},
    ],
    ids=str,
)
def test_weights_rank_as_in_its_twin(step: dict[str, Any], reallocate: bool, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=reallocate, rank_by="weights", copy=step.get("copy", "same"))
    inputs = make(r=8, **step)
    check_sparq(method, inputs, state_of(method, inputs))


def test_a_long_list_is_read_by_several_programs(seed: int) -> None:
    method = SparQ(r=8, k=1100, reallocate=True)
    step = make(1300, B=3, H=1, G=2, r=8, sinks=True, firsts=[0, 1295, 1300])
    assert split(SparQKernel(method).call(step), 1100) > 1
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize(("first", "place"), [(100, None), (2100, 6500)])
def test_chunks_tell_one_another_what_is_too_low_and_may_see_nothing(
    first: int, place: int | None, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # many heads have their components chosen by a launch of their own, and candidates to spare
    monkeypatch.setattr(ranking, "FEW", 0)
    monkeypatch.setattr(gather, "FEW", 0)
    step = make(9000, H=1, r=8, firsts=[first], place=place)
    found = check_sparq(SparQ(r=8, k=63, reallocate=True), step, None).found
    assert found.mass.shape[-1] > 4


@pytest.mark.parametrize("G", [1, 2])
@pytest.mark.parametrize("copy", ["fp8", "int8", "none"])
def test_with_each_copy_it_is_its_twin_with_that_copy(copy: str, G: int, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=True, copy=copy)
    step = make(1000, H=1, G=G, r=8, copy=copy)
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("copy", ["same", "fp8", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_16_bits_it_is_its_twin_with_the_same_numbers(dtype: torch.dtype, copy: str, seed: int) -> None:
    if dtype == torch.bfloat16 and DEVICE.type != "cuda":
        pytest.skip("Triton's interpreter multiplies no bfloat16 matrices")
    method = SparQ(r=8, k=20, reallocate=True, copy=copy)
    step = make(H=1, G=2, r=8, copy=copy, dtype=dtype)
    check_sparq(method, step, state_of(method, step))


def test_bfloat16_is_ranked_right(seed: int) -> None:
    method, step = SparQ(r=8, k=20), make(r=8, dtype=torch.bfloat16)
    how = Ranking(8, 20, method.local or 0, step.scale, None, covered=False)
    with poisoned():
        found = rank(step.q[:, :, :, 0], step.columns, *run_of(step.visible), how)
        positions = choose(SparQKernel(method).call(step), found).positions
    check_choice(method, in_float64(step), None, positions)


@pytest.mark.parametrize("kinds", [1, 3, 40])
@pytest.mark.parametrize("G", [1, 2])
def test_of_equal_keys_any_will_do(G: int, kinds: int, seed: int) -> None:
    keys = torch.randn(1, 1, kinds, 64)[:, :, torch.randint(kinds, (1000,))]
    for k in (1, 63, 500):
        method = SparQ(r=8, k=k, local=0, reallocate=True)
        step = make(1000, H=1, G=G, r=8, keys=keys)
        check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("G", [1, 2])
def test_a_query_of_zeros_gives_numbers(G: int, seed: int) -> None:
    method, step = SparQ(r=8, k=20, reallocate=True), make(H=1, G=G)
    check_sparq(method, replace(step, q=torch.zeros_like(step.q)), state_of(method, step))


@pytest.mark.parametrize("k", [20, 400])
@pytest.mark.parametrize(("copy", "softcap"), [("same", None), ("same", 3.0), ("fp8", None), ("int8", None)])
def test_a_key_infinitely_far_away_weighs_nothing(copy: str, softcap: float | None, k: int, seed: int) -> None:
    step = make(H=1, r=64, softcap=softcap)
    k_ = step.k.clone()
    k_[..., 3:260, 5] = -torch.inf * step.q[..., 0, 0, 5].sign()[..., None]
    method = SparQ(r=64, k=k, local=0, reallocate=True, copy=copy)
    step = replace(step, k=k_, columns=columns_of(k_, copy))
    check_sparq(method, step, state_of(method, step))


@pytest.mark.parametrize("worst", [torch.inf, torch.nan])
def test_what_is_no_number_ends_too_and_stays_with_its_head(worst: float, seed: int) -> None:
    step = make(H=2, r=8)
    k = step.k.clone()
    k[:, 0, ::7] = worst
    method = SparQ(r=8, k=20, local=0, reallocate=True)
    spoiled, _ = run(method, replace(step, k=k, columns=columns_of(k, "same")), state_of(method, step))
    right, _ = run(method, step, state_of(method, step))
    assert spoiled.out[:, 1].equal(right.out[:, 1])


@pytest.mark.parametrize("rank_by", ["logits", "weights"])
@pytest.mark.parametrize("held", [0, 16384])
@pytest.mark.parametrize("worst", [torch.inf, torch.nan, -torch.nan])
def test_weights_that_are_no_numbers_give_none_as_in_its_twin(
    worst: float, held: int, rank_by: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "HELD", held)
    step = make(H=1, G=2, r=64)
    k = step.k.clone()
    k[:, :, 200] = worst * step.q[:, :, 0, 0, None].sign()[:, :, 0]
    method = SparQ(r=64, k=20, local=0, reallocate=True, rank_by=rank_by)
    step = replace(step, k=k, columns=columns_of(k, "same"))
    ours, _ = run(method, step, state_of(method, step))
    right, _ = method.attend(in_float64(step), state_of(method, step))
    assert ours.out.isnan().equal(right.out.isnan())


@pytest.mark.parametrize("copy", ["same", "int8"])
def test_garbage_where_nothing_is_seen_changes_nothing(copy: str, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=True, copy=copy)
    clean = make(B=2, H=1, r=8, copy=copy, firsts=[40, 0], place=250)
    hidden = ~clean.visible.mask[:, 0, None, :, None]
    k, v = (x.masked_fill(hidden, torch.nan) for x in (clean.k, clean.v))
    values = clean.columns.values.clone()
    values[..., :300].masked_fill_(hidden.mT, -128 if copy == "int8" else torch.nan)
    spoiled = replace(clean, k=k, v=v, columns=replace(clean.columns, values=values))
    ours, right = (run(method, step, state_of(method, clean))[0] for step in (spoiled, clean))
    assert ours.out.equal(right.out)


@pytest.mark.parametrize("copy", ["same", "int8"])
def test_the_running_mean_stays_right_over_steps(copy: str, seed: int) -> None:
    method = SparQ(r=8, k=20, reallocate=True, copy=copy)
    whole = make(64, B=2, H=1, r=8, copy="none", firsts=[9, 0])
    valid = whole.visible.valid
    q = torch.randn(2, 1, 1, 60, 64, device=DEVICE)
    state = method.prefill(Prompt(q, whole.k[:, :, :60], whole.v[:, :, :60], Visible(valid[:, :60], 60), whole.scale))
    for end in range(61, 65):
        k, v = whole.k[:, :, :end], whole.v[:, :, :end]
        columns = Columns(narrow(k, copy, state.scale).mT.contiguous(), state.scale)
        step = make(end, B=2, H=1, r=8, copy="none", firsts=[9, 0])
        state = check_sparq(method, replace(step, k=k, v=v, columns=columns), state).after
        seen = valid[:, None, :end, None]
        torch.testing.assert_close(state.value_sum, v.masked_fill(~seen, 0).sum(dim=2))
