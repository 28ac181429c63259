"""Methods that go wrong, each in a way of its own, and one that does not."""

import os
import time
from dataclasses import dataclass, replace

import torch

from sparq_eval.methods import Attended, Dense, Method, Shape, State
from sparq_eval.step import Step


@dataclass(frozen=True)
class Bad(Method):
    """Attends as dense does."""

    k: int = 1

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        return Dense().attend(step, state)

    def transfers(self, S: float, shape: Shape) -> float:
        return Dense().transfers(S, shape)


@dataclass(frozen=True)
class Raises(Bad):
    """Breaks once enough is cached, if k is 3."""

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        if self.k == 3 and step.k.shape[-2] > 30:
            raise IndexError("index 41 is out of bounds for\nan axis that is too short")
        return super().attend(step, state)


@dataclass(frozen=True)
class NotFinite(Bad):
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        attended, state = super().attend(step, state)
        return replace(attended, out=attended.out * float("nan")), state


@dataclass(frozen=True)
class Hungry(Bad):
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@dataclass(frozen=True)
class Slow(Bad):
    """Takes its time, so that a job can be met in its midst, and goes no further while the file HELD is there."""

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        time.sleep(float(os.environ.get("SLOW", "0.03")))
        while os.path.exists(os.environ.get("HELD", "")):
            time.sleep(0.1)
        return super().attend(step, state)
