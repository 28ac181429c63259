"""What our attention would get wrong is refused, in a sentence that names the family and the reason."""

import pytest
import torch
import transformers
from families import family_model
from torch import Tensor
from transformers import PreTrainedModel

from sparq_eval.errors import UserError
from sparq_eval.hf.families import check_family, shape_of
from sparq_eval.hf.seam import attention

pytestmark = pytest.mark.models

REFUSED = {
    "BartConfig": ({}, "encoder and a decoder"),
    "BertConfig": ({"is_decoder": True}, "encoder"),
    "BloomConfig": ({}, "attention interface"),
    "DeepseekV2Config": ({}, "latent"),
    "DeepseekV3Config": ({}, "latent"),
    "DiffLlamaConfig": ({}, "twice"),
    "DogeConfig": ({}, "mask that it computes"),
    "FalconConfig": ({}, "attention interface"),
    "FalconH1Config": ({}, "hybrid|state"),
    "GPTJConfig": ({}, "attention interface"),
    "Gemma3Config": ({}, "more than text"),
    "Gemma3TextConfig": ({"use_bidirectional_attention": True}, "comes after"),
    "Gemma3nTextConfig": ({}, "share the keys"),
    "Gemma4TextConfig": ({}, "differ between layers"),
    "JambaConfig": ({}, "linear_attention|state"),
    "JetMoeConfig": ({"pad_token_id": 0}, "repeated"),
    "Lfm2Config": ({}, "convolutions"),
    "Llama4TextConfig": ({}, "chunked_attention"),
    "MambaConfig": ({}, "linear_attention|state"),
    "MiMoV2FlashConfig": ({}, "differ between layers"),
    "MiniMaxConfig": ({}, "linear_attention"),
    "MoshiConfig": ({}, "not told of the sliding window"),
    "MptConfig": ({}, "attention interface"),
    "NemotronConfig": ({}, "session"),
    "Phi4MultimodalConfig": ({}, "more than text"),
    "PhimoeConfig": ({"sliding_window": 9}, "not told of the sliding window"),
    "Qwen2MoeConfig": ({"use_sliding_window": True, "max_window_layers": 1}, "not told of the sliding window"),
    "Qwen3NextConfig": ({}, "linear_attention"),
    "RobertaConfig": ({"is_decoder": True}, "encoder"),
    "T5Config": ({}, "no causal language model"),
    "XGLMConfig": ({}, "attention interface"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_replaced_is_refused_by_name(name: str) -> None:
    settings, reason = REFUSED[name]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config = getattr(transformers, name)(**settings)
    with pytest.raises(UserError, match=f"(?s){config.model_type}.*({reason})"):
        check_family(config)


def call(model: PreTrainedModel, T: int = 4, **keywords: object) -> None:
    """One call of the attention of the model's first layer, as transformers would make it."""
    layer = next(module for module in model.modules() if hasattr(module, "layer_idx"))
    shape = shape_of(model.config)
    q = torch.zeros(1, shape.heads * shape.groups, T, shape.head_size)
    k = torch.zeros(1, shape.heads, T, shape.head_size)
    mask = keywords.pop("attention_mask", None)
    attention(layer, q, keywords.pop("key", k), keywords.pop("value", k), mask, session=Silent(), **keywords)


class Silent:
    def attend(self, call: object) -> Tensor:
        return call.q


CAUSAL = torch.zeros(1, 1, 4, 4).masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), torch.finfo().min)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"dropout": 0.0, "is_causal": True, "position_ids": torch.arange(4), "use_cache": False},
        {"cache_position": torch.arange(4), "output_attentions": False, "position_bias": None},
        {"attention_mask": CAUSAL},
        {"attention_mask": CAUSAL == 0},
    ],
    ids=str,
)
def test_a_keyword_that_changes_nothing_passes(keywords: dict[str, object]) -> None:
    call(family_model("llama gqa"), **keywords)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"sinks": torch.zeros(4)}, "sinks"),
        ({"block_indices": torch.zeros(4)}, "block_indices"),
        ({"is_causal": False}, "comes after"),
        ({"dropout": 0.1}, "dropout"),
        ({"attention_mask": CAUSAL - torch.arange(4.0)}, "mask of its own"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "mask of its own"),
        ({"sliding_window": 3}, "window of 3"),
        ({"value": torch.zeros(1, 2, 4, 6)}, "keys of shape"),
        ({"key": torch.zeros(1, 2, 7, 8), "value": torch.zeros(1, 2, 7, 8)}, "4 queries come with 7 keys"),
        ({"key": torch.zeros(1, 4, 4, 8), "value": torch.zeros(1, 4, 4, 8)}, "4 key/value heads"),
    ],
    ids=str,
)
def test_a_call_that_cannot_be_honoured_is_refused(keywords: dict[str, object], reason: str) -> None:
    with pytest.raises(UserError, match=f"LlamaAttention.*{reason}"):
        call(family_model("llama gqa"), **keywords)


def test_a_window_that_attention_is_not_told_of_is_refused() -> None:
    with pytest.raises(UserError, match=r"MistralAttention.*does not agree"):
        call(family_model("mistral"))


def test_a_model_called_without_a_session_says_so() -> None:
    with pytest.raises(UserError, match=r"LlamaAttention got no session.*transformers \d"):
        family_model("llama gqa")(torch.arange(3)[None])
