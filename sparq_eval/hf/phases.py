"""What a layer's attention does in each phase of a batch: prefill, decoding, scoring."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map, tree_map_only

from sparq_eval.hf.cache import Cache, Layer
from sparq_eval.hf.seam import Call
from sparq_eval.hf.tally import Tally
from sparq_eval.methods import Method, State
from sparq_eval.methods.kernel import Kernel
from sparq_eval.ops import Prompt, blocks, logits, mix, narrow, softmax
from sparq_eval.step import Columns, Step, Visible, once

# cuDNN's would make a plan for each length of a prompt, which takes longer than attending
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

# what layers of one window on one device see is the same, and what is derived from it is derived once
Visibles = dict[tuple[int | None, torch.device], Visible]


def step_of(
    call: Call, layer: Layer, end: int, visible: Visible, part: slice = slice(None), columns: Columns | None = None
) -> Step:
    """The call's queries over the first `end` positions of the layer's buffer, for a part of the batch."""
    k, v = layer.k[part, :, :end], layer.v[part, :, :end]
    return Step(call.q, k, v, visible, call.scale, call.softcap, call.sinks, columns)


@dataclass
class Prefill:
    """Dense attention over the prompt, after which every method may look at it once."""

    cache: Cache
    visibles: Visibles = field(default_factory=dict)

    def attend(self, call: Call) -> Float[Tensor, "B H G T D"]:
        cache, device = self.cache, call.q.device
        if call.layer in cache.layers:
            raise RuntimeError(f"layer {call.layer} attended twice to one prompt")
        cache.layers[call.layer] = layer = cache.make_layer(call.k, call.v)
        P = cache.prompt
        visible = once(self.visibles, (call.window, device), lambda: cache.visible(device, call.window, P, P))
        step = Prompt(call.q, call.k, call.v, visible, call.scale, call.softcap, call.sinks)
        layer.columns = cache.make_columns(step)
        layer.states = self.begin(step, cache.methods, cache.kernels)
        if cache.question is not None:
            context = step.begin(cache.question.to(device))
            layer.early = self.begin(context, cache.context_methods, cache.context_kernels)
            layer.early_scales = cache.scales(context)
        return attend_densely(step)

    def begin(self, step: Prompt, methods: Sequence[Method], kernels: Sequence[Kernel | None]) -> list[State]:
        """What each setting remembers of a prompt."""
        return [
            kernel.prefill(step, self.cache.room) if kernel else method.prefill(step)
            for method, kernel in zip(methods, kernels, strict=True)
        ]


def attend_densely(step: Prompt) -> Float[Tensor, "B H G T D"]:
    """Dense causal attention over left-padded prompts; nothing is promised at padding."""
    T, window = step.q.shape[3], step.visible.window
    plain = step.softcap is None and step.sinks is None and (window is None or window >= T)
    # left padding: the number of invalid positions is where the prompt begins
    starts = step.visible.once("starts", lambda: (~step.visible.valid).sum(dim=1).tolist())
    out = torch.zeros_like(step.q)
    for b, start in enumerate(starts):
        q, k, v = (x[b : b + 1, ..., start:, :] for x in (step.q, step.k, step.v))
        if plain:
            with sdpa_kernel(KERNELS):
                one = scaled_dot_product_attention(
                    q.flatten(1, 2), k, v, is_causal=True, scale=step.scale, enable_gqa=step.groups > 1
                ).unflatten(1, q.shape[1:3])
        else:
            visible = Visible(step.visible.valid[b : b + 1, start:], T - start, window)
            parts = blocks(replace(step, q=q, k=k, v=v, visible=visible))
            one = torch.cat([mix(softmax(logits(block), block.sinks), block.v) for block in parts], dim=3)
        out[b : b + 1, ..., start:, :] = one
    return out


@dataclass
class Decode:
    """One token for each row, a row being a setting and an example; rows lie setting by setting, examples ascending.

    rows: examples of each setting that still decode (empty: the setting is done). token: how many lie behind the
    prompt already; a tensor where shapes must not change from step to step: then all of the buffer is looked at, and
    there is a row for every example. in_place: states go where the old ones lie.
    """

    cache: Cache
    rows: Sequence[Int[Tensor, "R"]]
    token: int | Int[Tensor, ""]
    tallies: Sequence[Tally]
    in_place: bool = False
    visibles: Visibles = field(default_factory=dict)
    places: dict[torch.device, list[Tensor]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """How much of the buffer is looked at."""
        return self.cache.prompt + (self.token + 1 if isinstance(self.token, int) else self.cache.room)

    def visible(self, window: int | None, device: torch.device) -> Visible:
        visible = self.cache.visible(device, window, self.end, 1)
        return visible if isinstance(self.token, int) else replace(visible, place=self.cache.prompt + self.token)

    def attend(self, call: Call) -> Float[Tensor, "R H G 1 D"]:
        cache, layer, device = self.cache, self.cache.layers[call.layer], call.q.device
        visible = once(self.visibles, (call.window, device), lambda: self.visible(call.window, device))
        rows = once(self.places, device, lambda: [examples.to(device) for examples in self.rows])
        B, end = len(cache.valid), self.end
        out = torch.empty_like(call.q)
        first = 0
        for setting, (method, examples) in enumerate(zip(cache.methods, rows, strict=True)):
            R = len(examples)
            if R == 0:
                continue
            q, k, v = (spread(x[first : first + R], examples, B) for x in (call.q, call.k, call.v))
            kernel = cache.kernels[setting]
            copy = kernel.copy if kernel else None
            self.write(layer, setting, k, v, copy)
            columns = layer.columns[copy] if copy else None
            step = step_of(replace(call, q=q), layer, end, visible, columns=columns)
            attended, state = (kernel or method).attend(step, layer.states[setting])
            self.remember(layer, setting, state)
            self.tallies[setting].note(call.layer, attended, visible, step.head_size)
            out[first : first + R] = attended.out if B == R else attended.out[examples]
            first += R
        return out

    def remember(self, layer: Layer, setting: int, state: Any) -> None:
        if self.in_place:
            tree_map(keep_in, layer.states[setting], state)
        else:
            layer.states[setting] = state

    def close(self, live: Sequence[Bool[Tensor, "B 1"]] | None = None) -> None:
        """Count what the step moved, once all layers have attended. live: by setting, where not all rows count."""
        if live is None:
            live = [torch.zeros(len(self.cache.valid), 1, dtype=torch.bool, device=rows.device) for rows in self.rows]
            for alive, rows in zip(live, self.rows, strict=True):
                alive[rows] = True
        for tally, alive in zip(self.tallies, live, strict=True):
            tally.close(alive, self.cache.examples)

    def write(
        self,
        layer: Layer,
        setting: int,
        k: Float[Tensor, "B H 1 D"],
        v: Float[Tensor, "B H 1 D"],
        copy: str | None,
    ) -> None:
        """Put the new token behind the setting's tail, and the tail behind the prompt. copy: of the keys, likewise."""
        P, end = self.cache.prompt, self.end
        at = torch.full((1,), self.token, device=k.device) if isinstance(self.token, int) else self.token.view(1)
        for buffer, tails, new in ((layer.k, layer.tails_k, k), (layer.v, layer.tails_v, v)):
            room = buffer[:, :, P:end]
            if tails:
                tail = tails[setting].index_copy_(2, at, new)
                room.copy_(tail[:, :, : end - P])
            else:
                room.index_copy_(2, at, new)
        if copy:
            own = layer.columns[copy]
            if layer.tails_k:
                tail = layer.tails_k[setting][:, :, : end - P]
                own.values[..., P:end] = narrow(tail, copy, own.scale).mT
            else:
                # torch copies float8 by index as bytes only
                new, values = (
                    x.view(torch.uint8) if copy == "fp8" else x for x in (narrow(k, copy, own.scale), own.values)
                )
                values.index_copy_(3, P + at, new.mT)


def keep_in(place: Any, value: Any) -> Any:
    return place.copy_(value) if isinstance(value, Tensor) and value is not place else place


def spread(x: Tensor, examples: Int[Tensor, "R"], B: int) -> Tensor:
    """Rows of a setting at their examples' places; zeros at examples that are done."""
    if len(examples) == B:
        return x
    return x.new_zeros(B, *x.shape[1:]).index_copy_(0, examples, x)


@dataclass
class Score:
    """All forced tokens of one setting at once: each query selects for itself, as if it were decoded alone.

    examples: the part of the batch that is scored. lengths: forced tokens fed for each of them; what lies beyond is
    padding on the right, which nothing real sees.
    """

    cache: Cache
    setting: int
    examples: slice
    lengths: Int[Tensor, "b"]
    tally: Tally
    visibles: Visibles = field(default_factory=dict)

    def attend(self, call: Call) -> Float[Tensor, "b H G T D"]:
        cache, layer, part = self.cache, self.cache.layers[call.layer], self.examples
        T, D, P = *call.q.shape[3:], cache.prompt
        layer.k[part, :, P : P + T], layer.v[part, :, P : P + T] = call.k, call.v
        device = call.q.device
        visible = once(self.visibles, (call.window, device), lambda: cache.visible(device, call.window, P + T, T))
        visible = replace(visible, valid=visible.valid[part])
        whole = step_of(call, layer, P + T, visible, part)
        method = cache.methods[self.setting]
        state = tree_map_only(Tensor, lambda x: x[part], layer.states[self.setting])
        live = torch.arange(T, device=self.lengths.device) < self.lengths[:, None]
        outs, first = [], 0
        for step in blocks(whole):
            attended, state = method.attend(step, state)
            self.tally.note(call.layer, attended, step.visible, D)
            last = first + step.q.shape[3]
            self.tally.close(live[:, first:last], cache.examples[part])
            outs.append(attended.out)
            first = last
        return torch.cat(outs, dim=3)
