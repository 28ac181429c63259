"""Kernels for CUDA devices, written in Triton."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from sparq_eval.kernels.candidates import Ranking
from sparq_eval.kernels.gather import Attention, attend_ends, attend_ranked
from sparq_eval.kernels.h2o import Slots, attend_and_evict, keep
from sparq_eval.kernels.rank import rank
from sparq_eval.methods import H2O, Attended, Dense, FlexGen, LMInfinite, SparQ, State
from sparq_eval.methods.kernel import Kernel, columns_of, require_one, run_of
from sparq_eval.methods.method import count_of, whole
from sparq_eval.methods.sparq import Kept
from sparq_eval.ops import Prompt
from sparq_eval.step import Step, once


@dataclass
class Counters:
    """Zeros in which the programs of a head count those that have ended; every kernel leaves zeros."""

    made: dict[tuple[torch.device, int], Tensor] = field(default_factory=dict)

    def __call__(self, step: Step) -> Int[Tensor, "R"]:
        rows, device = step.k.shape[0] * step.k.shape[1], step.k.device
        return once(self.made, (device, rows), lambda: torch.zeros(rows, dtype=torch.int32, device=device))


@dataclass
class TritonKernel(Kernel):
    counters: Counters = field(default_factory=Counters)

    def call(self, step: Step) -> Attention:
        """The step as kernels see it. ValueError for more than one query."""
        require_one(step, f"the kernel of {type(self.method).__name__}")
        first, stop = run_of(step.visible)
        q = step.q[:, :, :, 0].contiguous()
        return Attention(q, step.k, step.v, first, stop, self.counters(step), step.scale, step.softcap, step.sinks)


@final
@dataclass
class SparQKernel(TritonKernel):
    """One launch ranks, one attends to what was chosen; between them some more choose, where the first cannot."""

    method: SparQ

    @property
    def copy(self) -> str | None:
        return None if self.method.copy == "none" else self.method.copy

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        call = self.call(step)
        if self.method.ablation:
            raise ValueError(f"{self.method.ablation}: this kernel ranks as SparQ does")
        method, kept, D = self.method, state or Kept(), step.head_size
        # never more than there is room for
        k = min(whole(method.k), step.k.shape[2])
        # where a head has no group, its weights rank as its logits do
        by_weights = method.rank_by == "weights" and step.groups > 1
        how = Ranking(
            whole(method.r), k, method.local or 0, step.scale, step.softcap, bool(method.reallocate),
            by_weights=by_weights,
        )  # fmt: skip
        keys = step.k if method.copy == "none" else columns_of(step, method.copy)
        found = rank(call.q, keys, call.first, call.stop, how)
        before = kept.value_sum
        if method.reallocate and before is None:
            # without a running sum the values before the query's own are summed anew
            before = sum_seen(step) - step.own_v[:, :, 0].float()
        out, value_sum = attend_ranked(call, found, before)
        selected, moved = step.visible.once((method, D), lambda: counts(method, step))
        if kept.value_sum is not None:
            kept = kept._replace(value_sum=value_sum)
        return Attended(out[:, :, :, None], selected, moved), None if state is None else kept


def counts(method: SparQ, step: Step) -> tuple[Tensor, Tensor]:
    selected = count_of(step).clamp(max=whole(method.k) + 1)
    return selected, method.moved(step, selected)


@final
@dataclass
class FlexGenKernel(TritonKernel):
    """All keys are read, from the copy that ranks; then the values of the chosen."""

    method: FlexGen

    @property
    def copy(self) -> str | None:
        return "same"

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        call = self.call(step)
        k, sinks = min(whole(self.method.k), step.k.shape[2]), step.sinks
        by_weights = step.groups > 1 or sinks is not None
        how = Ranking(
            step.head_size, k, -1, step.scale, step.softcap, covered=True, own=False, by_weights=by_weights, sinks=sinks
        )
        found = rank(call.q, columns_of(step, "same"), call.first, call.stop, how)
        # weights are those beside the sink: it is in what is covered, not in the softmax over the chosen
        out, _ = attend_ranked(replace(call, sinks=None), found, None)
        count, D = count_of(step), step.head_size
        selected = count.clamp(max=k)
        # whether the query's own value is among the chosen is not looked up: it is counted as read
        return Attended(out[:, :, :, None], selected, (count - 1) * D + selected * D + 2 * D), state


@final
@dataclass
class LMInfiniteKernel(TritonKernel):
    method: LMInfinite

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        k, sink = whole(self.method.k), self.method.sink
        out = attend_ends(self.call(step), sink, k - sink)
        selected = count_of(step).clamp(max=k)
        return Attended(out[:, :, :, None], selected, 2 * selected * step.head_size), state


@final
@dataclass
class H2OKernel(TritonKernel):
    """What is evicted is dropped: the state is all of the cache that is read. It is changed in place."""

    method: H2O

    def prefill(self, prompt: Prompt, room: int) -> Slots:
        return keep(prompt, whole(self.method.k), self.method.local or 0, room)

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        call, own_k = self.call(step), step.own_of(step.k)
        out = attend_and_evict(call, state, own_k[:, :, 0], step.own_v[:, :, 0], self.method.local or 0)
        selected, moved = step.visible.once((self.method, step.head_size), lambda: self.counts(step))
        return Attended(out[:, :, :, None], selected, moved), state

    def counts(self, step: Step) -> tuple[Tensor, Tensor]:
        count, k = count_of(step), whole(self.method.k)
        selected = count.clamp(max=k + 1)
        # scores: those of the slots and the new one's are compared, those that stay are written
        return selected, 2 * selected * step.head_size + count.clamp(max=k + 2) + selected


@final
@dataclass
class DenseKernel(TritonKernel):
    """Everything that is seen, split over programs as in flash decoding."""

    method: Dense

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        out = attend_ends(self.call(step), 0, step.k.shape[2])
        count = count_of(step)
        return Attended(out[:, :, :, None], count, 2 * count * step.head_size), state


def sum_seen(step: Step) -> Tensor:
    return torch.einsum("bs,bhsd->bhd", step.visible.mask[:, 0].float(), step.v.float())


KERNELS: dict[type, type[Kernel]] = {
    SparQ: SparQKernel,
    H2O: H2OKernel,
    FlexGen: FlexGenKernel,
    LMInfinite: LMInfiniteKernel,
    Dense: DenseKernel,
}
