"""Where transformers hands attention over: one stateless function for every family on its attention interface.

Importing this module registers the name `sparq_eval`, the only thing done at import. A model loaded with that name and
called with `session=` gives each layer's new queries, keys and values (after position embedding) to the session, which
owns the cache and all masks; the model itself keeps no cache.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers import __version__ as version

from sparq_eval.errors import UserError
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.methods import Shape

NAME = "sparq_eval"
# keywords that say nothing about which positions are attended, or how
HARMLESS = {
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "use_cache",
}


@dataclass(frozen=True)
class Call:
    """What one layer asks for: new tokens only, and how this family bends its logits."""

    layer: int
    q: Float[Tensor, "B H G T D"]
    k: Float[Tensor, "B H T D"]
    v: Float[Tensor, "B H T D"]
    scale: float
    softcap: float | None
    sinks: Float[Tensor, "H G"] | None
    window: int | None


class Session(Protocol):
    """One phase of a batch: prefill, decoding or scoring."""

    def attend(self, call: Call) -> Float[Tensor, "B H G T D"]: ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    session: Session | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: (B, H*G, T, D) queries in, (B, T, H*G, D) out.

    Raises UserError for a call that it would answer differently from the family's own attention.
    """
    if session is None:
        raise UserError(
            f"model: {type(module).__name__} got no session: transformers {version} does not hand it on to this "
            "family's attention, or the model was called without session="
        )
    if reason := odd(module, query, key, value, attention_mask, sliding_window, others):
        raise UserError(f"model: the attention of {type(module).__name__} cannot be replaced: {reason}")
    H = key.shape[1]
    call = Call(
        layer=module.layer_idx,  # type: ignore[arg-type]  # every family on the interface numbers its layers
        q=query.unflatten(1, (H, -1)),
        k=key,
        v=value,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=None if s_aux is None else s_aux.view(H, -1),
        window=sliding_window,
    )
    return session.attend(call).flatten(1, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)


def odd(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    window: int | None,
    others: dict[str, Any],
) -> str | None:
    """What in a call cannot be honoured, None if all can."""
    (H, T, D), queries = key.shape[1:], query.shape[1]
    if key.shape != value.shape:
        return f"keys of shape {tuple(key.shape)} beside values of shape {tuple(value.shape)} are not supported"
    if query.shape[2] != T:
        return f"{query.shape[2]} queries come with {T} keys, not with their own alone"
    if others.get("is_causal") is False:
        return "it looks at what comes after a token too"
    if others.get("dropout"):
        return "dropout is on: put the model in eval mode"
    known = HARMLESS | {"is_causal", "dropout"}
    if unknown := sorted(name for name, value in others.items() if value is not None and name not in known):
        return f"nothing is known about its keywords {', '.join(unknown)}"
    if T == 1:
        return None  # a token that is decoded: what follows was seen with its prompt
    if mask is not None and not is_causal(mask):
        return "it comes with a mask of its own"
    if (shape := shape_of(module.config)) != Shape(H, queries // H, D):
        return f"{H} key/value heads of size {D} do not agree with its config, {shape}"
    if (said := layer_windows(module.config)[module.layer_idx]) != window:
        return f"in layer {module.layer_idx} a window of {window} does not agree with that of its config, {said}"
    return None


def is_causal(mask: Tensor) -> bool:
    """Whether a mask, true or 0 where a query may look, says no more than that queries see what came before them."""
    T, S = mask.shape[-2:]
    seen = mask if mask.dtype == torch.bool else mask == 0
    hidden = ~seen if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min
    causal = torch.ones(T, S, dtype=torch.bool, device=mask.device).tril()
    return bool((seen == causal).all() and (hidden == ~causal).all())
