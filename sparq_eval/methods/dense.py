"""Dense attention: every query reads every key and value. The reference that the others are measured against."""

from dataclasses import dataclass
from typing import final

from sparq_eval.methods.method import Attended, Method, Shape, State, count_of
from sparq_eval.ops import logits, mix, softmax
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class Dense(Method):
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        count = count_of(step)
        # the query's own key and value are written, those before it read: 2 D each
        moved = 2 * count * step.head_size
        return Attended(mix(softmax(logits(step), step.sinks), step.v), count, moved), state

    def transfers(self, S: float, shape: Shape) -> float:
        return 2 * S * shape.head_size + 2 * shape.head_size
