"""What a kernel is: the fast twin of a method, for decode steps (T = 1)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparq_eval.methods.method import Attended, Method, State
from sparq_eval.ops import Prompt
from sparq_eval.step import Columns, Step, Visible

NARROW = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass
class Kernel(ABC):
    """Attends as its method does, to rounding; of equal scores either may be chosen.

    The positions that a query sees must be one run, as after left padding, before right padding or in a window.
    """

    method: Method

    @property
    def copy(self) -> str | None:
        """Which second copy of the keys it reads (see `Step.columns`); None for none."""
        return None

    def prefill(self, prompt: Prompt, room: int) -> State:
        """As `Method.prefill`. room: how many tokens may follow."""
        return self.method.prefill(prompt)

    @abstractmethod
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        """As `Method.attend`. ValueError for more than one query."""


def require_one(step: Step, name: str) -> None:
    if (T := step.q.shape[3]) != 1:
        raise ValueError(f"{name} decodes one token at a time; got {T} queries")


def columns_of(step: Step, copy: str) -> Columns:
    """The second copy of the keys. ValueError if there is none, or not the one that is asked for."""
    if step.columns is None:
        raise ValueError(f"copy={copy} reads a second copy of the keys, and step.columns is missing")
    right = NARROW.get(copy, step.k.dtype)
    if step.columns.values.dtype != right:
        raise ValueError(f"copy={copy} reads columns of {right}; got {step.columns.values.dtype}")
    if (step.columns.scale is None) == (copy == "int8"):
        raise ValueError("columns of int8 need a scale, and no others have one")
    return step.columns


def run_of(visible: Visible) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:
    """Where each example's visible positions begin, and where they end. ValueError if they are not one run."""

    def find() -> tuple[Tensor, Tensor]:
        seen = visible.mask[:, 0]
        first, count = seen.byte().argmax(dim=-1).int(), visible.count[:, 0].int()
        stop = first + count
        # a step that is being recorded was run before as it is, and checked then
        if not (seen.is_cuda and torch.cuda.is_current_stream_capturing()):
            at = torch.arange(seen.shape[-1], device=seen.device)
            if not ((at >= first[:, None]) & (at < stop[:, None]) == seen).all():
                raise ValueError("a kernel needs the positions that a query sees to be one run, without gaps")
        return first, stop

    found: tuple[Any, Any] = visible.once("run", find)
    return found
