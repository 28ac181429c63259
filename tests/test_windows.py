"""Sliding windows: methods select inside them, and transfers count what they really hold."""

from dataclasses import replace

import pytest
import torch
from families import BINDING, FAMILIES, WINDOW, engine_of
from tiny import tiny_requests

from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.ops import Prompt
from sparq_eval.step import Step, Visible

pytestmark = pytest.mark.models


@pytest.mark.parametrize(
    ("family", "windows"),
    [
        ("mistral", [WINDOW, WINDOW, WINDOW]),
        ("gemma 2", [WINDOW, None, WINDOW]),
        ("gemma 3", [WINDOW, WINDOW, None]),
        ("qwen 2", [None, WINDOW, WINDOW]),
        ("qwen 2.5", [None, None, None]),
        ("gpt-oss", [WINDOW, None, WINDOW]),
    ],
)
def test_windows_are_read_layer_by_layer(family: str, windows: list[int | None]) -> None:
    assert layer_windows(FAMILIES[family]) == windows


@pytest.mark.parametrize("method", [*BINDING, H2O(k=99), SparQ(r=8, k=99, reallocate=True)], ids=str)
@pytest.mark.parametrize("T", [1, 4])
def test_nothing_outside_the_window_is_attended_or_counted(method: Method, T: int) -> None:
    """What lies before the windows of all queries may be anything."""
    torch.manual_seed(5)
    B, H, G, S, D = 2, 2, 2, 40, 8
    q, k, v = torch.randn(B, H, G, S, D), torch.randn(B, H, S, D), torch.randn(B, H, S, D)
    visible = Visible(torch.ones(B, S, dtype=torch.bool), S, WINDOW)
    P = S - T
    state = method.prefill(Prompt(q[:, :, :, :P], k[:, :, :P], v[:, :, :P], visible.narrow(0, P), D**-0.5))
    step = Step(q, k, v, visible, D**-0.5).narrow(P, S)
    one, _ = method.attend(step, state)
    outside = torch.arange(S) <= P - WINDOW
    other_k, other_v = (torch.where(outside[:, None], 9 * torch.randn_like(x), x) for x in (k, v))
    other, _ = method.attend(replace(step, k=other_k, v=other_v), state)
    assert torch.equal(one.selected, other.selected) and torch.equal(one.moved, other.moved)
    assert torch.allclose(one.out, other.out, atol=1e-6)
    assert int(one.selected.max()) <= WINDOW


def dense_moved(c: int, D: int) -> int:
    return 2 * c * D


def sparq_moved(c: int, D: int, r: int, k: int) -> int:
    return (c - 1) * r + 2 * (min(c, k + 1) - 1) * D + 5 * D


@pytest.mark.parametrize("family", ["gemma 2", "gemma 3", "qwen 2", "gpt-oss", "mistral", "phi 3"])
@pytest.mark.parametrize(
    ("k", "steps"), [(12, 4), (4, 1)], ids=["a window holds less than k", "a window holds more than k"]
)
def test_traffic_counts_what_a_window_really_holds(family: str, k: int, steps: int) -> None:
    """A layer with a window has c = WINDOW positions at each step, one without has n + 1, then n + 2, ..."""
    n = 30
    config = FAMILIES[family]
    [request] = tiny_requests([n], forced=[steps + 1])
    H, D = shape_of(config).heads, shape_of(config).head_size
    windows = layer_windows(config)
    # the lowest and the highest count that a layer with c visible positions may have at step t

    def sparq(c: int, t: int) -> tuple[int, int]:
        return (sparq_moved(c, D, r=3, k=k),) * 2

    def lm_infinite(c: int, t: int) -> tuple[int, int]:
        return (dense_moved(min(c, k), D),) * 2

    def flexgen(c: int, t: int) -> tuple[int, int]:
        # the query's own value, which need not be read, may be among the k
        most = (c - 1) * D + 2 * D + min(c - 1, k) * D
        return (most - D if c > k else most), most

    def h2o(c: int, t: int) -> tuple[int, int]:
        # a layer begins with all that it sees of the prompt and goes on with the k + 1 that were kept
        candidates = c if c <= k or t == 0 else k + 2
        return (dense_moved(min(c, k + 1), D) + candidates + min(c, k + 1),) * 2

    expected = {
        Dense(): lambda c, t: (dense_moved(c, D),) * 2,
        SparQ(r=3, k=k, reallocate=True): sparq,
        LMInfinite(k=k, sink=2): lm_infinite,
        FlexGen(k=k): flexgen,
        H2O(k=k): h2o,
    }
    for method, [answer] in zip(expected, engine_of(family).answer([request], list(expected)), strict=True):
        bounds = [expected[method](min(n + t + 1, window or n + t + 1), t) for t in range(steps) for window in windows]
        lowest, highest = (H * sum(bound[side] for bound in bounds) / steps for side in (0, 1))
        assert lowest <= answer.traffic.counted <= highest, method
        dense = [2 * D * min(n + t + 1, window or n + t + 1) for t in range(steps) for window in windows]
        assert answer.traffic.counted_dense == H * sum(dense) / steps
        nominal = [method.transfers(min(n, window or n), shape_of(config)) for window in windows]
        assert answer.traffic.nominal == H * sum(nominal)
