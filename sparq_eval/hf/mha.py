"""An exact MHA twin of a GQA or MQA model: each KV head repeated for the query heads that share it.

It computes the same function. Its keys within a group are copies, so it tests code paths and memory arithmetic, and is
no evidence about the sparsity of models trained with MHA.
"""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sparq_eval.errors import UserError


def times(name: str, config: PretrainedConfig) -> int:
    """How often each KV head has to be repeated."""
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if kv_heads in (None, heads):
        raise UserError(f"model.mha=true: {name} has a KV head for each query head already: leave model.mha out")
    return heads // kv_heads


def widen(name: str, model: PreTrainedModel, repeats: int) -> PreTrainedModel:
    """Repeat the KV heads of a loaded model, in place."""
    config = model.config
    attentions = [module for module in model.modules() if hasattr(module, "k_proj") and hasattr(module, "v_proj")]
    if len(attentions) != config.num_hidden_layers:
        raise UserError(
            f"model.mha=true needs keys and values projected apart, and {name} ({config.model_type}) fuses them"
        )
    kv_heads = config.num_key_value_heads
    for attention in attentions:
        for projection in (attention.k_proj, attention.v_proj):
            _repeat(projection, kv_heads, repeats)
        attention.num_key_value_groups = 1
    config.num_key_value_heads = kv_heads * repeats
    return model


@torch.no_grad()
def _repeat(projection: nn.Linear, kv_heads: int, repeats: int) -> None:
    for key in ("weight", "bias"):
        rows = getattr(projection, key)
        if rows is not None:
            heads = rows.unflatten(0, (kv_heads, -1)).repeat_interleave(repeats, dim=0)
            setattr(projection, key, nn.Parameter(heads.flatten(0, 1), requires_grad=False))
    projection.out_features *= repeats
