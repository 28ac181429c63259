"""Tiny random models, and the obvious way to run a method: no cache, everything recomputed from the whole sequence."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from sparq_eval.hf.seam import NAME, Call
from sparq_eval.methods import Method
from sparq_eval.ops import Prompt, logits, mix, softmax
from sparq_eval.request import Request
from sparq_eval.step import Step, Visible

VOCABULARY = 97
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gqa": LlamaConfig(**SIZES, num_key_value_heads=2),
    "mha": GPTNeoXConfig(**SIZES),
    "mqa with soft caps and windows": Gemma2Config(
        **SIZES, num_key_value_heads=1, head_dim=8, sliding_window=9, query_pre_attn_scalar=8
    ),
}


def tiny_model(kind: str, attention: str = NAME) -> PreTrainedModel:
    torch.manual_seed(17)
    return AutoModelForCausalLM.from_config(deepcopy(CONFIGS[kind]), attn_implementation=attention).eval().to(DEVICE)


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(48 + token) for token in tokens)


def tiny_requests(
    lengths: list[int], *, steps: int = 0, forced: list[int] | None = None, seed: int = 3
) -> list[Request]:
    """Random prompts of the lengths given, to be continued by `steps` tokens or scored on `forced` random ones.

    No token comes twice in an example: the same token twice can tie in a ranking, and a tie may be broken either way.
    """
    source = torch.Generator().manual_seed(seed)
    requests = []
    for i, n in enumerate(lengths):
        m = forced[i] if forced else 0
        tokens = tuple(torch.randperm(VOCABULARY, generator=source)[: n + m].tolist())
        requests.append(Request(i, f"example {i}", tokens[:n], n, steps=steps, forced=tokens[n:]))
    return requests


@dataclass
class Naive:
    """A session without a cache: the first P queries are the prompt, each later one is decoded alone."""

    method: Method
    P: int

    def attend(self, call: Call) -> torch.Tensor:
        B, _, _, T, _ = call.q.shape
        visible = Visible(torch.ones(B, T, dtype=torch.bool, device=call.q.device), T, call.window)
        whole = Step(call.q, call.k, call.v, visible, call.scale, call.softcap, call.sinks)
        dense = whole.narrow(0, self.P)
        outs = [mix(softmax(logits(dense), dense.sinks), dense.v)]
        prompt = Prompt(dense.q, dense.k, dense.v, dense.visible, call.scale, call.softcap, call.sinks)
        state = self.method.prefill(prompt)
        for t in range(self.P, T):
            attended, state = self.method.attend(whole.narrow(t, t + 1), state)
            outs.append(attended.out)
        return torch.cat(outs, dim=3)


def naive_logits(model: PreTrainedModel, method: Method, request: Request, tokens: tuple[int, ...]) -> torch.Tensor:
    """Logits of each of `tokens`, the request's prompt and the tokens before it being given: (T, V)."""
    ids = torch.tensor([request.prompt + tokens], device=DEVICE)
    positions = torch.arange(ids.shape[1], device=DEVICE)[None]
    with torch.inference_mode():
        P = len(request.prompt)
        return model(input_ids=ids, position_ids=positions, use_cache=False, session=Naive(method, P)).logits[
            0, P - 1 : -1
        ]
