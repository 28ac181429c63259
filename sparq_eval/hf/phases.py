"""What a layer's attention does in each phase of a batch: prefill, decoding, scoring."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map_only

from sparq_eval.hf.cache import Cache, Layer
from sparq_eval.hf.seam import Call
from sparq_eval.methods import Attended
from sparq_eval.ops import Prompt, logits, mix, softmax
from sparq_eval.step import Step, Visible


@dataclass
class Tally:
    """What one setting moved, by example of the batch, summed over layers, key/value heads and one-query steps.

    dense: what dense moves at the same steps. sparse: layers and steps in which some position was left out.
    """

    moved: Float[Tensor, "B"]
    dense: Float[Tensor, "B"]
    sparse: Float[Tensor, "B"]
    waiting: list[tuple[Attended, Visible, int]] = field(default_factory=list)

    @staticmethod
    def zero(B: int, device: torch.device) -> "Tally":
        moved, dense, sparse = (torch.zeros(B, dtype=torch.float64, device=device) for _ in range(3))
        return Tally(moved, dense, sparse)

    def note(self, attended: Attended, visible: Visible, head_size: int) -> None:
        """Keep a layer's counts until `close`: adding them up layer by layer would cost more than taking them."""
        self.waiting.append((replace(attended, out=attended.out[:0]), visible, head_size))

    def close(self, live: Bool[Tensor, "b T"], examples: Int[Tensor, "b"]) -> None:
        """Add the noted layers at `examples`, for the queries that are live."""
        if not self.waiting:
            return
        noted, visibles, sizes = zip(*self.waiting, strict=True)
        moved = torch.stack([attended.moved for attended in noted]).sum(dim=(0, 2))
        selected = torch.stack([attended.selected for attended in noted])
        count = torch.stack([visible.count for visible in visibles])[:, :, None]  # (layers, b, 1, T)
        H = selected.shape[2]
        dense = sum(2 * size * H * visible.count for visible, size in zip(visibles, sizes, strict=True))
        sparse = (selected < count).any(dim=2).sum(dim=0)
        for total, part in ((self.moved, moved), (self.dense, dense), (self.sparse, sparse)):
            total.index_add_(0, examples, (part * live).sum(dim=1).to(total.dtype))
        self.waiting.clear()


def step_of(call: Call, layer: Layer, end: int, visible: Visible, part: slice = slice(None)) -> Step:
    """The call's queries over the first `end` positions of the layer's buffer, for a part of the batch."""
    k, v = layer.k[part, :, :end], layer.v[part, :, :end]
    return Step(call.q, k, v, visible, call.scale, call.softcap, call.sinks)


@dataclass
class Prefill:
    """Dense attention over the prompt, after which every method may look at it once."""

    cache: Cache

    def attend(self, call: Call) -> Float[Tensor, "B H G T D"]:
        cache = self.cache
        if call.layer in cache.layers:
            raise RuntimeError(f"layer {call.layer} attended twice to one prompt")
        cache.layers[call.layer] = layer = cache.make_layer(call.k, call.v)
        visible = Visible(cache.valid, cache.prompt, call.window)
        step = Prompt(call.q, call.k, call.v, visible, call.scale, call.softcap, call.sinks)
        layer.states = [method.prefill(step) for method in cache.methods]
        return attend_densely(step)


def attend_densely(step: Prompt) -> Float[Tensor, "B H G T D"]:
    """Dense causal attention over left-padded prompts; nothing is promised at padding."""
    T, window = step.q.shape[3], step.visible.window
    plain = step.softcap is None and step.sinks is None and (window is None or window >= T)
    # left padding: the number of invalid positions is where the prompt begins
    starts = (~step.visible.valid).sum(dim=1).tolist()
    out = torch.zeros_like(step.q)
    for b, start in enumerate(starts):
        q, k, v = (x[b : b + 1, ..., start:, :] for x in (step.q, step.k, step.v))
        if plain:
            one = scaled_dot_product_attention(
                q.flatten(1, 2), k, v, is_causal=True, scale=step.scale, enable_gqa=step.groups > 1
            ).unflatten(1, q.shape[1:3])
        else:
            visible = Visible(step.visible.valid[b : b + 1, start:], T - start, window)
            blocks = replace(step, q=q, k=k, v=v, visible=visible).blocks()
            one = torch.cat([mix(softmax(logits(block), block.sinks), block.v) for block in blocks], dim=3)
        out[b : b + 1, ..., start:, :] = one
    return out


@dataclass
class Decode:
    """One token for each row, a row being a setting and an example; rows lie setting by setting, examples ascending.

    rows: examples of each setting that still decode (empty: the setting is done). token: how many lie behind the
    prompt already.
    """

    cache: Cache
    rows: Sequence[Int[Tensor, "R"]]
    token: int
    tallies: Sequence[Tally]
    visibles: dict[int | None, Visible] = field(default_factory=dict)

    def attend(self, call: Call) -> Float[Tensor, "R H G 1 D"]:
        cache, layer = self.cache, self.cache.layers[call.layer]
        if call.window not in self.visibles:
            self.visibles[call.window] = cache.visible(self.token + 1, 1, call.window)
        visible = self.visibles[call.window]
        B, end = len(cache.valid), cache.prompt + self.token + 1
        out = torch.empty_like(call.q)
        first = 0
        for setting, (method, examples) in enumerate(zip(cache.methods, self.rows, strict=True)):
            R = len(examples)
            if R == 0:
                continue
            q, k, v = (spread(x[first : first + R], examples, B) for x in (call.q, call.k, call.v))
            self.write(layer, setting, k, v)
            step = step_of(replace(call, q=q), layer, end, visible)
            attended, layer.states[setting] = method.attend(step, layer.states[setting])
            self.tallies[setting].note(attended, visible, step.head_size)
            out[first : first + R] = attended.out if B == R else attended.out[examples]
            first += R
        return out

    def close(self) -> None:
        """Count what the step moved, once all layers have attended."""
        B = len(self.cache.valid)
        for tally, examples in zip(self.tallies, self.rows, strict=True):
            live = torch.zeros(B, 1, dtype=torch.bool, device=self.cache.valid.device)
            live[examples] = True
            tally.close(live, self.cache.examples)

    def write(self, layer: Layer, setting: int, k: Tensor, v: Tensor) -> None:
        """Put the new token behind the setting's tail, and the tail behind the prompt."""
        P, t = self.cache.prompt, self.token
        if not layer.tails_k:
            layer.k[:, :, P + t], layer.v[:, :, P + t] = k[:, :, 0], v[:, :, 0]
            return
        for buffer, tail, new in ((layer.k, layer.tails_k[setting], k), (layer.v, layer.tails_v[setting], v)):
            tail[:, :, t] = new[:, :, 0]
            buffer[:, :, P : P + t + 1] = tail[:, :, : t + 1]


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
    elements: int = 2**21

    def attend(self, call: Call) -> Float[Tensor, "b H G T D"]:
        cache, layer, part = self.cache, self.cache.layers[call.layer], self.examples
        B, H, G, T, D = call.q.shape
        P = cache.prompt
        layer.k[part, :, P : P + T], layer.v[part, :, P : P + T] = call.k, call.v
        visible = cache.visible(T, T, call.window)
        visible = replace(visible, valid=visible.valid[part])
        whole = step_of(call, layer, P + T, visible, part)
        method = cache.methods[self.setting]
        state = tree_map_only(Tensor, lambda x: x[part], layer.states[self.setting])
        live = torch.arange(T, device=call.q.device) < self.lengths[:, None]
        outs = []
        rows = max(1, self.elements // (B * H * G * (P + T)))
        for first in range(0, T, rows):
            step = whole.narrow(first, min(first + rows, T))
            attended, state = method.attend(step, state)
            self.tally.note(attended, step.visible, D)
            self.tally.close(live[:, first : first + rows], cache.examples[part])
            outs.append(attended.out)
        return torch.cat(outs, dim=3)
