"""The Triton kernels of the other methods against their twins in float64, and what all of them refuse."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE, check_alike, columns_of, in_float64, make, poisoned, quiet, run
from torch import Tensor

from sparq_eval.bench.gate import summed
from sparq_eval.kernels.cuda import KERNELS, H2OKernel, SparQKernel
from sparq_eval.kernels.h2o import Slots
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.methods.h2o import Ledger, grow
from sparq_eval.ops import Prompt, logits
from sparq_eval.step import Columns, Step, Visible

pytestmark = quiet
CLEAR = 1e-5  # a choice between scores that differ by less would be a matter of rounding


@pytest.mark.parametrize("method", [Dense(), LMInfinite(k=100), LMInfinite(k=1, sink=0), LMInfinite(k=2000)], ids=repr)
@pytest.mark.parametrize(
    "step",
    [
        {"S": 1},
        {"S": 63, "G": 3, "D": 80, "softcap": 3.0},
        {"S": 1000, "G": 2, "sinks": True},
        {"S": 300, "B": 4, "firsts": [0, 250, 299, 300]},
        {"S": 300, "D": 256, "window": 150},
        {"S": 300, "place": 110, "window": 50, "dtype": torch.float16},
    ],
    ids=str,
)
def test_dense_and_lm_infinite_are_their_twins(method: Method, step: dict[str, Any], seed: int) -> None:
    inputs = make(H=1, **step)
    ours, _ = run(method, inputs)
    right, _ = method.attend(in_float64(inputs), None)
    check_alike(ours, right, inputs)
    assert ours.moved.equal(right.moved)


@pytest.mark.parametrize("k", [1, 100, 700])
@pytest.mark.parametrize(
    "step",
    [
        {"S": 1},
        {"S": 63, "D": 80, "softcap": 3.0},
        {"S": 63, "G": 3, "D": 80, "softcap": 3.0},
        {"S": 1000},
        {"S": 1000, "G": 4},
        {"S": 1000, "G": 2, "sinks": True},
        {"S": 1000, "sinks": True},
        {"S": 300, "B": 4, "firsts": [0, 250, 299, 300]},
        {"S": 300, "G": 2, "B": 4, "firsts": [0, 250, 299, 300]},
        {"S": 300, "D": 256, "window": 150},
        {"S": 300, "place": 110, "window": 50, "dtype": torch.float16},
        {"S": 300, "G": 2, "place": 110, "window": 50, "dtype": torch.float16},
    ],
    ids=str,
)
def test_flexgen_is_its_twin(k: int, step: dict[str, Any], seed: int) -> None:
    inputs = make(H=1, **step)
    while gap(summed(logits(in_float64(inputs)), by_weights=True, sinks=inputs.sinks), k) < CLEAR:
        inputs = make(H=1, **step)
    ours, _ = run(FlexGen(k=k), inputs)
    right, _ = FlexGen(k=k).attend(in_float64(inputs), None)
    check_alike(ours, right, inputs)


@pytest.mark.parametrize("G", [1, 3])
def test_a_sink_above_all_logits_leaves_flexgen_little(G: int, seed: int) -> None:
    inputs = make(H=1, G=G, sinks=True)
    inputs = replace(inputs, sinks=logits(inputs).amax(dim=(0, 3, 4)) + 2)
    ours, _ = run(FlexGen(k=300), inputs)
    right, _ = FlexGen(k=300).attend(in_float64(inputs), None)
    check_alike(ours, right, inputs)


@pytest.mark.parametrize("worst", [torch.inf, torch.nan])
@pytest.mark.parametrize("G", [1, 2])
def test_flexgens_weights_that_are_no_numbers_give_none(G: int, worst: float, seed: int) -> None:
    inputs = make(H=1, G=G)
    k = inputs.k.clone()
    k[:, :, 200] = worst * inputs.q[:, :, 0, 0].sign()
    inputs = replace(inputs, k=k, columns=columns_of(k, "same"))
    ours, _ = run(FlexGen(k=20), inputs)
    right, _ = FlexGen(k=20).attend(in_float64(inputs), None)
    assert ours.out.isnan().equal(right.out.isnan())


def gap(scores: Tensor, n: int) -> float:
    """How far the n-th largest lies above the next, at least."""
    if n >= scores.shape[-1]:
        return torch.inf
    best = scores.double().topk(n + 1, dim=-1).values
    return (best[..., -2] - best[..., -1]).nan_to_num(torch.inf).min().item()


class Decoding:
    """A random prompt of P tokens, then T steps, of two examples, the second with padding."""

    def __init__(
        self,
        P: int,
        T: int,
        *,
        G: int = 1,
        D: int = 64,
        window: int | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        placed: bool = False,
    ) -> None:
        S = P + T
        self.P, self.T, self.placed = P, T, placed
        self.q = torch.randn(2, 2, G, S, D, device=DEVICE)
        self.k, self.v = (torch.randn(2, 2, S, D, device=DEVICE) for _ in range(2))
        self.valid = torch.arange(S, device=DEVICE) >= torch.tensor([0, 5], device=DEVICE)[:, None]
        self.window, self.softcap = window, softcap
        self.sinks = torch.randn(2, G, device=DEVICE) if sinks else None
        self.scale = D**-0.5

    def prompt(self, dtype: torch.dtype) -> Prompt:
        q, k, v = (x.to(dtype) for x in (self.q[:, :, :, : self.P], self.k[:, :, : self.P], self.v[:, :, : self.P]))
        visible = Visible(self.valid[:, : self.P], self.P, self.window)
        return Prompt(q, k, v, visible, self.scale, self.softcap, self.sinks)

    def step(self, t: int) -> Step:
        at = self.P + t
        # what is placed has the positions to come behind it
        end, place = (None, torch.tensor(at, device=DEVICE)) if self.placed else (at + 1, None)
        visible = Visible(self.valid[:, :end], 1, self.window, place)
        q, k, v = self.q[:, :, :, at : at + 1], self.k[:, :, :end], self.v[:, :, :end]
        return Step(q, k, v, visible, self.scale, self.softcap, self.sinks)

    def is_clear(self, method: H2O) -> bool:
        """Whether the twin's scores leave no doubt as to which position goes, at any step."""
        ledger = method.prefill(self.prompt(torch.float64))
        for t in range(self.T):
            step = in_float64(self.step(t))
            score, alive = grow(ledger, step.k.shape[2])
            ranked = score.masked_fill(~(alive & step.visible.mask), -torch.inf)
            if gap(ranked.masked_fill(step.visible.recent(method.local), torch.inf), method.k + 1) < CLEAR:
                return False
            _, ledger = method.attend(step, ledger)
        return True


@pytest.mark.parametrize("local", [None, 0, 16])
@pytest.mark.parametrize(
    "sizes",
    [
        {"P": 40, "T": 5, "G": 2},
        {"P": 12, "T": 8},
        {"P": 50, "T": 5, "window": 24},
        {"P": 30, "T": 4, "window": 9},
        {"P": 30, "T": 3, "placed": True},
        {"P": 40, "T": 4, "G": 3, "D": 80, "softcap": 5.0, "sinks": True},
    ],
    ids=str,
)
def test_h2o_keeps_what_its_twin_keeps(sizes: dict[str, Any], local: int | None, seed: int) -> None:
    check_decoding(H2O(k=16, local=local), sizes)


def test_h2o_with_room_for_all_evicts_nothing(seed: int) -> None:
    check_decoding(H2O(k=100), {"P": 20, "T": 3})


def check_decoding(method: H2O, sizes: dict[str, Any]) -> None:
    decoding = Decoding(**sizes)
    while not decoding.is_clear(method):
        decoding = Decoding(**sizes)
    kernel, ledger = H2OKernel(method), method.prefill(decoding.prompt(torch.float64))
    with poisoned():
        slots = kernel.prefill(decoding.prompt(torch.float32), decoding.T)
    for t in range(decoding.T):
        step = decoding.step(t)
        with poisoned():
            ours, slots = kernel.attend(step, slots)
        right, ledger = method.attend(in_float64(step), ledger)
        check_alike(ours, right, step)
        check_slots(slots, ledger, step)
        assert not kernel.counters(step).any()


def check_slots(slots: Slots, ledger: Ledger, step: Step) -> None:
    """In sight are the same positions, with the same scores and their own keys and values."""
    seen = step.visible.mask
    for b, h in torch.cartesian_prod(*map(torch.arange, slots.position.shape[:2])).tolist():
        position = slots.position[b, h].long()
        there = (position >= 0) & seen[b, 0, position]
        position = position[there]
        assert sorted(position.tolist()) == (ledger.alive[b, h] & seen[b, 0]).nonzero().flatten().tolist()
        torch.testing.assert_close(slots.score[b, h, there], ledger.score[b, h, position].float(), atol=1e-4, rtol=1e-5)
        assert slots.k[b, h, there].equal(step.k[b, h, position])
        assert slots.v[b, h, there].equal(step.v[b, h, position])


METHODS = [Dense(), LMInfinite(k=20), FlexGen(k=20), H2O(k=20), SparQ(r=8, k=20)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_more_than_one_query_is_refused(method: Method, seed: int) -> None:
    step = make()
    with pytest.raises(ValueError, match="decodes one token at a time; got 2 queries"):
        run(method, replace(step, q=step.q.expand(-1, -1, -1, 2, -1)))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_gaps_in_what_is_seen_are_refused(method: Method, seed: int) -> None:
    step = make()
    step.visible.valid[0, 100] = False
    with pytest.raises(ValueError, match="one run, without gaps"):
        run(method, step)


def test_a_copy_of_the_keys_that_is_missing_or_not_the_right_one_is_refused(seed: int) -> None:
    plain, narrow, scaled = (make(copy=copy) for copy in ("same", "fp8", "int8"))
    rough, rougher = (SparQ(r=8, k=20, copy=copy) for copy in ("fp8", "int8"))
    for method, step, words in (
        (FlexGen(k=20), replace(plain, columns=None), r"copy=same .* step\.columns is missing"),
        (rough, replace(narrow, columns=None), r"copy=fp8 .* step\.columns is missing"),
        (FlexGen(k=20), narrow, "copy=same reads columns of torch.float32; got torch.float8_e4m3fn"),
        (rough, plain, "copy=fp8 reads columns of torch.float8_e4m3fn; got torch.float32"),
        (rougher, narrow, "copy=int8 reads columns of torch.int8; got torch.float8_e4m3fn"),
        (rougher, replace(scaled, columns=Columns(scaled.columns.values)), "columns of int8 need a scale"),
        (rough, replace(narrow, columns=replace(narrow.columns, scale=scaled.columns.scale)), "no others have one"),
    ):
        with pytest.raises(ValueError, match=words):
            run(method, step)


def test_settings_without_a_kernel_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="r=65: there are 64 components to read"):
        run(SparQ(r=65, k=20), make())


def test_every_kernel_names_the_copy_that_it_reads() -> None:
    copies = {type(method): KERNELS[type(method)](method).copy for method in METHODS}
    assert copies == {Dense: None, LMInfinite: None, FlexGen: "same", H2O: None, SparQ: "same"}
    read = {copy: SparQKernel(SparQ(copy=copy)).copy for copy in ("fp8", "int8", "none")}
    assert read == {"fp8": "fp8", "int8": "int8", "none": None}
