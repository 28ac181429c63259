"""Where transformers hands attention over: one stateless function for every family on its attention interface.

Importing this module registers the name `sparq_eval`, the only thing done at import. A model loaded with that name and
called with `session=` gives each layer's new queries, keys and values (after position embedding) to the session, which
owns the cache and all masks; the model itself keeps no cache.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from sparq_eval.errors import UserError
from sparq_eval.methods import Shape

NAME = "sparq_eval"


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
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: (B, H*G, T, D) queries in, (B, T, H*G, D) out."""
    if session is None:
        raise RuntimeError("this model attends through sparq_eval: call it with session=")
    if key.shape != value.shape:
        raise UserError(
            f"model: keys of size {key.shape[-1]} beside values of size {value.shape[-1]} are not supported"
        )
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


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding window of each layer, None where a layer sees everything."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def shape_of(config: PreTrainedConfig) -> Shape:
    """Heads, group and head size, from a config whose names differ between families."""
    queries = config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return Shape(heads=heads, groups=queries // heads, head_size=size)


def check_family(config: PreTrainedConfig) -> None:
    """Raise UserError where the attention of this family cannot be replaced."""
    kind = config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"model: {kind} is no causal language model of transformers")
    family: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    reason = None
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    odd = layers - {"full_attention", "sliding_attention"}
    if odd:
        reason = f"it has layers of {', '.join(sorted(odd))}"
    elif not family._supports_attention_backend:
        reason = "its code in transformers does not use the attention interface"
    elif getattr(config, "kv_lora_rank", None) is not None:
        reason = "its cache holds latent vectors, not keys and values"
    elif getattr(config, "num_kv_shared_layers", 0):
        reason = "some of its layers share the keys and values of others"
    if reason:
        raise UserError(
            f"model: the attention of {family.__name__} ({kind}) cannot be replaced: {reason}; "
            "Llama, Mistral, Gemma 1-3, Qwen 2-3, Phi 3, GPT-NeoX, GPT-OSS, OLMo 2 and their like can be evaluated"
        )
