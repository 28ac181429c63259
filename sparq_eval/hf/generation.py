"""Greedy decoding of all settings of a batch at once."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparq_eval.hf.cache import Cache
from sparq_eval.hf.phases import Decode
from sparq_eval.hf.recorded import Recorded
from sparq_eval.hf.tally import Tally
from sparq_eval.request import Answer, Request

if TYPE_CHECKING:
    from sparq_eval.hf.engine import Engine

Row = tuple[int, int]  # a setting and an example of the batch, by their places


class Generation:
    """A row (a setting at an example) ends by itself; an example leaves the cache when all its rows have ended.

    given: tokens of each request that are fed one by one before its answer begins: its question, where only the context
    was prefilled. shrinks: whether examples may leave the cache.
    """

    def __init__(
        self,
        engine: "Engine",
        cache: Cache,
        requests: Sequence[Request],
        given: Sequence[tuple[int, ...]],
        *,
        shrinks: bool = True,
    ) -> None:
        self.engine, self.cache, self.requests, self.given, self.shrinks = engine, cache, requests, given, shrinks
        N, B = len(cache.methods), len(requests)
        self.tokens: list[list[list[int]]] = [[[] for _ in range(B)] for _ in range(N)]
        self.finite = [[True] * B for _ in range(N)]
        self.tallies = [Tally.zero(B, engine.layers, engine.device) for _ in range(N)]
        self.recorded: Recorded | None = None

    def begin(self, tokens: Sequence[int], sound: Sequence[bool]) -> None:
        """The first token of each answer, where the prefill gave it, and whether its logits were finite."""
        self.tokens = [[[token] for token in tokens] for _ in self.cache.methods]
        self.finite = [list(sound) for _ in self.cache.methods]

    def answers(self) -> list[list[Answer]]:
        """Decode until every row has ended. By setting, then by request."""
        rows = [(n, b) for n in range(len(self.cache.methods)) for b in range(len(self.requests))]
        step = 0
        while rows := [(n, b) for n, b in rows if not self.ended(n, b)]:
            self.step(rows, step)
            step += 1
        return [[self.answer(n, b) for b in range(len(self.requests))] for n in range(len(self.cache.methods))]

    def step(self, rows: Sequence[Row], step: int) -> None:
        """One token more for each row; rows are sorted."""
        places = self.places({b for _, b in rows})
        if self.engine.can_record and self.recorded is None:
            self.recorded = Recorded(self.engine, self.cache, self.tallies)
        # a recorded step runs all rows, those that have ended too
        fed = [(n, b) for n in range(len(self.cache.methods)) for b in places] if self.recorded else rows
        ids = torch.tensor([[self.token(n, b, step)] for n, b in fed])
        at = torch.tensor([[self.start(b) + min(step, self.most(b))] for _, b in fed])
        if self.recorded:
            live = torch.zeros(len(self.cache.methods), len(places), 1, dtype=torch.bool)
            for n, b in rows:
                live[n, places[b]] = True
            logits = self.recorded(ids, at, step, live)
        else:
            logits = self.logits(ids, at, rows, places, step)
        chosen, sound = logits.argmax(dim=-1).tolist(), torch.isfinite(logits).all(dim=-1).tolist()
        wanted = set(rows)
        for (n, b), token, finite in zip(fed, chosen, sound, strict=True):
            if (n, b) not in wanted:
                continue
            if step >= len(self.given[b]) - 1:
                self.tokens[n][b].append(token)
            self.finite[n][b] &= finite

    def logits(
        self, ids: Int[Tensor, "R 1"], at: Int[Tensor, "R 1"], rows: Sequence[Row], places: dict[int, int], step: int
    ) -> Float[Tensor, "R V"]:
        examples = [[places[b] for m, b in rows if m == n] for n in range(len(self.cache.methods))]
        device = self.cache.valid.device
        session = Decode(
            self.cache, [torch.tensor(e, dtype=torch.long, device=device) for e in examples], step, self.tallies
        )
        logits = self.engine.forward(ids, at, session, last_only=True)[:, -1]
        session.close()
        return logits

    def token(self, n: int, b: int, step: int) -> int:
        """What a row is fed: of its question while there is some, then the token before."""
        return self.given[b][step] if step < len(self.given[b]) else self.tokens[n][b][-1]

    def start(self, b: int) -> int:
        """How many tokens of a request lie in the cache before the first step."""
        return len(self.requests[b].prompt) - len(self.given[b])

    def most(self, b: int) -> int:
        """How many steps a request's rows may take."""
        return len(self.given[b]) + self.requests[b].steps - 1

    def places(self, live: set[int]) -> dict[int, int]:
        """Where examples lie in the cache, after those that nobody decodes any more have left it, if they are many."""
        here = self.cache.examples.tolist()
        # recording anew costs some steps
        if self.shrinks and len(live) <= (0.5 if self.recorded else 0.75) * len(here):
            keep = [place for place, b in enumerate(here) if b in live]
            self.cache.keep(torch.tensor(keep, device=self.cache.valid.device))
            self.recorded = None
            here = [here[place] for place in keep]
        return {b: place for place, b in enumerate(here)}

    def ended(self, n: int, b: int) -> bool:
        request, tokens = self.requests[b], self.tokens[n][b]
        if len(tokens) >= request.steps or (tokens and tokens[-1] in request.ends):
            return True
        text = self.engine.tokenizer.decode(tokens) if request.until else ""
        return stop_at(text, request.until, request.literal) is not None

    def answer(self, n: int, b: int) -> Answer:
        request, tokens = self.requests[b], self.tokens[n][b]
        special = {"skip_special_tokens": True} if request.literal else {}
        decode = partial(self.engine.tokenizer.decode, **special)
        text = decode(tokens)
        output = text[: stop_at(text, request.until, request.literal)]
        steps = len(self.given[b]) + len(tokens) - 1
        return Answer(
            index=request.index,
            tokens=tuple(tokens),
            output=output,
            token_lengths=lengths_of(tokens, output, decode),
            traffic=self.engine.traffic(request, self.cache.methods[n], self.tallies[n], b, steps),
            certificate=self.tallies[n].certificate(b, steps),
            finite=self.finite[n][b],
            part=request.part,
        )


def lengths_of(tokens: Sequence[int], output: str, decode: Callable[[Sequence[int]], str]) -> tuple[int, ...]:
    """How many characters of `output`, where their text begins with it, each token adds."""
    ends = accumulate((alike(decode(tokens[: n + 1]), output) for n in range(len(tokens))), max)
    return tuple(end - begin for begin, end in pairwise([0, *ends]))


def alike(text: str, output: str) -> int:
    """How many characters both begin with: not all of a text whose last is not whole, and is decoded as another."""
    if output.startswith(text):
        return len(text)
    return next((n for n, (one, other) in enumerate(zip(text, output, strict=False)) if one != other), len(output))


def stop_at(text: str, until: Sequence[str], literal: bool = False) -> int | None:
    """Where the first stop string begins that comes after the first letter or digit, or anywhere if `literal`.

    What comes before is not an answer yet: the tasks' normalisation drops white space and punctuation there.
    """
    first = 0 if literal else next((place for place, letter in enumerate(text) if letter.isalnum()), len(text))
    places = [place for stop in until if (place := text.find(stop, first)) >= 0]
    return min(places, default=None)
