"""A decode step as one launch: recorded as a CUDA graph, replayed for every token.

A step of many settings is tens of thousands of small kernels; launching them one by one takes longer than running them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparq_eval.hf.cache import Cache
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.tally import Tally
from sparq_eval.progress import say

if TYPE_CHECKING:
    from sparq_eval.hf.engine import Engine


class Recorded:
    """One token for each setting and each example of the cache. Shapes stay those of the whole buffer throughout.

    The first step runs as it is, which also gives the methods' states their final shapes; the second is recorded.
    """

    def __init__(self, engine: "Engine", cache: Cache, tallies: Sequence[Tally]) -> None:
        N, B, device = len(cache.methods), len(cache.valid), cache.valid.device
        self.engine, self.cache, self.tallies = engine, cache, tallies
        self.rows = [torch.arange(B, device=device)] * N
        self.token = torch.zeros((), dtype=torch.long, device=device)
        self.ids, self.at = (torch.zeros(N * B, 1, dtype=torch.long, device=device) for _ in range(2))
        self.live = torch.zeros(N, B, 1, dtype=torch.bool, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.steps = 0
        self.logits: Tensor | None = None

    def __call__(
        self, ids: Int[Tensor, "R 1"], at: Int[Tensor, "R 1"], token: int, live: Bool[Tensor, "N B 1"]
    ) -> Float[Tensor, "R V"]:
        for place, value in ((self.ids, ids), (self.at, at), (self.live, live)):
            place.copy_(value)
        self.token.fill_(token)
        self.steps += 1
        if self.steps == 2 and self.engine.can_record:
            self.part_states()
            self.record()
        if self.graph is None:
            return self.step(in_place=False)
        self.graph.replay()
        assert self.logits is not None
        return self.logits

    def step(self, in_place: bool) -> Float[Tensor, "R V"]:
        session = Decode(self.cache, self.rows, self.token, self.tallies, in_place)
        logits = self.engine.forward(self.ids, self.at, session, last_only=True)[:, -1]
        session.close(list(self.live))
        return logits

    def part_states(self) -> None:
        """Settings may share a state that none of them has changed yet: in place, each needs its own."""
        for layer in self.cache.layers.values():
            layer.states = [tree_map_only(Tensor, torch.clone, state) for state in layer.states]

    def record(self) -> None:
        """Record a step; where the model's code cannot be, say so once and go on without."""
        graph = torch.cuda.CUDAGraph()
        try:
            # a graph records what happens on the current device
            with torch.cuda.device(self.token.device), torch.cuda.graph(graph):
                self.logits = self.step(in_place=True)
        except RuntimeError as error:
            say(f"this model's step cannot be recorded ({str(error).splitlines()[0]}): decoding launches every kernel")
            self.engine.can_record = False
            for tally in self.tallies:
                tally.waiting.clear()
            return
        self.graph = graph
