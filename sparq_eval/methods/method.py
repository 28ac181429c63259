"""The contract of a method: frozen settings, `attend`, `transfers`, and `prefill` where it keeps a state."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.ops import Prompt
from sparq_eval.step import Step

State = Any
EVERYTHING = 2**30  # more positions than any cache has


@dataclass(frozen=True)
class Shape:
    """A layer's attention: H key/value heads, G query heads for each of them, head size D."""

    heads: int
    groups: int
    head_size: int


@dataclass(frozen=True)
class Attended:
    """What a method returns for a step.

    selected: positions attended, the query's own among them. moved: elements read from and written to the cache.
    """

    out: Float[Tensor, "B H G T D"]
    selected: Int[Tensor, "B H T"]
    moved: Int[Tensor, "B H T"]

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

    def prefill(self, prompt: Prompt) -> State:
        """The state after the prompt, which every method attends to densely. None for a method without a state."""
        return None

    @abstractmethod
    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        """Attend from each of the T queries as if it were decoded alone, after those before it."""

    @abstractmethod
    def transfers(self, S: float, shape: Shape) -> float:
        """The paper's formula: elements moved per key/value head and generated token, S tokens being cached."""

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)


def require(condition: bool, key: str, value: object, right: str) -> None:
    """Raise ValueError that names a setting, its value and what would be right."""
    if not condition:
        raise ValueError(f"{key}={value}: {right}")


def count_of(step: Step) -> Int[Tensor, "B H T"]:
    """Positions that each query sees, itself among them, for each key/value head."""
    return step.visible.count[:, None].expand(-1, step.k.shape[1], -1)
