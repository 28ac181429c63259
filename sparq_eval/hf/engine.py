"""One prefill a batch, then every setting answers from it together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.hf.cache import Cache
from sparq_eval.hf.phases import Decode, Prefill, Score, Tally
from sparq_eval.hf.seam import Session, layer_windows, shape_of
from sparq_eval.methods import Dense, Method
from sparq_eval.request import Answer, Request, Traffic

LOGITS = 2**26  # elements of float32 logits that scoring holds at a time


@dataclass(frozen=True)
class Engine:
    """Answers requests with a model whose attention is replaced.

    model: loaded with the attention of `sparq_eval.hf.seam`, in eval mode. tokenizer: anything with `decode`.
    """

    model: Any
    tokenizer: Any

    @torch.inference_mode()
    def answer(
        self, requests: Sequence[Request], methods: Sequence[Method], *, stepwise: bool = False
    ) -> list[list[Answer]]:
        """Answers of one batch by method, then by request, in their orders. All requests are forced, or none.

        stepwise: feed forced tokens one at a time instead of all at once: slow, obviously right, and equal.
        """
        forced = {bool(request.forced) for request in requests}
        if len(forced) != 1:
            raise ValueError("a batch is either scored or generated")
        if not forced.pop():
            return Generation(self, requests, methods).answers()
        return self.score_stepwise(requests, methods) if stepwise else self.score(requests, methods)

    def prefill(
        self, requests: Sequence[Request], methods: Sequence[Method], room: int, *, tails: bool
    ) -> tuple[Cache, Float[Tensor, "B V"]]:
        """The cache of a left-padded batch of prompts with room for more tokens, and the logits behind each prompt."""
        P = max(len(request.prompt) for request in requests)
        ids = torch.zeros(len(requests), P, dtype=torch.long)
        valid = torch.zeros(len(requests), P, dtype=torch.bool)
        for b, request in enumerate(requests):
            ids[b, P - len(request.prompt) :] = torch.tensor(request.prompt)
            valid[b, P - len(request.prompt) :] = True
        positions = (valid.cumsum(dim=1) - 1).clamp(min=0)
        cache = Cache(methods, valid.to(self.device), room, tails)
        logits = self.forward(ids, positions, Prefill(cache), last_only=True)
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(cache.layers) != layers:
            raise RuntimeError(f"attention was replaced on {len(cache.layers)} of {layers} layers")
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
            tally = Tally.zero(len(requests), self.device)
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
        tallies = [Tally.zero(B, self.device) for _ in methods]
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
                    decode_steps=T - 1,
                    sparse_steps=tally.sparse[b].item() / self.model.config.get_text_config().num_hidden_layers,
                    loglikelihood=loglikelihood,
                    greedy=bool(judged.greedy[b, :T].all()),
                    finite=math.isfinite(loglikelihood),
                    part=request.part,
                )
            )
        return answers

    def traffic(self, request: Request, method: Method, tally: Tally, b: int, steps: int) -> Traffic:
        config = self.model.config.get_text_config()
        shape = shape_of(config)
        seen = [min(request.prompt_tokens, window or request.prompt_tokens) for window in layer_windows(config)]
        moved, dense = (x[b].item() / steps if steps else math.nan for x in (tally.moved, tally.dense))
        return Traffic(
            nominal=shape.heads * sum(method.transfers(S, shape) for S in seen),
            nominal_dense=shape.heads * sum(Dense().transfers(S, shape) for S in seen),
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


class Generation:
    """Greedy decoding of all settings at once: a row (a setting at an example) ends by itself, an example leaves the
    cache when all its rows have ended.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], methods: Sequence[Method]) -> None:
        self.engine, self.requests, self.methods = engine, requests, methods
        room = max(1, *(request.steps - 1 for request in requests))
        self.cache, last = engine.prefill(requests, methods, room, tails=True)
        # the first token comes from the dense prefill, the same for every setting
        first, sound = last.argmax(dim=-1).tolist(), torch.isfinite(last).all(dim=-1).tolist()
        self.tokens = [[[token] for token in first] for _ in methods]
        self.finite = [list(sound) for _ in methods]
        self.tallies = [Tally.zero(len(requests), engine.device) for _ in methods]

    def answers(self) -> list[list[Answer]]:
        rows = [(n, b) for n in range(len(self.methods)) for b in range(len(self.requests))]
        step = 0
        while rows := [(n, b) for n, b in rows if not self.ended(n, b)]:
            self.step(rows, step)
            step += 1
        return [[self.answer(n, b) for b in range(len(self.requests))] for n in range(len(self.methods))]

    def step(self, rows: list[tuple[int, int]], step: int) -> None:
        """One token more for each row; rows are sorted."""
        places = self.places({b for _, b in rows})
        examples = [[places[b] for m, b in rows if m == n] for n in range(len(self.methods))]
        device = self.engine.device
        session = Decode(
            self.cache, [torch.tensor(e, dtype=torch.long, device=device) for e in examples], step, self.tallies
        )
        ids = torch.tensor([[self.tokens[n][b][-1]] for n, b in rows])
        at = torch.tensor([[len(self.requests[b].prompt) + step] for _, b in rows])
        logits = self.engine.forward(ids, at, session, last_only=True)[:, -1]
        session.close()
        chosen, sound = logits.argmax(dim=-1).tolist(), torch.isfinite(logits).all(dim=-1).tolist()
        for (n, b), token, finite in zip(rows, chosen, sound, strict=True):
            self.tokens[n][b].append(token)
            self.finite[n][b] &= finite

    def places(self, live: set[int]) -> dict[int, int]:
        """Where examples lie in the cache, after those that nobody decodes any more have left it, if they are many."""
        here = self.cache.examples.tolist()
        if len(live) <= 0.75 * len(here):
            keep = [place for place, b in enumerate(here) if b in live]
            self.cache.keep(torch.tensor(keep, device=self.engine.device))
            here = [here[place] for place in keep]
        return {b: place for place, b in enumerate(here)}

    def ended(self, n: int, b: int) -> bool:
        request, tokens = self.requests[b], self.tokens[n][b]
        if len(tokens) >= request.steps or tokens[-1] in request.ends:
            return True
        text = self.engine.tokenizer.decode(tokens) if request.until else ""
        return stop_at(text, request.until, request.literal) is not None

    def answer(self, n: int, b: int) -> Answer:
        request, tokens = self.requests[b], self.tokens[n][b]
        special = {"skip_special_tokens": True} if request.literal else {}
        text = self.engine.tokenizer.decode(tokens, **special)
        steps = len(tokens) - 1
        tally = self.tallies[n]
        return Answer(
            index=request.index,
            tokens=tuple(tokens),
            output=text[: stop_at(text, request.until, request.literal)],
            traffic=self.engine.traffic(request, self.methods[n], tally, b, steps),
            decode_steps=steps,
            sparse_steps=tally.sparse[b].item() / self.engine.model.config.get_text_config().num_hidden_layers,
            finite=self.finite[n][b],
            part=request.part,
        )


def stop_at(text: str, until: Sequence[str], literal: bool = False) -> int | None:
    """Where the first stop string begins that comes after the first letter or digit, or anywhere if `literal`.

    What comes before is not an answer yet: the tasks' normalisation drops white space and punctuation there.
    """
    first = 0 if literal else next((place for place, letter in enumerate(text) if letter.isalnum()), len(text))
    places = [place for stop in until if (place := text.find(stop, first)) >= 0]
    return min(places, default=None)
