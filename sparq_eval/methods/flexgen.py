"""FlexGen's sparse values (arXiv 2303.06865): all keys are read, then only the values of the k largest weights."""

from dataclasses import dataclass, replace
from typing import Self, final

from sparq_eval.methods.method import Attended, Budget, Method, Shape, State, count_of, fit_k, is_share, least_k, whole
from sparq_eval.ops import logits, mix, softmax, take
from sparq_eval.step import Step


@final
@dataclass(frozen=True)
class FlexGen(Method):
    """k: values read, the query's own among the candidates, or a share of the prompt, then at least `min_k`. The
    weights that are left are not renormalised.
    """

    k: Budget = 128
    min_k: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_k", least_k(self.k, self.min_k))

    def fit(self, S: int) -> Self:
        return replace(self, k=fit_k(self.k, S, self.min_k)) if is_share(self.k) else self

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        weights = softmax(logits(step), step.sinks)  # (B, H, G, T, S)
        total = weights.sum(dim=2).masked_fill(~step.visible.mask[:, None], -1)  # (B, H, T, S)
        index = total.topk(min(whole(self.k), total.shape[-1]), dim=-1, sorted=False).indices
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
