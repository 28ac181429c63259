"""FlexGen's sparse values (arXiv 2303.06865): all keys are read, then only the values of the k largest weights."""

from dataclasses import dataclass
from typing import final

from sparq_eval.methods.method import Attended, Method, Shape, State, count_of, require
from sparq_eval.ops import logits, mix, softmax, take
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class FlexGen(Method):
    """k: values read, the query's own among the candidates. The weights that are left are not renormalised."""

    k: int = 128

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", self.k, "at least one value must be read")

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        weights = softmax(logits(step), step.sinks)  # (B, H, G, T, S)
        total = weights.sum(dim=2).masked_fill(~step.visible.mask[:, None], -1)  # (B, H, T, S)
        index = total.topk(min(self.k, total.shape[-1]), dim=-1, sorted=False).indices
        spread = index[:, :, None].expand(-1, -1, step.groups, -1, -1)
        kept = weights.gather(-1, spread)
        if step.q.shape[3] == 1:
            out = mix(kept, take(step.v, index[:, :, 0]))
        else:
            out = mix(weights.new_zeros(weights.shape).scatter_(-1, spread, kept), step.v)
        seen = step.visible.mask[:, None].expand_as(total).gather(-1, index)
        age = step.visible.age[:, None].expand_as(total).gather(-1, index)
        selected = seen.sum(dim=-1)
        D = step.head_size
        # the query's own value need not be read
        moved = (count_of(step) - 1) * D + (age > 0).sum(dim=-1) * D + 2 * D
        return Attended(out, selected, moved), state

    def transfers(self, S: float, shape: Shape) -> float:
        return S * shape.head_size + self.k * shape.head_size + 2 * shape.head_size
