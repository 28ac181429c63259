"""Every method meets what the authors' code computes on the same arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ
from sparq_eval.ops import Prompt
from sparq_eval.step import Step, Visible

TOLERANCE = 1e-5


def method_of(name: str) -> Method:
    """`sparq.r4.k8.local2.reallocate1` -> SparQ(r=4, k=8, local=2, reallocate=True)"""
    kinds = {"dense": Dense, "sparq": SparQ, "lm_infinite": LMInfinite, "flexgen": FlexGen, "h2o": H2O}
    kind, *settings = name.split(".")
    values = {s.rstrip("0123456789"): int(s[len(s.rstrip("0123456789")) :]) for s in settings}
    if "reallocate" in values:
        values["reallocate"] = bool(values["reallocate"])
    return kinds[kind](**values)


def step_of(arrays: dict[str, np.ndarray], T: int) -> Step:
    """The last T queries of the arrays, over all keys up to each of them."""
    q, k, v, valid = (torch.from_numpy(arrays[name]) for name in ("q", "k", "v", "valid"))
    H = k.shape[1]
    return Step(q[:, :, -T:].unflatten(1, (H, -1)), k, v, Visible(valid, T), scale=q.shape[-1] ** -0.5)


@pytest.mark.parametrize("heads", ["mha", "gqa"])
def test_one_step_of_every_method_meets_the_authors_code(shared: Path, heads: str) -> None:
    arrays = dict(np.load(shared / f"golden/attention/one_step_{heads}.npz"))
    names = sorted(set(arrays) - {"q", "k", "v", "valid"})
    assert len(names) == 28
    step = step_of(arrays, T=1)
    for name in names:
        attended, _ = method_of(name).attend(step, None)
        difference = (attended.out.flatten(1, 2) - torch.from_numpy(arrays[name])).abs().max()
        assert difference < TOLERANCE, f"{name}: {difference}"


@pytest.mark.parametrize("heads", ["mha", "gqa"])
@pytest.mark.parametrize("name", ["h2o.k8.local2", "h2o.k16.local4", "h2o.k32.local8"])
def test_h2o_evicts_what_the_authors_code_evicts(shared: Path, heads: str, name: str) -> None:
    arrays = dict(np.load(shared / f"golden/attention/h2o_{heads}.npz"))
    P, S = int(arrays["prefill"]), arrays["k"].shape[2]
    whole = step_of(arrays, T=S)
    method = method_of(name)
    prompt = whole.narrow(0, P)
    state = method.prefill(Prompt(prompt.q, prompt.k, prompt.v, prompt.visible, prompt.scale))
    for n in range(S - P):
        attended, state = method.attend(whole.narrow(P + n, P + n + 1), state)
        expected = torch.from_numpy(arrays[f"{name}.outputs"][:, :, n])
        assert (attended.out.flatten(1, 2)[:, :, 0] - expected).abs().max() < TOLERANCE
        present = torch.from_numpy(arrays[f"{name}.attended"][:, :, n, : state.alive.shape[-1]])
        assert torch.equal(state.alive & whole.visible.mask[:, P + n, None, : P + n + 1], present)
