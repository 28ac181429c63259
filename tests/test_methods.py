"""Laws of single methods that need no model."""

import pytest
import torch

from sparq_eval.methods import SparQ
from sparq_eval.ops import Prompt
from sparq_eval.step import Step, Visible


def step_of(T: int, S: int, window: int | None = None) -> Step:
    """Random queries, keys and values of two examples, the first of them padded on the left."""
    source = torch.Generator().manual_seed(11)
    q = torch.randn(2, 2, 3, T, 8, generator=source)
    k, v = torch.randn(2, 2, 2, S, 8, generator=source)
    valid = torch.ones(2, S, dtype=torch.bool)
    valid[0, :4] = False
    return Step(q, k, v, Visible(valid, T, window), scale=8**-0.5)


@pytest.mark.parametrize("window", [None, 7])
def test_the_running_mean_is_the_mean(window: int | None) -> None:
    method = SparQ(r=3, k=5, reallocate=True)
    whole = step_of(T=40, S=40, window=window)
    prompt = whole.narrow(0, 30)
    state = method.prefill(Prompt(prompt.q, prompt.k, prompt.v, prompt.visible, prompt.scale))
    for t in range(30, 40):
        attended, state = method.attend(whole.narrow(t, t + 1), state)
        anew, _ = method.attend(whole.narrow(t, t + 1), None)
        torch.testing.assert_close(attended.out, anew.out)


def test_k_positions_and_the_querys_own_are_attended() -> None:
    attended, _ = SparQ(r=3, k=5).attend(step_of(T=1, S=40), None)
    assert attended.selected.eq(6).all()


def test_positions_of_the_local_window_are_always_attended() -> None:
    step = step_of(T=1, S=40)
    # the most recent keys are made the worst there are
    step.k[:, :, -6:] = -100 * step.q.sum(dim=2)
    marks = torch.zeros_like(step.v)
    marks[:, :, -6:] = 1e6
    attended, _ = SparQ(r=8, k=5, local=5).attend(Step(step.q, step.k, marks, step.visible, step.scale), None)
    assert (attended.out > 1e5).all()


def test_a_query_of_zeros_gives_numbers() -> None:
    step = step_of(T=1, S=40)
    attended, _ = SparQ(r=3, k=5, reallocate=True).attend(
        Step(torch.zeros_like(step.q), step.k, step.v, step.visible, step.scale), None
    )
    assert attended.out.isfinite().all()
