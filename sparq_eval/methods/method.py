"""The contract of a method: frozen settings, `attend`, `transfers`, and `prefill` where it keeps a state.

A budget is a whole number or a share, between 0 and 1, of what it is a budget of; shares become whole before `attend`.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, TypeGuard

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from sparq_eval.ops import Prompt
from sparq_eval.step import Step

State = Any
Budget = int | float
EVERYTHING = 2**30  # more positions than any cache has


@dataclass(frozen=True)
class Shape:
    """A layer's attention: H key/value heads, G query heads for each of them, head size D.

    itemsize: bytes of an element of its cache, by which a copy of fewer bytes is known to be narrow.
    """

    heads: int
    groups: int
    head_size: int
    itemsize: int = 2


@dataclass(frozen=True)
class Attended:
    """What a method returns for a step.

    selected: positions attended, the query's own among them. moved: elements read from and written to the cache; a
    narrower one counts as the part of an element that its bytes are.
    """

    out: Float[Tensor, "B H G T D"]
    selected: Int[Tensor, "B H T"]
    moved: Num[Tensor, "B H T"]

    @staticmethod
    def join(parts: "list[Attended]") -> "Attended":
        """Parts of a step, in the order of their queries."""
        return Attended(
            torch.cat([part.out for part in parts], dim=3),
            torch.cat([part.selected for part in parts], dim=2),
            torch.cat([part.moved for part in parts], dim=2),
        )


@dataclass(frozen=True)
class Method(ABC):
    """A way to attend to cached tokens. Its dataclass fields are its settings; it holds no tensor and never changes.

    Errors: a setting that can never be right raises ValueError when the method is made, one that this model's shape
    rules out when it is `resolve`d.
    """

    def resolve(self, shape: Shape) -> Self:
        """With the defaults filled in that depend on the model. Raises ValueError for budgets that it rules out."""
        return self

    def unlimited(self, shape: Shape) -> Self | None:
        """The setting that leaves nothing out, which is dense attention; None if there is none.

        By itself a method is taken to have no budgets but `k` and `r`.
        """
        names = {field.name for field in fields(self)}
        budgets = {"k": EVERYTHING, "r": shape.head_size}
        found = {name: budget for name, budget in budgets.items() if name in names}
        return replace(self, **found).resolve(shape) if found or not names else None

    def fit(self, S: int) -> Self:
        """With `k` made whole, for a prompt of S tokens, where it is a share of the prompt."""
        return self

    @classmethod
    def compressed(cls, compression: float, shape: Shape) -> dict[str, Any]:
        """Settings beside `k` that moving 1/compression of dense calls for, unless given; `k` is solved after them."""
        return {}

    def prefill(self, prompt: Prompt) -> State:
        """The state after the prompt, which every method attends to densely. None for a method without a state."""
        return None

    @abstractmethod
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        """Attend from each of the T queries as if it were decoded alone, after those before it."""

    @abstractmethod
    def transfers(self, S: float, shape: Shape) -> float:
        """The paper's formula: elements moved per key/value head and generated token, S tokens being cached."""

    def transfers_as_printed(self, S: float, shape: Shape) -> float:
        """The same as the paper's text has it, where that is not what its published code computes."""
        return self.transfers(S, shape)

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of the method: its fields, without a `min_k` that does nothing."""
        values = asdict(self)
        if not is_share(values.get("k")):
            values.pop("min_k", None)
        return values


def require(condition: bool, key: str, value: object, right: str) -> None:
    """Raise ValueError that names a setting, its value and what would be right."""
    if not condition:
        raise ValueError(f"{key}={value}: {right}")


def is_share(budget: object) -> TypeGuard[float]:
    return isinstance(budget, float) and 0 < budget < 1


def require_budget(key: str, value: Budget, of: str) -> None:
    """Raise ValueError for what is neither a whole number of at least 1 nor a share."""
    whole = isinstance(value, int) and value >= 1
    require(whole or is_share(value), key, value, f"a whole number of at least 1, or a share of {of} between 0 and 1")


def least_k(k: Budget, min_k: int) -> int:
    """`min_k` after a check; 1 where k is whole, so that settings that do the same are equal."""
    require_budget("k", k, "the prompt")
    require(isinstance(min_k, int) and min_k >= 1, "min_k", min_k, "a whole number of at least 1")
    return min_k if is_share(k) else 1


def local_of(k: Budget, local: int | None) -> int | None:
    """`local` after a check, by default a quarter of k; a share has no quarter until it is fitted."""
    if is_share(k):
        require(local is None or local >= 0, "local", local, "at least 0")
        return local
    local = int(k) // 4 if local is None else local
    require(0 <= local <= k, "local", local, f"between 0 and k={k}")
    return local


def fit_k(k: Budget, S: int, least: int) -> int:
    """k for a prompt of S tokens: a share is rounded down, as in the paper, and never below `least`."""
    return max(least, int(k * S)) if is_share(k) else int(k)


def whole(budget: Budget) -> int:
    """A budget that must be whole by now."""
    if is_share(budget):
        raise TypeError(f"a share, {budget}, must be made whole by `resolve` and `fit` before it is used")
    return int(budget)


def count_of(step: Step) -> Int[Tensor, "B H T"]:
    """Positions that each query sees, itself among them, for each key/value head."""
    return step.visible.count[:, None].expand(-1, step.k.shape[1], -1)
