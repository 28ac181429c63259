"""A token of a whole model by the real engine, behind a full cache: dense beside SparQ under the same runtime.

Weights and caches are random where a published shape is asked for: only their sizes matter for time. Each sample
decodes the token at the last position of the cache again; on a CUDA device the step is recorded as a graph, on both
sides. Before that each layer's attention is held to its method (see `gate`); what is wrong is not timed.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
import yaml
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from sparq_eval.bench.attention import name_of
from sparq_eval.bench.dense import BACKENDS
from sparq_eval.bench.gate import compare, is_rough
from sparq_eval.bench.timing import time_calls
from sparq_eval.errors import UserError
from sparq_eval.hf.cache import Cache
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.seam import NAME
from sparq_eval.hf.tally import Tally
from sparq_eval.kernels import find_kernel
from sparq_eval.methods import Attended, Dense, Method, Shape, State
from sparq_eval.methods.kernel import Kernel
from sparq_eval.methods.method import count_of
from sparq_eval.ops import Prompt
from sparq_eval.overrides import CONFIGS
from sparq_eval.progress import Advance
from sparq_eval.results.bench_rows import DecodeRow
from sparq_eval.step import Step, Visible

LLAMA: dict[str, dict[str, int]] = {
    "llama-2-7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000,
    },
    "llama-3-8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip


@final
@dataclass
class Sdpa(Kernel):
    """Dense attention by one of torch's back ends. The cache is full, so that no mask is needed: a window is its end.

    ValueError where logits are capped or have sinks, which it does not know.
    """

    method: Dense
    backend: str

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        B, H, G, _, D = step.q.shape
        if step.softcap is not None or step.sinks is not None:
            what = "sinks" if step.softcap is None else "capped logits"
            raise ValueError(f"torch's scaled_dot_product_attention has no {what}, and this model has")
        S, window = step.k.shape[2], step.visible.window
        k, v = (x[:, :, max(0, S - (window or S)) :] for x in (step.k, step.v))
        with torch.nn.attention.sdpa_kernel(BACKENDS[self.backend]):
            q = step.q.flatten(1, 2)
            out = scaled_dot_product_attention(q, k, v, scale=step.scale, enable_gqa=G > 1)
        return attended(step, out.view(B, H, G, 1, D)), state


@final
@dataclass
class Nothing(Kernel):
    """No attention at all: what is left is the time of everything else."""

    method: Dense

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        return attended(step, step.q), state


@final
@dataclass
class Judged(Kernel):
    """Attends as `act` does, and holds it to the method at every layer. wrong: what is wrong, for each where it is."""

    method: Method
    act: Kernel | Method
    wrong: list[str] = field(default_factory=list)

    @property
    def copy(self) -> str | None:
        return self.act.copy if isinstance(self.act, Kernel) else None

    def attend(self, step: Step, state: State) -> tuple[Attended, State]:
        def call(other: Step) -> Tensor:
            # some kernels change their state in place
            return self.act.attend(other, tree_map_only(Tensor, torch.clone, state))[0].out

        dtype = step.k.dtype
        rough = is_rough(self.method, dtype, in_triton=step.k.is_cuda and isinstance(self.act, Kernel))
        if wrong := compare(self.method, step, call, rough).wrong(dtype, rough):
            self.wrong.append(wrong)
        return self.act.attend(step, state)


def attended(step: Step, out: Tensor) -> Attended:
    count = step.visible.once("count", lambda: count_of(step))
    return Attended(out, count, count)


@dataclass(frozen=True)
class Side:
    """What is timed: a method by a kernel, or by itself."""

    name: str
    method: Method
    kernel: Kernel | None


def sides_of(methods: Sequence[Method], device: torch.device, shape: Shape) -> list[Side]:
    """Dense by each back end that may be fastest, then the methods by their kernels."""
    found = [
        Side(f"sdpa {name}", Dense(), Sdpa(Dense(), name)) for name in ("flash", "cudnn", "math") if fits(name, device)
    ]
    found.append(Side("dense torch", Dense(), None) if device.type != "cuda" else triton_dense(device, shape))
    for method in methods:
        resolved = method.resolve(shape)
        label = "triton" if device.type == "cuda" else "cpu"
        found.append(Side(f"{name_of(method)} {label}", resolved, find_kernel(resolved, device, shape)))
    return found


def fits(name: str, device: torch.device) -> bool:
    return name != "math" if device.type == "cuda" else name != "cudnn"


def triton_dense(device: torch.device, shape: Shape) -> Side:
    return Side("dense triton", Dense(), find_kernel(Dense(), device, shape))


def open_model(name: str, dtype: torch.dtype, device: torch.device, longest: int) -> Any:
    """A model of random weights in a published shape, or one of the zoo's small real ones."""
    if name in LLAMA:
        with device:
            config = config_of(name, longest)
            return AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=dtype).eval()
    return from_zoo(name).load(str(dtype).removeprefix("torch."), str(device))


def config_of(name: str, longest: int) -> PreTrainedConfig:
    """Its config, for which no weights are read. UserError where there is no such model."""
    if name in LLAMA:
        return LlamaConfig(**LLAMA[name], max_position_embeddings=longest, rope_theta=500000.0)
    return from_zoo(name).config


def from_zoo(name: str) -> Checkpoint:
    path = CONFIGS / "model" / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"--model {name}: must be {', '.join(LLAMA)} (random weights), or a model of configs/model")
    return open_checkpoint(**yaml.safe_load(path.read_text(encoding="utf-8")))


@torch.inference_mode()
def measure_decoding(
    name: str,
    lengths: Sequence[int],
    methods: Callable[[int], Sequence[Method]],
    dtype: torch.dtype,
    device: torch.device,
    B: int,
    tell: Callable[[DecodeRow], None],
    advance: Advance,
) -> None:
    """Time a token at each length of the cache; rows are told as they come. methods: those for a length."""
    model = open_model(name, dtype, device, max(lengths))
    shape = shape_of(model.config.get_text_config())
    engine = Engine(model, None)
    for S in lengths:
        rest: float | None = None
        sides = [Side("", Dense(), Nothing(Dense())), *sides_of(methods(S), device, shape)]
        for side in sides:
            row = time_side(engine, name, side, S, B, rest)
            advance(1 / len(sides))
            if side.name == "":
                rest = row.seconds
                continue
            tell(row)


def time_side(engine: Engine, name: str, side: Side, S: int, B: int, rest: float | None) -> DecodeRow:
    """rest: seconds of a token without attention."""
    moved = cache_bytes(engine, side.method, S) * B
    facts: dict[str, Any] = dict(
        model=name, method=name_of(side.method), implementation=side.name, B=B, S=S,
        r=getattr(side.method, "r", None), k=getattr(side.method, "k", None), copy=getattr(side.method, "copy", None),
        dtype=str(engine.model.dtype).removeprefix("torch."), weight_bytes=float(weight_bytes(engine.model)),
        cache_bytes=moved,
    )  # fmt: skip
    device = engine.device
    try:
        cache = full_cache(engine, side, S, B)
        tally = Tally.zero(B, engine.layers, device)
        rows = [torch.arange(B, device=device)]
        ids = torch.ones(B, 1, dtype=torch.long, device=device)
        at = torch.full((B, 1), S - 1, device=device)
        token = torch.zeros((), dtype=torch.long, device=device)

        def step() -> None:
            engine.forward(ids, at, Decode(cache, rows, token, [tally], in_place=True), last_only=True)
            # nothing is counted here
            tally.waiting.clear()

        if not isinstance(side.kernel, Nothing):
            judged = Judged(side.method, side.kernel or side.method)
            cache.kernels = [judged]
            step()
            if judged.wrong:
                return DecodeRow(**facts, note=judged.wrong[0])
            cache.kernels = [side.kernel]
        timed = time_calls([step], device, budget=0.6 if device.type == "cuda" else 5.0, most=100)
    except torch.OutOfMemoryError:
        return DecodeRow(**facts, note="out of memory")
    except (RuntimeError, ValueError) as error:
        return DecodeRow(**facts, note=str(error).strip().splitlines()[0][:200])
    finally:
        cache = None  # type: ignore[assignment]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    own = None if rest is None else max(timed.seconds - rest, 0.0)
    return DecodeRow(
        **facts, seconds=timed.seconds, low=timed.low, high=timed.high, repeats=timed.repeats, attention_seconds=own
    )


def cache_bytes(engine: Engine, method: Method, S: int) -> float:
    """What a method must move of the caches of a sequence in a step; a layer with a window caches no more than that."""
    config, itemsize = engine.model.config.get_text_config(), engine.model.dtype.itemsize
    shape = shape_of(config, itemsize)
    # the query's own position is one of those that it sees
    cached = [min(S, window or S) - 1 for window in layer_windows(config)]
    return float(sum(method.transfers(n, shape) for n in cached) * shape.heads * itemsize)


def full_cache(engine: Engine, side: Side, S: int, B: int) -> Cache:
    """A cache of S - 1 random positions, the same in each layer, with room for the token that is decoded."""
    config, device, dtype = engine.model.config.get_text_config(), engine.device, engine.model.dtype
    shape = shape_of(config)
    H, G, D = shape.heads, shape.groups, shape.head_size
    valid = torch.ones(B, S - 1, dtype=torch.bool, device=device)
    cache = Cache([side.method], valid, 1, tails=True, kernel_for=lambda _: side.kernel)
    # drawn once, as a CPU draws more slowly than it computes; each layer keeps a copy of its own
    k, v = (torch.randn(B, H, S - 1, D, dtype=dtype, device=device) for _ in range(2))
    for layer, window in enumerate(layer_windows(config)):
        q = torch.randn(B, H, G, 1, D, dtype=dtype, device=device)
        prompt = Prompt(q, k, v, Visible(valid, 1, window), D**-0.5)
        own = cache.make_layer(k, v)
        own.columns = cache.make_columns(prompt)
        own.states = [side.kernel.prefill(prompt, 1) if side.kernel else side.method.prefill(prompt)]
        cache.layers[layer] = own
    return cache


def weight_bytes(model: Any) -> int:
    """Bytes of weights that a token needs: all but the table of embeddings, of which it needs a row, unless that is the
    output's too.
    """
    total = sum(weight.numel() * weight.itemsize for weight in model.parameters())
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return int(total if table is head else total - table.numel() * table.itemsize)
