"""One prefill a batch, then every setting answers from it together."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.accounting import cached, nominal
from sparq_eval.hf.cache import Cache, no_kernel
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.hf.generation import Generation
from sparq_eval.hf.phases import Decode, Prefill, Score
from sparq_eval.hf.placement import Placement
from sparq_eval.hf.seam import Session
from sparq_eval.hf.tally import Tally
from sparq_eval.methods import Dense, Method
from sparq_eval.methods.kernel import Kernel
from sparq_eval.request import Answer, Request, Traffic

LOGITS = 2**26  # elements of float32 logits that scoring holds at a time


@dataclass
class Engine:
    """Answers requests with a model whose attention is replaced.

    model: loaded with the attention of `sparq_eval.hf.seam`, in eval mode. tokenizer: anything with `decode`.
    can_record: whether decode steps may be recorded as CUDA graphs; set to False where the model's code forbids it.
    kernel_for: gives the kernel that generates for a method, None where the method itself attends; scoring is torch's.
    """

    model: Any
    tokenizer: Any
    accounting: str = "code"  # of nominal traffic: code or paper
    can_record: bool = True
    kernel_for: Callable[[Method], Kernel | None] = no_kernel

    def __post_init__(self) -> None:
        self.can_record &= self.device.type == "cuda" and not self.placement.split

    @torch.inference_mode()
    def answer(
        self,
        requests: Sequence[Request],
        methods: Sequence[Method],
        context_methods: Sequence[Method] = (),
        *,
        stepwise: bool = False,
    ) -> list[list[Answer]]:
        """Answers of one batch by method, then by request, in their orders. All requests are forced, or none.

        context_methods: they attend densely to each request's context alone, and by themselves from the question on;
        their answers come behind those of `methods`, and share the prefill with them.
        stepwise: feed forced tokens one at a time instead of all at once: slow, obviously right, and equal.
        """
        forced = {bool(request.forced) for request in requests}
        if len(forced) != 1:
            raise ValueError("a batch is either scored or generated")
        if context_methods and (forced == {True} or not all(0 < r.context < len(r.prompt) for r in requests)):
            raise ValueError("only answers to a question behind a context can start from the context")
        if not forced.pop():
            return self.generate(requests, methods, context_methods)
        return self.score_stepwise(requests, methods) if stepwise else self.score(requests, methods)

    def generate(
        self, requests: Sequence[Request], methods: Sequence[Method], context_methods: Sequence[Method]
    ) -> list[list[Answer]]:
        questions = [request.prompt[request.context :] if context_methods else () for request in requests]
        room = max(1, *(len(question) + r.steps - 1 for question, r in zip(questions, requests, strict=True)))
        cache, last = self.prefill(requests, methods, room, tails=True, context_methods=context_methods, kernels=True)
        first, sound = last.argmax(dim=-1).tolist(), torch.isfinite(last).all(dim=-1).tolist()
        whole = Generation(self, cache, requests, [()] * len(requests), shrinks=not context_methods)
        # the first token comes from the dense prefill, the same for every setting
        whole.begin(first, sound)
        answers = whole.answers()
        if context_methods:
            cache.rewind()
            answers += Generation(self, cache, requests, questions).answers()
        return answers

    def prefill(
        self,
        requests: Sequence[Request],
        methods: Sequence[Method],
        room: int,
        *,
        tails: bool,
        context_methods: Sequence[Method] = (),
        kernels: bool = False,
    ) -> tuple[Cache, Float[Tensor, "B V"]]:
        """The cache of a left-padded batch of prompts with room for more tokens, and the logits behind each prompt.

        kernels: whether what is decoded from it is decoded by kernels where there are.
        """
        P = max(len(request.prompt) for request in requests)
        ids = torch.zeros(len(requests), P, dtype=torch.long)
        valid = torch.zeros(len(requests), P, dtype=torch.bool)
        for b, request in enumerate(requests):
            ids[b, P - len(request.prompt) :] = torch.tensor(request.prompt)
            valid[b, P - len(request.prompt) :] = True
        positions = (valid.cumsum(dim=1) - 1).clamp(min=0)
        question = (
            torch.tensor([len(r.prompt) - r.context for r in requests]).to(self.device) if context_methods else None
        )
        kernel_for = self.kernel_for if kernels else no_kernel
        cache = Cache(methods, valid.to(self.device), room, tails, context_methods, question, kernel_for)
        logits = self.forward(ids, positions, Prefill(cache), last_only=True)
        if len(cache.layers) != self.layers:
            raise RuntimeError(f"attention was replaced on {len(cache.layers)} of {self.layers} layers")
        return cache, logits[:, -1].float()

    def forward(
        self, ids: Int[Tensor, "R T"], positions: Int[Tensor, "R T"], session: Session, *, last_only: bool
    ) -> Float[Tensor, "R t V"]:
        return self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            session=session,
            logits_to_keep=1 if last_only else 0,
        ).logits

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def placement(self) -> Placement:
        devices = tuple(dict.fromkeys(weight.device for weight in self.model.parameters()))
        return Placement(devices, split=len(devices) > 1)

    @property
    def layers_by_device(self) -> Mapping[torch.device, int]:
        """How many layers, and so how many layers' caches, lie on each device."""
        if not self.placement.split:
            return {self.device: self.layers}
        whole = self.model._no_split_modules
        layers = [module for module in self.model.modules() if type(module).__name__ in whole]
        return Counter(next(layer.parameters()).device for layer in layers)

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def score(self, requests: Sequence[Request], methods: Sequence[Method]) -> list[list[Answer]]:
        """Score forced tokens, one forward for each setting (in parts where logits would be too large)."""
        lengths = torch.tensor([len(request.forced) for request in requests])
        T = int(lengths.max()) - 1
        cache, last = self.prefill(requests, methods, max(T, 1), tails=False)
        forced = torch.zeros(len(requests), T + 1, dtype=torch.long)
        for b, request in enumerate(requests):
            forced[b, : len(request.forced)] = torch.tensor(request.forced)
        forced, lengths = forced.to(self.device), lengths.to(self.device)
        starts = torch.tensor([len(request.prompt) for request in requests], device=self.device)
        positions = starts[:, None] + torch.arange(T, device=self.device)
        rows = max(1, LOGITS // max(1, T * last.shape[-1]))
        answers = []
        for n in range(len(methods)):
            tally = Tally.zero(len(requests), self.layers, self.device)
            scored = [judge(last[:, None], forced[:, :1])]
            if T > 0:
                parts = []
                for first in range(0, len(requests), rows):
                    part = slice(first, first + rows)
                    session = Score(cache, n, part, lengths[part] - 1, tally)
                    logits = self.forward(forced[part, :-1], positions[part], session, last_only=False)
                    parts.append(judge(logits, forced[part, 1:]))
                scored.append(Judged.join(parts, dim=0))
            answers.append(self.scored(requests, methods[n], Judged.join(scored, dim=1), tally))
        return answers

    def score_stepwise(self, requests: Sequence[Request], methods: Sequence[Method]) -> list[list[Answer]]:
        """The slow twin of `score`: forced tokens are fed one at a time, as generated ones are."""
        T = max(len(request.forced) for request in requests)
        cache, last = self.prefill(requests, methods, max(T - 1, 1), tails=True)
        B, N = len(requests), len(methods)
        tallies = [Tally.zero(B, self.layers, self.device) for _ in methods]
        forced = torch.tensor([request.forced + (0,) * (T - len(request.forced)) for request in requests])
        forced = forced.to(self.device)
        judged = [[judge(last[:, None], forced[:, :1])] for _ in methods]
        for t in range(T - 1):
            live = [b for b, request in enumerate(requests) if t + 1 < len(request.forced)]
            examples = torch.tensor(live, device=self.device)
            session = Decode(cache, [examples] * N, t, tallies)
            at = torch.tensor([[len(requests[b].prompt) + t] for b in live])
            logits = self.forward(forced[examples, t : t + 1].repeat(N, 1), at.repeat(N, 1), session, last_only=True)
            session.close()
            for n, part in enumerate(logits.split(len(live))):
                whole = torch.zeros(B, 1, part.shape[-1], dtype=part.dtype, device=self.device)
                judged[n].append(judge(whole.index_copy_(0, examples, part), forced[:, t + 1 : t + 2]))
        return [
            self.scored(requests, method, Judged.join(judged[n], dim=1), tallies[n]) for n, method in enumerate(methods)
        ]

    def scored(self, requests: Sequence[Request], method: Method, judged: "Judged", tally: Tally) -> list[Answer]:
        answers = []
        for b, request in enumerate(requests):
            T = len(request.forced)
            loglikelihood = judged.logprob[b, :T].double().sum().item()
            answers.append(
                Answer(
                    index=request.index,
                    tokens=request.forced,
                    output=self.tokenizer.decode(request.forced),
                    traffic=self.traffic(request, method, tally, b, T - 1),
                    certificate=tally.certificate(b, T - 1),
                    loglikelihood=loglikelihood,
                    greedy=bool(judged.greedy[b, :T].all()),
                    finite=math.isfinite(loglikelihood),
                    part=request.part,
                )
            )
        return answers

    def traffic(self, request: Request, method: Method, tally: Tally, b: int, steps: int) -> Traffic:
        config = self.model.config.get_text_config()
        S, shape = cached(request, steps, self.accounting), shape_of(config, self.model.dtype.itemsize)
        form = shape, layer_windows(config), self.accounting
        moved, dense = (x[b].item() / steps if steps else math.nan for x in (tally.moved, tally.dense))
        return Traffic(
            nominal=nominal(method, S, *form),
            nominal_dense=nominal(Dense(), S, *form),
            counted=moved,
            counted_dense=dense,
        )


@dataclass(frozen=True)
class Judged:
    """How likely forced tokens were: log-probability in nats, and whether each was the likeliest."""

    logprob: Float[Tensor, "B T"]
    greedy: Tensor

    @staticmethod
    def join(parts: "Sequence[Judged]", dim: int) -> "Judged":
        return Judged(
            torch.cat([part.logprob for part in parts], dim=dim), torch.cat([part.greedy for part in parts], dim=dim)
        )


def judge(logits: Float[Tensor, "B T V"], forced: Int[Tensor, "B T"]) -> Judged:
    """Judge each token by the logits that came before it, row by row to spare memory."""
    rows = []
    for row, token in zip(logits, forced, strict=True):
        row = row.float()
        chosen = row.gather(-1, token[:, None])[:, 0]
        rows.append((chosen - row.logsumexp(dim=-1), row.argmax(dim=-1) == token))
    return Judged(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))
