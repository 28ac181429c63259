"""What is timed by the bench of attention: sizes, random caches of these sizes, and one implementation of a method."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparq_eval.methods import Method, Shape
from sparq_eval.ops import second_copy
from sparq_eval.step import Step, Visible


@dataclass(frozen=True)
class Case:
    """Sizes as in `sparq_eval.step`: H key/value heads of G query heads each."""

    B: int
    H: int
    G: int
    D: int
    S: int
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> Shape:
        return Shape(self.H, self.G, self.D, self.dtype.itemsize)


@dataclass(frozen=True)
class Runner:
    """One implementation of one method. start: what a method keeps beside keys and values; call: one decode step."""

    name: str
    backend: str
    method: Method
    start: Callable[[Step], Any]
    call: Callable[[Step, Any], Tensor]
    copy: str | None = None


def steps_of(case: Case, copies: set[str]) -> dict[str | None, Step]:
    """A step on fresh random caches; by copy, the same step with that second copy of the keys."""
    B, H, G, D, S = case.B, case.H, case.G, case.D, case.S
    k, v = (torch.randn(B, H, S, D, device=case.device, dtype=case.dtype) for _ in range(2))
    q = torch.randn(B, H, G, 1, D, device=case.device, dtype=case.dtype)
    visible = Visible(torch.ones(B, S, dtype=torch.bool, device=case.device), 1)
    step = Step(q, k, v, visible, D**-0.5)
    found: dict[str | None, Step] = {None: step}
    for copy in sorted(copies):
        scale = k.abs().amax(dim=2).float() / 127 if copy == "int8" else None
        found[copy] = replace(step, columns=second_copy(k, copy, scale))
    return found
