"""The bench of whole tokens: bytes are those that move, attention is what was timed, and nothing wrong is timed."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny import CONFIGS, DEVICE, Letters, tiny_model
from transformers import AutoModelForCausalLM

from sparq_eval.bench.decode import Judged, Sdpa, Side, cache_bytes, full_cache, measure_decoding, sides_of, time_side
from sparq_eval.bench.timing import Timed
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.seam import NAME
from sparq_eval.hf.tally import Tally
from sparq_eval.methods import Attended, Dense, Method, Shape, SparQ, State
from sparq_eval.methods.kernel import Kernel
from sparq_eval.results.bench_rows import DecodeRow
from sparq_eval.step import Step, Visible

CPU = torch.device("cpu")
CAPPED, WINDOWED = "mqa with soft caps and windows", "windows"
S = 40
SPARQ = [SparQ(r=3, k=4), SparQ(r=3, k=4, copy="none"), SparQ(r=5, k=6, copy="int8"), SparQ(r=5, k=6, copy="fp8")]
pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="tiny models are on a GPU here")


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparq_eval.bench.decode.time_calls", lambda *_, **__: Timed(1.0, 1.0, 1.0, 1))


def engine_of(kind: str) -> Engine:
    if kind != WINDOWED:
        return Engine(tiny_model(kind), Letters())
    config = deepcopy(CONFIGS[CAPPED])
    config.attn_logit_softcapping = None
    torch.manual_seed(17)
    return Engine(AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval(), Letters())


def sides(engine: Engine, methods: Sequence[Method] = ()) -> list[Side]:
    return sides_of(methods, CPU, shape_of(engine.model.config))


def rows_of(engine: Engine, found: Sequence[Side], B: int = 2) -> dict[str, DecodeRow]:
    with torch.inference_mode():
        return {side.name: time_side(engine, "tiny", side, S, B, 0.25) for side in found}


@pytest.mark.parametrize("kind", ["gqa", "mha", WINDOWED])
def test_every_side_that_is_right_is_timed(kind: str, seed: int) -> None:
    engine = engine_of(kind)
    for method in SPARQ[::2]:
        found = rows_of(engine, sides(engine, [method]))
        assert list(found) == ["sdpa flash", "sdpa math", "dense torch", "sparq cpu"]
        assert [row.note for row in found.values()] == [None] * 4
        assert all(row.attention_seconds == 0.75 for row in found.values())


def test_what_a_baseline_does_not_know_is_said_and_not_timed(seed: int) -> None:
    engine = engine_of(CAPPED)
    found = rows_of(engine, sides(engine, SPARQ[:1]))
    for name in ("sdpa flash", "sdpa math"):
        assert found[name].seconds is None
        assert found[name].note == "torch's scaled_dot_product_attention has no capped logits, and this model has"
    assert found["dense torch"].seconds and found["sparq cpu"].seconds
    step = Step(*torch.randn(3, 1, 2, 8, 8).unsqueeze(2)[:, :, :, :1, :1].expand(3, 1, 2, 1, 1, 8), Visible(
        torch.ones(1, 1, dtype=torch.bool), 1), 1.0, sinks=torch.ones(2, 1))  # fmt: skip
    with pytest.raises(ValueError, match="has no sinks"):
        Sdpa(Dense(), "math").attend(step, None)


@dataclass
class Wrong(Kernel):
    """Dense attention that does not write one head of one example."""

    method: Dense

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        found, state = self.method.attend(step, state)
        out = found.out.clone()
        out[-1, -1] = 0
        return replace(found, out=out), state


@dataclass
class Blind(Kernel):
    """Dense attention that sees no windows."""

    method: Dense

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        return self.method.attend(replace(step, visible=replace(step.visible, window=None)), state)


@pytest.mark.parametrize("kernel", [Wrong(Dense()), Blind(Dense())])
def test_a_side_that_is_wrong_is_not_timed(kernel: Kernel, seed: int) -> None:
    [row] = rows_of(engine_of(WINDOWED), [Side("spoiled", Dense(), kernel)]).values()
    assert row.seconds is None and (row.note or "").startswith("wrong: a head differs from float64 by")


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gqa", WINDOWED])
def test_bytes_of_the_caches_are_those_that_a_step_counts(kind: str, dtype: torch.dtype) -> None:
    engine, B = engine_of(kind), 2
    engine.model.to(dtype)
    for side in [Side("dense torch", Dense(), None), *sides(engine, SPARQ)[3:]]:
        cache, tally = full_cache(engine, side, S, B), Tally.zero(B, engine.layers, CPU)
        session = Decode(cache, [torch.arange(B)], torch.zeros((), dtype=torch.long), [tally], in_place=True)
        engine.forward(torch.ones(B, 1, dtype=torch.long), torch.full((B, 1), S - 1), session, last_only=True)
        session.close()
        assert tally.moved.tolist() == [cache_bytes(engine, side.method, S) / dtype.itemsize] * B, side
        [row] = rows_of(engine, [side], B).values()
        assert row.cache_bytes == tally.moved.sum().item() * dtype.itemsize


def test_a_window_is_all_that_dense_reads_of_a_layer() -> None:
    engine = engine_of(WINDOWED)
    windows = layer_windows(engine.model.config)
    assert set(windows) == {9, None}
    shape: Shape = shape_of(engine.model.config)
    seen = sum(window or S for window in windows)
    assert cache_bytes(engine, Dense(), S) == 2 * seen * shape.heads * shape.head_size * 4


def test_weights_are_all_but_a_table_that_is_not_the_outputs() -> None:
    engine = engine_of("gqa")
    every = sum(weight.numel() for weight in engine.model.parameters())
    [row] = rows_of(engine, sides(engine)[2:]).values()
    assert row.weight_bytes == 4 * (every - 97 * 32)


def test_attention_is_what_a_token_takes_beyond_one_without_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, told = engine_of("gqa"), list[DecodeRow]()
    monkeypatch.setattr("sparq_eval.bench.decode.open_model", lambda *_: engine.model)
    seconds = iter([1.0, 1.5, 0.5, 3.0, 4.0])
    monkeypatch.setattr("sparq_eval.bench.decode.time_calls", lambda *_, **__: Timed(next(seconds), 0.1, 9.0, 5))
    measure_decoding("m", [S], lambda _: SPARQ[:1], torch.float32, CPU, 1, told.append, lambda _: None)
    assert [row.implementation for row in told] == ["sdpa flash", "sdpa math", "dense torch", "sparq cpu"]
    assert [row.attention_seconds for row in told] == [0.5, 0.0, 2.0, 3.0]


def test_every_layer_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("gqa")
    seen = list[Any]()
    plain = Judged.attend

    def listen(self: Judged, step: Step, state: State) -> tuple[Attended, State]:
        seen.append(step)
        return plain(self, step, state)

    monkeypatch.setattr(Judged, "attend", listen)
    rows_of(engine, sides(engine)[:1])
    assert len(seen) == engine.layers
