"""What one attention call sees, and the letters that name its sizes everywhere in this project.

B  examples of the batch          G  query heads that share a key/value head      S  key positions
H  key/value heads                T  query positions                              D  head size
N  positions chosen for a query

Queries, keys and values are those after position embedding. The last T key positions are the queries' own, but where
`Visible.place` says otherwise.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Key = TypeVar("Key")
Made = TypeVar("Made")


def once(kept: dict[Key, Made], key: Key, make: Callable[[], Made]) -> Made:
    """What `make` gives, made for the first that asks and kept for the others."""
    if key not in kept:
        kept[key] = make()
    return kept[key]


@dataclass(frozen=True)
class Visible:
    """Which key positions each query may see: no padding, nothing later, nothing beyond a sliding window.

    valid: false at padding. window: a query sees this many of the latest positions, itself among them; None for all.
    place: the position of the first query, as a tensor where it changes while shapes stay (a recorded step); None where
    the queries are the last positions.
    """

    valid: Bool[Tensor, "B S"]
    queries: int
    window: int | None = None
    place: Int[Tensor, ""] | None = None

    @cached_property
    def mask(self) -> Bool[Tensor, "B T S"]:
        S = self.valid.shape[1]
        key = torch.arange(S, device=self.valid.device)
        query = key[S - self.queries :, None] if self.place is None else self.place + key[: self.queries, None]
        inside = key <= query
        if self.window is not None:
            inside &= key > query - self.window
        return self.valid[:, None] & inside

    @cached_property
    def age(self) -> Int[Tensor, "B T S"]:
        """How many visible positions come after this one: 0 for the query's own, -1 where nothing is to be seen."""
        after = self.count[..., None] - self.mask.cumsum(dim=-1)
        return after.masked_fill(~self.mask, -1)

    @cached_property
    def count(self) -> Int[Tensor, "B T"]:
        return self.mask.sum(dim=-1)

    def recent(self, n: int) -> Bool[Tensor, "B T S"]:
        """The query's own position and the n visible ones before it."""
        return self.once(("recent", n), lambda: (self.age >= 0) & (self.age <= n))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made for the first layer and kept for the others, which see the same positions."""
        return once(self._made, key, make)

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def narrow(self, first: int, last: int) -> "Visible":
        """The part of the queries first..last-1, without the keys that come after them."""
        return Visible(self.valid[:, : self.valid.shape[1] - self.queries + last], last - first, self.window)


@dataclass(frozen=True)
class Columns:
    """A second copy of the keys in which the positions of a component lie side by side, for reading some components.

    values: as keys are, or narrow (float8, int8). scale: what int8 values are multiplied by, a component.
    """

    values: Shaped[Tensor, "B H D S"]
    scale: Float[Tensor, "B H D"] | None = None


@dataclass(frozen=True)
class Step:
    """One attention call of one layer.

    scale multiplies the logits; softcap (Gemma 2) bends them to softcap * tanh(logits / softcap); sinks (GPT-OSS) are
    logits, one a query head, of a position without a value. columns: the second copy of the keys that some kernels
    read, where the cache keeps it.
    """

    q: Float[Tensor, "B H G T D"]
    k: Float[Tensor, "B H S D"]
    v: Float[Tensor, "B H S D"]
    visible: Visible
    scale: float
    softcap: float | None = None
    sinks: Float[Tensor, "H G"] | None = None
    columns: Columns | None = None

    @property
    def groups(self) -> int:
        return self.q.shape[2]

    @property
    def head_size(self) -> int:
        return self.q.shape[-1]

    @property
    def own_v(self) -> Float[Tensor, "B H T D"]:
        """The values of the queries' own positions."""
        return self.own_of(self.v)

    def own_of(self, x: Float[Tensor, "B H S D"]) -> Float[Tensor, "B H T D"]:
        """The entries of keys or values at the queries' own positions."""
        T, place = self.q.shape[3], self.visible.place
        if place is None:
            return x[:, :, -T:]
        return x.index_select(2, place + torch.arange(T, device=place.device))

    def narrow(self, first: int, last: int) -> "Step":
        """The part of the queries first..last-1, without the keys that come after them."""
        T, S = self.q.shape[3], self.k.shape[2]
        end = S - T + last
        return replace(
            self,
            q=self.q[:, :, :, first:last],
            k=self.k[:, :, :end],
            v=self.v[:, :, :end],
            visible=self.visible.narrow(first, last),
            columns=None,
        )
