"""The keys and values of a batch: one prefix that all settings share, and a short tail for each of them.

A layer's buffer holds the prompt and has room behind it. A setting's tail lies elsewhere and is written into that room
just before the setting attends, so that every method sees one plain run of keys, and the prefix is never copied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparq_eval.methods import Method, State
from sparq_eval.methods.kernel import Kernel
from sparq_eval.ops import ROUND, Prompt, fill, second_copy, shift
from sparq_eval.step import Columns, Visible


def no_kernel(method: Method) -> None:
    """Every method attends by itself."""
    return None


@dataclass
class Layer:
    """One layer's buffer, its tails by setting, and what each setting's method remembers.

    early: what methods that start from the context alone remember of it. columns: second copies of the keys, by kind.
    early_scales: of the copies that are scaled, by kind, as the context alone has them.
    """

    k: Float[Tensor, "B H C D"]
    v: Float[Tensor, "B H C D"]
    tails_k: list[Float[Tensor, "B H R D"]]
    tails_v: list[Float[Tensor, "B H R D"]]
    states: list[State]
    early: list[State] = field(default_factory=list)
    columns: dict[str, Columns] = field(default_factory=dict)
    early_scales: dict[str, Float[Tensor, "B H D"]] = field(default_factory=dict)

    def keep(self, examples: Int[Tensor, "B"]) -> None:
        """Drop all other examples."""
        examples = examples.to(self.k.device)
        self.k, self.v = self.k[examples], self.v[examples]
        self.tails_k = [tail[examples] for tail in self.tails_k]
        self.tails_v = [tail[examples] for tail in self.tails_v]
        self.columns = {
            copy: Columns(own.values[examples], None if own.scale is None else own.scale[examples])
            for copy, own in self.columns.items()
        }
        # states may be shared between settings, but each is replaced, never changed in place
        self.states = [tree_map_only(Tensor, lambda x: x[examples], state) for state in self.states]


class Cache:
    """All layers of a batch of B left-padded prompts of P positions, with room for `room` tokens behind them.

    valid: false at padding. tails: whether settings keep tokens of their own (a single setting's lie in the buffer).
    context_methods: they start from the prompt without its last `question` tokens (see `rewind`). kernel_for: gives the
    kernel of a method, None where the method itself attends.
    examples: which of the batch's examples are still here.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        valid: Bool[Tensor, "B P"],
        room: int,
        tails: bool,
        context_methods: Sequence[Method] = (),
        question: Int[Tensor, "B"] | None = None,
        kernel_for: Callable[[Method], Kernel | None] = no_kernel,
    ) -> None:
        self.methods, self.context_methods = methods, context_methods
        self.kernels, self.context_kernels = list(map(kernel_for, methods)), list(map(kernel_for, context_methods))
        self.valid, self.question = valid, question
        self.room, self.tails = room, tails
        self.layers: dict[int, Layer] = {}
        self.examples = torch.arange(len(valid), device=valid.device)

    @property
    def prompt(self) -> int:
        return self.valid.shape[1]

    def make_layer(self, k: Float[Tensor, "B H P D"], v: Float[Tensor, "B H P D"]) -> Layer:
        """A buffer with the prompt's keys and values in it."""
        B, H, P, D = k.shape
        both_k, both_v = (x.new_zeros(B, H, P + self.room, D) for x in (k, v))
        both_k[:, :, :P], both_v[:, :, :P] = k, v
        return Layer(both_k, both_v, *self.make_tails(both_k), states=[])

    def make_columns(self, prompt: Prompt) -> dict[str, Columns]:
        """The second copies of the prompt's keys that kernels read, with room behind them."""
        scales = self.scales(prompt)
        return {copy: second_copy(prompt.k, copy, scales.get(copy), self.room) for copy in self.copies}

    def scales(self, prompt: Prompt) -> dict[str, Float[Tensor, "B H D"]]:
        """What the values of the copies that are scaled are multiplied by, as this prompt has it."""
        return {"int8": prompt.key_peaks / 127} if "int8" in self.copies else {}

    @property
    def copies(self) -> list[str]:
        """The kinds of second copy that kernels read."""
        kernels = [*self.kernels, *self.context_kernels]
        return sorted({kernel.copy for kernel in kernels if kernel and kernel.copy})

    def make_tails(self, buffer: Float[Tensor, "B H C D"]) -> tuple[list[Tensor], list[Tensor]]:
        number = len(self.methods) if self.tails and len(self.methods) > 1 else 0
        behind = buffer[:, :, self.prompt :]
        return [torch.zeros_like(behind) for _ in range(number)], [torch.zeros_like(behind) for _ in range(number)]

    def visible(self, device: torch.device, window: int | None, end: int, queries: int) -> Visible:
        """What the last `queries` of the first `end` positions may see."""
        behind = self.valid.new_ones(self.valid.shape[0], end - self.prompt)
        return Visible(torch.cat([self.valid, behind], dim=1).to(device), queries, window)

    def keep(self, examples: Int[Tensor, "B"]) -> None:
        """Drop all other examples, given by their places here."""
        self.valid, self.examples = self.valid[examples], self.examples[examples]
        for layer in self.layers.values():
            layer.keep(examples)

    def rewind(self) -> None:
        """Go back to the end of each context, in place, for the methods that start there."""
        assert self.question is not None
        self.methods, self.context_methods = self.context_methods, ()
        self.kernels, self.context_kernels = self.context_kernels, []
        self.valid = shift(self.valid, self.question, 1)
        P = self.prompt
        for layer in self.layers.values():
            for buffer in (layer.k, layer.v):
                buffer[:, :, :P] = shift(buffer[:, :, :P], self.question.to(buffer.device), 2)
                buffer[:, :, P:] = 0
            for copy, own in layer.columns.items():
                # made anew: the prompt's scale knows the question, which these methods have not read
                layer.columns[copy] = own = replace(own, scale=layer.early_scales.get(copy))
                fill(own.values, layer.k[:, :, :P], copy, own.scale)
            layer.tails_k, layer.tails_v = self.make_tails(layer.k)
            layer.states, layer.early = layer.early, []


def bytes_per_example(
    layers: int, heads: int, head_size: int, itemsize: int, *, prompt: int, room: int, settings: int, copies: int = 0
) -> int:
    """Bytes of the cache for one example: prefix, second copies of the keys, tails, and a float32 score and a flag a
    position for each setting.
    """
    tails = room * settings if settings > 1 else 0
    keys_and_values = (2 * (prompt + room + tails) + copies * (prompt + room + ROUND)) * head_size * itemsize
    return layers * heads * (keys_and_values + 5 * (prompt + room) * settings)
