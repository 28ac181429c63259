"""Steps for the Triton kernels, and what holds of a result: the law of the choice, and the twin in float64.

Without CUDA it is Triton's interpreter that runs the kernels (see conftest.py). What it cannot run is skipped.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton, which is not to be had everywhere, is not installed")

from sparq_eval.kernels import cuda
from sparq_eval.kernels.candidates import Candidates
from sparq_eval.kernels.gather import choose
from sparq_eval.kernels.rank import rank
from sparq_eval.methods import Attended, Method, SparQ, State
from sparq_eval.methods.sparq import Kept, approximate
from sparq_eval.ops import Prompt, narrow
from sparq_eval.step import Columns, Step, Visible

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
ROUNDING = 2e-5
# the products of torch's that a kernel's launcher makes, while memory is poisoned
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# numpy, which stands in for the device in the interpreter, warns of infinities that kernels mean to make
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton", "ignore::RuntimeWarning:numpy")


@contextmanager
def poisoned() -> Iterator[None]:
    """What torch.empty gives is full of not-a-number, or of the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def draw_q(B: int, H: int, G: int, D: int, r: int) -> Tensor:
    """Queries whose r-th and (r + 1)-th component differ clearly in size, summed over the group: the one has 1.3 G or
    more, the other at most G. Which of near equals is chosen would be a matter of rounding.
    """
    size = 0.2 + 0.8 * torch.rand(B, H, G, D)
    top = torch.zeros(B, H, D).scatter(-1, torch.rand(B, H, D).topk(r).indices, 1.0)
    # what makes a component large is one query head's alone
    owner = torch.randint(G, (B, H, 1, D)) == torch.arange(G)[:, None]
    size += 1.1 * G * top[:, :, None] * owner
    return (size * torch.randint(2, size.shape).mul(2).sub(1)).unsqueeze(3)


def make(
    S: int = 300,
    *,
    B: int = 1,
    H: int = 2,
    G: int = 1,
    D: int = 64,
    r: int | None = None,
    dtype: torch.dtype = torch.float32,
    copy: str = "same",
    firsts: Sequence[int] = (),
    window: int | None = None,
    place: int | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    keys: Tensor | None = None,
) -> Step:
    """A step of S positions, the last or the one at `place` its own, and a copy of the keys with garbage behind them.

    firsts: where each example's visible positions begin.
    """
    q = draw_q(B, H, G, D, r or D).to(DEVICE, dtype)
    k = (torch.randn(B, H, S, D) if keys is None else keys).to(DEVICE, dtype)
    v = torch.randn(B, H, S, D).to(DEVICE, dtype)
    valid = torch.arange(S) >= torch.tensor(firsts or [0] * B)[:, None]
    visible = Visible(valid.to(DEVICE), 1, window, None if place is None else torch.tensor(place, device=DEVICE))
    logits = torch.randn(H, G).to(DEVICE) if sinks else None
    return Step(q, k, v, visible, D**-0.5, softcap, logits, columns_of(k, copy))


def columns_of(k: Tensor, copy: str) -> Columns | None:
    """A second copy with room for some more positions, which holds garbage."""
    if copy == "none":
        return None
    everywhere = Visible(torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device), 1)
    scale = Prompt(k[:, :, None, -1:], k, k, everywhere, 1.0).key_peaks / 127 if copy == "int8" else None
    values = narrow(k, copy, scale).mT
    room = torch.full((*values.shape[:3], -values.shape[-1] % 16 + 16), torch.nan, device=k.device)
    garbage = room.nan_to_num(-128) if copy == "int8" else room
    return Columns(torch.cat([values, garbage.to(values.dtype)], dim=-1), scale)


def state_of(method: SparQ, step: Step) -> Kept | None:
    """What the steps before have left: a sum of the values, but of a sliding window, and the scales of the copy."""
    total = None
    if method.reallocate and step.visible.window is None:
        before = step.visible.mask & ~step.visible.recent(0)
        total = torch.einsum("bs,bhsd->bhd", before[:, 0].float(), step.v.float())
    scale = step.columns and step.columns.scale
    return None if total is None and scale is None else Kept(total, scale)


def in_float64(step: Step) -> Step:
    """The same numbers, for the twin."""
    return replace(step, q=step.q.double(), k=step.k.double(), v=step.v.double(), columns=None)


def run(method: Method, step: Step, state: State = None) -> tuple[Attended, State]:
    """The kernel's step, which leaves its counters at zero."""
    kernel = cuda.KERNELS[type(method)](method)
    with poisoned():
        attended, after = kernel.attend(step, state)
    assert not kernel.counters(step).any()
    return attended, after


class Checked(NamedTuple):
    after: Kept | None
    found: Candidates


def check_sparq(method: SparQ, step: Step, state: Kept | None = None) -> Checked:
    """The choice is right to rounding, and the rest is what the twin makes of this choice."""
    founds = []

    def listen(*arguments: Any) -> Candidates:
        founds.append(rank(*arguments))
        return founds[-1]

    with patch.object(cuda, "rank", listen):
        ours, after = run(method, step, state)
    [found] = founds
    # they were chosen from once, and what was counted then is not to be counted again
    found.counts.zero_()
    with poisoned():
        positions = choose(cuda.KERNELS[SparQ](method).call(step), found).positions
    exact = in_float64(step)
    chosen = check_choice(method, exact, state, positions)
    plain = SparQ.rank

    def rank_chosen_first(self: SparQ, scores: Tensor) -> Tensor:
        return plain(self, scores).masked_fill(chosen[:, :, None], torch.inf)

    with patch.object(SparQ, "rank", rank_chosen_first):
        right, right_after = method.attend(exact, state)
    check_alike(ours, right, step)
    # float64 is wider, and a copy of it narrower
    assert ours.moved.equal(method.moved(step, right.selected))
    assert (after is None) == (right_after is None)
    if after is not None and after.value_sum is not None:
        sees = seeing(step)
        torch.testing.assert_close(after.value_sum[sees], right_after.value_sum[sees].float(), atol=1e-3, rtol=1e-5)
    return Checked(after, found)


def check_choice(method: SparQ, exact: Step, state: Kept | None, positions: Tensor) -> Tensor:
    """As many as there should be, each once, visible, not the query's own, the local window first, and none left out
    whose score exceeds a chosen one's by more than rounding. Returns the choice as a mask.
    """
    S, visible = exact.k.shape[2], exact.visible
    candidates = (visible.mask & ~visible.recent(0)).expand(-1, exact.k.shape[1], -1)  # (B, H, S)
    used = positions >= 0
    assert positions[used].lt(S).all()
    marks = torch.zeros(*positions.shape[:2], S + 1, dtype=torch.bool, device=positions.device)
    chosen = marks.scatter(-1, positions.long().masked_fill(~used, S), True)[..., :S]
    assert chosen.sum(dim=-1).equal(used.sum(dim=-1)), "a position was listed twice"
    assert chosen.sum(dim=-1).equal(candidates.sum(dim=-1).clamp(max=int(method.k)))
    assert not (chosen & ~candidates).any()
    scores = approximate(exact, int(method.r), method.copy, state.scale if state else None)
    ranked = method.rank(scores).squeeze(2)
    if method.rank_by == "weights" and scores.shape[2] > 1:
        # rounding changes their logarithms as it does logits
        ranked = ranked.clamp(min=0).log()
    ranked = ranked.masked_fill(visible.recent(method.local or 0), torch.inf)
    least = ranked.masked_fill(~chosen, torch.inf).amin(dim=-1)
    most = ranked.masked_fill(chosen | ~candidates, -torch.inf).amax(dim=-1)
    size = ranked.nan_to_num(0, 0, 0).abs().amax(dim=-1)
    assert (most <= least + ROUNDING * (1 + size)).all()
    return chosen


def check_alike(ours: Attended, right: Attended, step: Step) -> None:
    """Alike where something is seen; zeros elsewhere."""
    sees = seeing(step)
    assert ours.out.dtype == step.v.dtype
    assert ours.out[~sees].eq(0).all()
    a, b = ours.out[sees].double(), right.out[sees].double()
    away = (a - b).norm(dim=-1) / b.norm(dim=-1)
    assert (away < CLOSE[step.v.dtype]).all(), away.max()
    assert ours.selected.equal(right.selected)


def seeing(step: Step) -> Tensor:
    """Which examples see something."""
    return step.visible.count[:, 0] > 0
