"""Laws of SparQ's second copy of the keys, in torch: what a narrow one changes, what it costs, who asks for it."""

import copy as copying
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import CONFIGS as MODELS
from tiny import Letters, tiny_model, tiny_requests

from sparq_eval.cli import CONFIGS, check_overrides
from sparq_eval.errors import UserError
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import Dense, Shape, SparQ
from sparq_eval.methods.sparq import COPIES, Kept, approximate
from sparq_eval.ops import Prompt, narrow, restore, value_mean
from sparq_eval.step import Step, Visible

D, S = 16, 40
NARROW = ("fp8", "int8")


def step_of(G: int = 1, S: int = S) -> Step:
    """Two examples, the first of them padded on the left."""
    q = F.normalize(torch.randn(2, 2, G, 1, D), dim=-1) * D**0.5
    k, v = torch.randn(2, 2, 2, S, D)
    valid = torch.ones(2, S, dtype=torch.bool)
    valid[0, :4] = False
    return Step(q, k, v, Visible(valid, 1), D**-0.5)


def state_of(method: SparQ, step: Step) -> Kept | None:
    """What a prompt of all positions but the last leaves."""
    visible = Visible(step.visible.valid[:, :-1], 1)
    return method.prefill(Prompt(step.q, step.k[:, :, :-1], step.v[:, :, :-1], visible, step.scale))


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("G", [1, 3])
@pytest.mark.parametrize("reallocate", [True, False])
def test_with_every_position_and_component_any_copy_gives_dense(copy: str, G: int, reallocate: bool, seed: int) -> None:
    step, method = step_of(G), SparQ(r=D, k=S, reallocate=reallocate, copy=copy)
    ours, _ = method.attend(step, state_of(method, step))
    dense, _ = Dense().attend(step, None)
    torch.testing.assert_close(ours.out, dense.out)
    assert ours.selected.equal(dense.selected)


@pytest.mark.parametrize("copy", NARROW)
@pytest.mark.parametrize("G", [1, 3])
def test_where_the_choice_is_clear_a_narrow_copy_changes_alpha_alone(copy: str, G: int, seed: int) -> None:
    step = step_of(G)
    # six keys point where the queries of the group do; no other key comes near them, however roughly it is read
    q = step.q[:, :, :1] + 0.01 * torch.randn_like(step.q)
    chosen = torch.rand(2, 2, S - 5).topk(6).indices + 4
    k = step.k.scatter(2, chosen[..., None].expand(-1, -1, -1, D), (2 * q[:, :, 0]).expand(-1, -1, 6, -1))
    step = replace(step, q=q, k=k)
    right, _ = SparQ(r=D, k=6, local=0, reallocate=False).attend(step, None)
    rough = SparQ(r=D, k=6, local=0, reallocate=False, copy=copy)
    state = state_of(rough, step)
    ours, _ = rough.attend(step, state)
    torch.testing.assert_close(ours.out, right.out)
    blended, _ = replace(rough, reallocate=True).attend(step, state)
    mean = value_mean(step, None)[:, :, None]
    away = right.out - mean
    alpha = ((blended.out - mean) * away).sum(dim=-1, keepdim=True) / away.square().sum(dim=-1, keepdim=True)
    assert ((alpha > 0.1) & (alpha < 1)).all()
    torch.testing.assert_close(blended.out, mean + alpha * away)


def test_the_keys_themselves_give_the_numbers_of_a_plain_copy(seed: int) -> None:
    step = step_of(3)
    plain, without = (SparQ(r=5, k=6, reallocate=True, copy=name) for name in ("same", "none"))
    right, ours = (method.attend(step, state_of(method, step))[0] for method in (plain, without))
    assert ours.out.equal(right.out)


@pytest.mark.parametrize("copy", NARROW)
def test_a_narrow_copy_comes_close_to_the_keys(copy: str, seed: int) -> None:
    k = torch.randn(2, 2, S, D) * torch.logspace(-1, 1, D)
    scale = k.abs().amax(dim=2) / 127 if copy == "int8" else None
    stored = narrow(k, copy, scale)
    assert stored.itemsize == 1
    away = (restore(stored, k.dtype, scale) - k).norm() / k.norm()
    assert 0 < away < 0.04


def test_fp8_keeps_keys_that_are_too_large_as_the_largest_it_has() -> None:
    k = torch.tensor([[[[1e6, -1e6, 448.0, torch.inf]]]])
    assert restore(narrow(k, "fp8", None), k.dtype, None).tolist() == [[[[448, -448, 448, 448]]]]


def test_the_scale_of_int8_is_the_prompts_and_later_keys_are_clamped_to_it(seed: int) -> None:
    step, method = step_of(S=S + 1), SparQ(r=D, k=6, reallocate=False, copy="int8")
    step.k[0, :, :4] = 1e3  # padding has no part in it
    step.k[:, :, :, 3] = 0
    step.k[:, :, -1] = 100.0
    state = state_of(method, step)
    assert state is not None and state.scale is not None
    seen = [step.k[0, :, 4:-1], step.k[1, :, :-1]]
    peaks = torch.stack([keys.abs().amax(dim=1) for keys in seen])  # (B, H, D)
    torch.testing.assert_close(state.scale * 127, peaks.masked_fill(peaks == 0, 1))
    _, after = method.attend(step, state)
    assert after is not None and after.scale is not None and after.scale.equal(state.scale)
    clamped = step.k.clone()
    clamped[:, :, -1] = 127 * state.scale
    scores, right = (approximate(replace(step, k=k), D, "int8", state.scale) for k in (step.k, clamped))
    assert scores.equal(right)
    exact = approximate(replace(step, k=clamped), D)[..., -1]
    torch.testing.assert_close(scores[..., -1], exact)


@pytest.mark.parametrize("worst", [torch.inf, -torch.inf, torch.nan])
def test_a_key_that_is_not_finite_ranks_as_the_largest_or_as_nothing_and_leaves_others_alone(
    worst: float, seed: int
) -> None:
    step, method = step_of(), SparQ(r=D, k=6, reallocate=False, copy="int8")
    before = state_of(method, step)
    assert before is not None and before.scale is not None
    # of its smallest component this key is not the peak
    place = step.k[:, :, 7].abs().argmin(dim=-1, keepdim=True)
    largest = torch.tensor(worst).sign().nan_to_num(0) * 127 * before.scale.gather(-1, place)
    spoiled, tamed = step.k.clone(), step.k.clone()
    spoiled[:, :, 7].scatter_(-1, place, worst)
    tamed[:, :, 7].scatter_(-1, place, largest)
    after = state_of(method, replace(step, k=spoiled))
    assert after is not None and after.scale is not None and after.scale.equal(before.scale)
    ours, right = (approximate(replace(step, k=k), D, "int8", before.scale) for k in (spoiled, tamed))
    assert ours.equal(right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reallocate", [True, False])
@pytest.mark.parametrize("copy", COPIES)
def test_what_is_counted_is_what_the_formula_says(copy: str, reallocate: bool, dtype: torch.dtype, seed: int) -> None:
    step, method = step_of(), SparQ(r=5, k=6, reallocate=reallocate, copy=copy)
    step = replace(step, q=step.q.to(dtype), k=step.k.to(dtype), v=step.v.to(dtype))
    ours, _ = method.attend(step, state_of(method, step))
    for moved, cached in zip(ours.moved, (S - 5, S - 1), strict=True):
        assert moved.eq(method.transfers(cached, Shape(2, 1, D, dtype.itemsize))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_counted_in_a_run_is_what_the_formula_says(dtype: torch.dtype) -> None:
    engine = Engine(tiny_model("mha").to(dtype), Letters())
    [request] = tiny_requests([60], steps=2)
    shape = shape_of(MODELS["mha"], dtype.itemsize)
    methods = [SparQ(r=3, k=16, reallocate=on, copy=copy) for on in (True, False) for copy in COPIES]
    for method, [answer] in zip(methods, engine.answer([request], methods), strict=True):
        assert answer.traffic.counted == answer.traffic.nominal == method.transfers(60, shape) * shape.heads * 3


@pytest.mark.parametrize("itemsize", [2, 4])
def test_a_copy_costs_what_is_read_and_written_of_it(itemsize: int) -> None:
    S, r, k, D = 1000, 16, 64, 128
    shape = Shape(8, 1, D, itemsize)
    cost = {copy: SparQ(r, k, reallocate=False, copy=copy).transfers(S, shape) for copy in COPIES}
    fixed = 2 * k * D + 2 * D
    assert cost == {
        "same": S * r + fixed + D,
        "fp8": S * r / itemsize + fixed + D / itemsize,
        "int8": S * r / itemsize + fixed + D / itemsize + r,
        "none": S * r + fixed,
    }
    assert cost["fp8"] < cost["int8"] < cost["none"] < cost["same"]
    printed = {copy: SparQ(r, k, copy=copy).transfers_as_printed(S, shape) for copy in COPIES}
    assert printed["fp8"] == printed["int8"] < printed["same"] == printed["none"]


def test_settings_say_nothing_of_a_copy_that_is_nothing_special() -> None:
    assert SparQ().settings == {"r": 32, "k": 128, "local": 32, "reallocate": None, "rank_by": "logits"}
    assert SparQ(copy="same") == SparQ()
    for copy in ("fp8", "int8", "none"):
        assert SparQ(copy=copy).settings == SparQ().settings | {"copy": copy}


@pytest.mark.parametrize("copy", ["fp4", "int4", "None", "", None])
def test_other_copies_are_refused(copy: Any) -> None:
    with pytest.raises(ValueError, match=f"copy={copy}: same, fp8, int8, none"):
        SparQ(copy=copy)


def composed(*overrides: str) -> Settings:
    check_overrides(list(overrides))
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    return read_settings(copying.deepcopy(config))


@pytest.mark.parametrize("copy", COPIES)
def test_the_command_line_names_a_copy(copy: str) -> None:
    found = composed("method=[sparq]", "r=8", "k=64", f"methods.sparq.copy={copy}")
    assert [setting.method for setting in found.settings] == [Dense(), SparQ(8, 64, copy=copy)]


def test_a_list_of_copies_fans_out() -> None:
    found = composed("method=[sparq]", "r=8", "k=64", "methods.sparq.copy=[same,fp8]")
    assert [setting.method for setting in found.settings[1:]] == [SparQ(8, 64), SparQ(8, 64, copy="fp8")]


def test_the_command_line_refuses_other_copies() -> None:
    with pytest.raises(UserError, match="method sparq: copy=fp4: same, fp8, int8, none"):
        composed("method=[sparq]", "methods.sparq.copy=fp4")
