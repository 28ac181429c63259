"""What each family of GGUF files calls its tensors and sizes, and what transformers calls them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import Gemma3TextConfig, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from sparq_eval.errors import UserError


@dataclass(frozen=True)
class Source:
    """A GGUF file: its metadata by key and its tensors by name."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, gguf.ReaderTensor]

    def size(self, key: str, default: Any = None) -> Any:
        """A key of the file's own architecture; without a default it must be there."""
        value = self.fields.get(f"{self.fields['general.architecture']}.{key}", default)
        if value is None:
            raise UserError(f"model.path={self.path} lacks the key {key!r}, so it is no whole language model")
        return value

    def token(self, role: str) -> int | None:
        """The id of the `role` token (bos, eos, padding, unknown)."""
        return self.fields.get(f"tokenizer.ggml.{role}_token_id")


OUTER = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Family:
    """How one architecture is stored.

    inner: GGUF's name of each part of a layer -> transformers'.
    biases: the projections of queries, keys and values have them.
    interleaved: rows of the query and key projections are stored in llama.cpp's order of RoPE pairs.
    norm_offset: what to add to stored norms (transformers' Gemma adds the 1 itself, GGUF stores it added).
    extra: settings of the config beside the common ones.
    """

    config_class: type[PretrainedConfig]
    inner: Mapping[str, str] = field(default_factory=lambda: INNER)
    biases: bool = False
    interleaved: bool = False
    norm_offset: float = 0.0
    extra: Callable[[Source], dict[str, Any]] = lambda _: {}

    def names(self, source: Source) -> dict[str, str]:
        """transformers' name of every tensor of the file."""
        return {name: self._name(source, name) for name in source.tensors}

    def _name(self, source: Source, name: str) -> str:
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        outer = re.fullmatch(r"(\w+)\.(weight)", name)
        if layer and layer[2] in self.inner and (layer[3] == "weight" or self.biases):
            return f"model.layers.{layer[1]}.{self.inner[layer[2]]}.{layer[3]}"
        if outer and outer[1] in OUTER:
            return f"{OUTER[outer[1]]}.weight"
        raise UserError(
            f"model.path={source.path} holds {name!r}, which has no place in a {source.size('block_count')}-layer "
            f"{source.fields['general.architecture']} model: give the original checkpoint instead"
        )

    def row_order(self, source: Source, name: str) -> Callable[[int], np.ndarray] | None:
        """For a tensor whose rows are stored in another order: rows -> where each row lies in the file."""
        if not self.interleaved or not name.endswith(("attn_q.weight", "attn_k.weight")):
            return None
        heads = source.size("attention.head_count")
        return partial(
            _halves_apart, heads=heads if ".attn_q." in name else source.size("attention.head_count_kv", heads)
        )

    def offset(self, name: str) -> float:
        return self.norm_offset if name.endswith("_norm.weight") else 0.0

    def config(self, source: Source, tie_word_embeddings: bool) -> PretrainedConfig:
        heads, width = source.size("attention.head_count"), source.size("embedding_length")
        return self.config_class(
            architectures=[self.config_class.model_type.removesuffix("_text").capitalize() + "ForCausalLM"],
            vocab_size=int(source.tensors["token_embd.weight"].shape[1]),
            hidden_size=width,
            intermediate_size=source.size("feed_forward_length"),
            num_hidden_layers=source.size("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=source.size("attention.head_count_kv", heads),
            max_position_embeddings=source.size("context_length"),
            rms_norm_eps=float(f"{source.size('attention.layer_norm_rms_epsilon'):.6g}"),
            tie_word_embeddings=tie_word_embeddings,
            bos_token_id=source.token("bos"),
            eos_token_id=source.token("eos"),
            pad_token_id=source.token("padding"),
            dtype="bfloat16",
            **self.extra(source),
        )


def family_of(source: Source) -> Family:
    """The family of a file, or an error that lists those known."""
    name = source.fields.get("general.architecture")
    if name not in FAMILIES:
        raise UserError(
            f"model.path={source.path} is of architecture {name!r}; GGUF files of {', '.join(FAMILIES)} can be read"
        )
    if source.size("expert_count", 0):
        raise UserError(
            f"model.path={source.path} is a mixture of experts, which is not read from GGUF: give the original"
        )
    return FAMILIES[name]


def _halves_apart(rows: int, heads: int) -> np.ndarray:
    """Rows that RoPE turns together lie side by side in GGUF's llama and half a head apart in transformers."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _rope(source: Source, base: float = 10000.0) -> dict[str, Any]:
    kind = source.size("rope.scaling.type", "none")
    rope = {"rope_type": "default", "rope_theta": float(source.size("rope.freq_base", base))}
    if kind == "linear":
        return {**rope, "rope_type": "linear", "factor": float(source.size("rope.scaling.factor"))}
    if kind != "none" or "rope_freqs.weight" in source.tensors:
        raise UserError(
            f"model.path={source.path} stretches RoPE in a way that GGUF says too little about ({kind}): give the "
            "original checkpoint instead"
        )
    return rope


def _plain(source: Source) -> dict[str, Any]:
    return {"rope_parameters": _rope(source)}


def _with_head_size(source: Source) -> dict[str, Any]:
    heads, width = source.size("attention.head_count"), source.size("embedding_length")
    return {**_plain(source), "head_dim": source.size("attention.key_length", width // heads)}


def _gemma3(source: Source) -> dict[str, Any]:
    layers, head_dim = source.size("block_count"), source.size("attention.key_length", 256)
    # the 27B alone scales its queries by the width of a head's share of the model
    share = source.size("embedding_length") // source.size("attention.head_count")
    return {
        "head_dim": head_dim,
        "query_pre_attn_scalar": share if layers == 62 else head_dim,
        "sliding_window": source.size("attention.sliding_window"),
        "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
        "rope_parameters": {
            "full_attention": _rope(source, base=1e6),
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "hidden_activation": "gelu_pytorch_tanh",
    }


FAMILIES = {
    "llama": Family(LlamaConfig, interleaved=True, extra=_with_head_size),
    "qwen2": Family(Qwen2Config, biases=True, extra=_plain),
    "qwen3": Family(Qwen3Config, inner=INNER | HEAD_NORMS, extra=_with_head_size),
    "gemma3": Family(Gemma3TextConfig, inner=INNER | HEAD_NORMS | GEMMA_NORMS, norm_offset=-1.0, extra=_gemma3),
}
