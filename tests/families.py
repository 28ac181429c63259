"""A tiny random model of every family, with the same weights under transformers' attention and under ours."""

from copy import deepcopy
from functools import cache

import torch
from tiny import DEVICE, SIZES, Letters
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from sparq_eval.hf.engine import Engine
from sparq_eval.hf.seam import NAME
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, SparQ

WINDOW = 9
GQA = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 4.0, 8.0, 9.0],
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "llama mha": LlamaConfig(**SIZES),
    "llama gqa": LlamaConfig(**GQA),
    "llama mqa": LlamaConfig(**GQA | {"num_key_value_heads": 1}),
    "mistral": MistralConfig(**GQA, sliding_window=WINDOW),
    "gemma": GemmaConfig(**GQA | {"num_key_value_heads": 1}, head_dim=12),
    "gemma 2": Gemma2Config(
        **GQA, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=12, attn_logit_softcapping=2.0
    ),
    "gemma 3": Gemma3TextConfig(
        **GQA,
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "qwen 2": Qwen2Config(**GQA, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen 2.5": Qwen2Config(**GQA),
    "qwen 3": Qwen3Config(**GQA, head_dim=12),
    "phi 3": Phi3Config(**GQA, sliding_window=WINDOW, rope_parameters=LONGROPE, original_max_position_embeddings=128),
    # all experts for every token: a choice between them would turn rounding into another answer
    "gpt-oss": GptOssConfig(**GQA, head_dim=8, sliding_window=WINDOW, num_local_experts=3, num_experts_per_tok=3),
    "olmo 2": Olmo2Config(**GQA),
    "smollm3": SmolLM3Config(**GQA, no_rope_layer_interval=3),
    "granite": GraniteConfig(
        **GQA, attention_multiplier=0.2, embedding_multiplier=2.0, residual_multiplier=0.7, logits_scaling=1.5
    ),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=24, init_std=0.3, pad_token_id=0),
}

BINDING: list[Method] = [
    Dense(),
    SparQ(r=3, k=4, reallocate=False),
    SparQ(r=3, k=4, reallocate=True),
    H2O(k=5),
    LMInfinite(k=6, sink=2),
    FlexGen(k=3),
]


@cache
def weights(family: str) -> dict[str, torch.Tensor]:
    """Random in every parameter: biases of zero and gains of one would hide what is done with them."""
    torch.manual_seed(17)
    model = AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.state_dict()


def family_model(family: str, attention: str = NAME, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]), attn_implementation=attention)
    model.load_state_dict(weights(family))
    return model.eval().to(device=DEVICE, dtype=dtype)


def engine_of(family: str, dtype: torch.dtype = torch.float32) -> Engine:
    return Engine(family_model(family, dtype=dtype), Letters())
