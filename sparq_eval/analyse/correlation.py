"""How much of the variance of keys or values the mean along an axis explains: Table 1 of the paper.

The correlation ratio along an axis of n entries is the root of n sum(mean - total mean)^2 / sum(x - total mean)^2, sums
over all entries; of independent entries it is n^-1/2. Examples come one by one; no more is kept than sums over them.
"""

from dataclasses import dataclass, field
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

AXES = ("batch", "sequence", "layer", "head", "head size")


@dataclass
class Correlation:
    """Of arrays [batch, layer, head, sequence, head size] that arrive layer by layer, example by example."""

    layers: int
    examples: int = 0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    means: dict[str, float] = field(default_factory=lambda: dict.fromkeys(AXES, 0.0))  # sums of squares of means
    over_layers: Tensor | None = None
    over_examples: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, layer: int, x: Float[Tensor, "H n D"]) -> None:
        """One layer of an example; its layers come in any order, all before the next example's."""
        x = x.float()
        wide = x.double()
        self.count += x.numel()
        self.total += wide.sum().item()
        self.squares += wide.square().sum().item()
        for axis, dim in (("head", 0), ("sequence", 1), ("head size", 2)):
            self.sizes[axis] = x.shape[dim]
            self.means[axis] += wide.mean(dim=dim).square().sum().item()
        if layer in self.over_examples:
            self.over_examples[layer] += x
        else:
            self.over_examples[layer] = x.clone()
        self.over_layers = x.clone() if self.over_layers is None else self.over_layers + x.to(self.over_layers.device)

    def close(self) -> None:
        """The end of an example."""
        assert self.over_layers is not None
        self.means["layer"] += (self.over_layers.double() / self.layers).square().sum().item()
        self.over_layers = None
        self.examples += 1

    def ratios(self) -> dict[str, dict[str, float]]:
        """For each axis its size, the ratio, and the excess over that of independent entries."""
        sizes = {"batch": self.examples, "layer": self.layers, **self.sizes}
        sums = [(x.double() / self.examples).square().sum().item() for x in self.over_examples.values()]
        means = self.means | {"batch": sum(sums)}
        level = self.total**2 / self.count
        found = {}
        for axis in AXES:
            n = sizes[axis]
            ratio = sqrt(max(0.0, n * means[axis] - level) / (self.squares - level))
            found[axis] = {"size": n, "ratio": ratio, "excess": ratio - n**-0.5}
        return found


def tail(x: Float[Tensor, "B H S D"], positions: int) -> Float[Tensor, "H n D"]:
    """The last positions of a single example."""
    return torch.as_tensor(x[0, :, -positions:])
