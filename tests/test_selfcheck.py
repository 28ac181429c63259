"""The self-check passes on a sound model and finds what is wrong with others."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny import CONFIGS, Letters, tiny_model, tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.hf import phases, seam
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.selfcheck import FLUKE, TOLERANCE, distance, self_check
from sparq_eval.methods import H2O, Attended, Dense, FlexGen, LMInfinite, Method, Shape, SparQ, State
from sparq_eval.step import Step

pytestmark = pytest.mark.models

METHODS: list[Method] = [Dense(), SparQ(3, 4, reallocate=True), SparQ(3, 5), H2O(5), LMInfinite(20), FlexGen(2)]
REQUESTS = tiny_requests([40, 9], steps=3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_sound_model_passes(kind: str, dtype: torch.dtype) -> None:
    found = self_check(Engine(tiny_model(kind).to(dtype), Letters()), REQUESTS, METHODS)
    assert 0 < found["eager"] < found["tolerance"]
    assert found["padded"] < found["tolerance"]
    assert found["not_checked"] == []


def test_the_model_is_left_as_it_was() -> None:
    engine = Engine(tiny_model("gqa"), Letters())
    before = engine.answer(REQUESTS, METHODS)
    self_check(engine, REQUESTS, METHODS)
    assert engine.model.config._attn_implementation == seam.NAME
    assert engine.answer(REQUESTS, METHODS) == before


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_wrong_scale_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = phases.step_of
    monkeypatch.setattr(
        phases, "step_of", lambda call, *rest, **named: right(replace(call, scale=call.scale * 1.1), *rest, **named)
    )
    with pytest.raises(UserError, match="selfcheck: the logits of Dense with an unlimited budget and eager attention"):
        self_check(Engine(tiny_model(kind), Letters()), REQUESTS, METHODS)


@pytest.mark.parametrize(
    ("kind", "missing"), [("mqa with soft caps and windows", "window"), ("mqa with soft caps and windows", "softcap")]
)
def test_what_bends_the_logits_must_be_honoured(kind: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for phase in (phases.Prefill, phases.Decode):
        right: Any = phase.attend
        monkeypatch.setattr(
            phase, "attend", lambda self, call, right=right: right(self, replace(call, **{missing: None}))
        )
    with pytest.raises(UserError, match="selfcheck: the logits of Dense"):
        self_check(Engine(tiny_model(kind), Letters()), REQUESTS, METHODS)


def test_padding_that_is_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = phases.Decode.visible

    def blind(self: phases.Decode, *where: Any) -> Any:
        visible = right(self, *where)
        return replace(visible, valid=torch.ones_like(visible.valid))

    monkeypatch.setattr(phases.Decode, "visible", blind)
    with pytest.raises(UserError, match="selfcheck: the logits of"):
        self_check(Engine(tiny_model("gqa"), Letters()), REQUESTS, METHODS)


@dataclass(frozen=True)
class Halved(Method):
    """A method whose k does not mean what it should: half of the output is lost."""

    k: int = 4

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        attended, _ = Dense().attend(step, None)
        return replace(attended, out=attended.out / 2), state

    def transfers(self, S: float, shape: Shape) -> float:
        return S


def test_a_wrong_method_is_named() -> None:
    with pytest.raises(UserError, match="the logits of Halved with an unlimited budget and eager attention differ by"):
        self_check(Engine(tiny_model("mha"), Letters()), REQUESTS, [Halved()])


@dataclass(frozen=True)
class Odd(Halved):
    def unlimited(self, shape: Shape) -> None:
        return None


def test_a_method_that_has_no_unlimited_setting_is_said_to_be_unchecked() -> None:
    assert self_check(Engine(tiny_model("mha"), Letters()), REQUESTS, [Odd()])["not_checked"] == ["Odd"]


def test_a_model_that_does_not_call_the_method_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model("gqa"), Letters())
    right = phases.Tally.note
    monkeypatch.setattr(phases.Tally, "note", lambda self, layer, *rest: layer == 1 or right(self, layer, *rest))
    with pytest.raises(UserError, match="was not called at every step on layers"):
        self_check(engine, REQUESTS, METHODS)


def test_one_position_may_be_rounded_badly_in_16_bits_and_half_of_them_may_not() -> None:
    reference = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0))
    one, most, broken = reference.clone(), reference.clone(), reference.clone()
    one[1, 3] *= 1.5
    most[1, 2:] *= 1.5
    broken[1, 3] = torch.nan
    for dtype in TOLERANCE:
        assert distance(one, reference, dtype) == pytest.approx(0.5 if dtype == torch.float32 else 0.5 / FLUKE)
        assert distance(most, reference, dtype) == pytest.approx(0.5)
        assert distance(broken, reference, dtype) == float("inf")
