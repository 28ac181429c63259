"""What a model's config says about its attention, and which families cannot be evaluated, each with its reason.

All of it is known before any weights are read. What a config does not show, `seam.attention` finds at the first call.
"""

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from sparq_eval.errors import UserError
from sparq_eval.methods import Shape

# families whose class and config look like any other's: found by comparing tiny models with their eager attention
REFUSED = {
    "cohere_compass_text": "its positions have several axes, for images",
    "diffllama": "each of its layers attends twice and subtracts",
    "doge": "its attention hides positions by a mask that it computes itself",
    "gemma4_text": "its heads and head sizes differ between layers",
    "gemma4_unified_text": "its heads and head sizes differ between layers",
    "hrm_text": "its layers run several times for each token",
    "jetmoe": "it hands over its keys repeated, not as they are cached",
    "lfm2": "its short convolutions keep a state beside the cache",
    "lfm2_moe": "its short convolutions keep a state beside the cache",
    "mimo_v2_flash": "its heads and head sizes differ between layers",
    "minimax_m3_vl_text": "its attention is sparse already, by an indexer of its own",
    "moshi": "its attention is not told of the sliding window in its config",
    "nemotron": "its code in transformers does not hand a session on to its attention",
    "phi4_multimodal": "it reads more than text",
}
# the window is in the mask alone, which attention that is replaced does not get
WINDOW_IN_MASK = {"phimoe", "qwen2_moe"}


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding window of each layer, None where a layer sees everything."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def shape_of(config: PreTrainedConfig, itemsize: int = 2) -> Shape:
    """Heads, group and head size, from a config whose names differ between families. itemsize: of the cache."""
    queries = config.num_attention_heads
    heads = 1 if getattr(config, "multi_query", False) else getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return Shape(heads=heads, groups=queries // heads, head_size=size, itemsize=itemsize)


def context_length(config: PreTrainedConfig) -> int:
    """Tokens that a prompt and its answer may have together.

    Long RoPE (Phi) turns to other frequencies when any sequence of a batch outgrows those of pretraining. Keys cached
    before keep the old ones, so beyond that length an answer would depend on its batch: it counts as the end.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return min(config.max_position_embeddings, rope["original_max_position_embeddings"])
    return config.max_position_embeddings


def check_family(config: PreTrainedConfig) -> None:
    """Raise UserError where the attention of this family cannot be replaced."""
    kind = config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"model: {kind} is no causal language model of transformers")
    family: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if reason := refusal(config, family):
        raise UserError(
            f"model: the attention of {family.__name__} ({kind}) cannot be replaced: {reason}; "
            "Llama, Mistral, Gemma 1-3, Qwen 2-3, Phi 3, GPT-NeoX, GPT-OSS, OLMo 2, SmolLM3, Granite, OPT and their "
            "like can be evaluated"
        )


def refusal(config: PreTrainedConfig, family: type[PreTrainedModel]) -> str | None:
    """Why this family cannot be evaluated, None if nothing speaks against it."""
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder and a decoder, with attention between them"
    if config.get_text_config(decoder=True) is not config:
        return "it reads more than text"
    if hasattr(config, "is_decoder") and hasattr(config, "add_cross_attention"):
        return "it is an encoder, made to look at what comes after a token too"
    if getattr(config, "use_bidirectional_attention", None):
        return "it looks at what comes after a token too"
    if config.model_type in REFUSED:
        return REFUSED[config.model_type]
    if odd := set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}:
        return f"it has layers of {', '.join(sorted(odd))}"
    if family._is_stateful:
        return "it keeps a state beside keys and values"
    if getattr(config, "kv_lora_rank", None) is not None:
        return "its cache holds latent vectors, not keys and values"
    if getattr(config, "num_kv_shared_layers", 0):
        return "some of its layers share the keys and values of others"
    if not family._supports_attention_backend:
        return "its code in transformers does not use the attention interface"
    if config.model_type in WINDOW_IN_MASK and any(layer_windows(config)):
        return "its attention is not told of the sliding window in its config"
    return None
