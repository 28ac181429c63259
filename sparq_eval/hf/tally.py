"""What the settings of a batch really did: elements moved, and where something was left out."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparq_eval.methods import Attended
from sparq_eval.request import Certificate
from sparq_eval.step import Visible


@dataclass(frozen=True)
class Noted:
    """The counts of one layer's call, waiting to be added up."""

    layer: int
    attended: Attended
    visible: Visible
    head_size: int


@dataclass
class Tally:
    """What one setting did, by example of the batch, summed over key/value heads and one-query steps.

    moved: elements, over all layers. dense: what dense moves at the same steps. calls: how often each layer attended by
    the method; sparse: at how many of these calls some position was left out.
    """

    moved: Float[Tensor, "B"]
    dense: Float[Tensor, "B"]
    calls: Float[Tensor, "B L"]
    sparse: Float[Tensor, "B L"]
    waiting: list[Noted] = field(default_factory=list)

    @staticmethod
    def zero(B: int, layers: int, device: torch.device) -> "Tally":
        # float64 holds whole numbers exactly as far as any count goes
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return Tally(zeros(B), zeros(B), zeros(B, layers), zeros(B, layers))

    def note(self, layer: int, attended: Attended, visible: Visible, head_size: int) -> None:
        """Keep a layer's counts until `close`: adding them up layer by layer would cost more than
        taking them. Layers come one after another."""
        self.waiting.append(Noted(layer, replace(attended, out=attended.out[:0]), visible, head_size))

    def close(self, live: Bool[Tensor, "b T"], examples: Int[Tensor, "b"]) -> None:
        """Add the noted layers at `examples`, for the queries that are live."""
        if not self.waiting:
            return
        here = self.moved.device
        first, count = self.waiting[0].layer, len(self.waiting)
        moved = torch.stack([noted.attended.moved.sum(dim=1).to(here) for noted in self.waiting], dim=1)  # (b, L, T)
        sparse = torch.stack([left_out(noted).to(here) for noted in self.waiting], dim=1)
        dense = sum(
            2 * noted.head_size * noted.attended.selected.shape[1] * noted.visible.count.to(here)
            for noted in self.waiting
        )
        weight = live.to(self.moved.dtype)
        self.moved.index_add_(0, examples, (moved * weight[:, None]).sum(dim=(1, 2)))
        self.dense.index_add_(0, examples, (dense * weight).sum(dim=1))
        calls, left = self.calls[:, first : first + count], self.sparse[:, first : first + count]
        left.index_add_(0, examples, (sparse * weight[:, None]).sum(dim=2))
        calls.index_add_(0, examples, weight.sum(dim=1, keepdim=True).expand(-1, count))
        self.waiting.clear()

    def certificate(self, b: int, steps: int) -> Certificate:
        """What the method did at an example that took so many steps."""
        calls, sparse = int(self.calls[b].sum().item()), self.sparse[b]
        return Certificate(
            steps=steps,
            calls=calls,
            sparse_steps=sparse.sum().item() / sparse.numel(),
            layers_active=int((sparse > 0).sum().item()),
        )


def left_out(noted: Noted) -> Bool[Tensor, "b T"]:
    """Whether some head attended to fewer positions than there were."""
    return (noted.attended.selected < noted.visible.count[:, None]).any(dim=1)
