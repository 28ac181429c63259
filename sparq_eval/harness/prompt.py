"""From a task's documents to requests: tokens, cuts and stops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sparq_eval.errors import UserError
from sparq_eval.request import Request

MOST_FORCED = 256  # tokens of a scored text, which the published limit on prompts leaves room for


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer; it must be one that knows which token a character is in."""

    bos_token_id: int | None

    def __call__(self, text: list[str], **options: bool) -> Any: ...


@dataclass(frozen=True)
class Writer:
    """Writes the requests of one task.

    most: the most tokens of a prompt, specials included, None for no limit; what is before the last of them goes.
    steps: tokens to generate, at most; with `by_reference` no more than the reference has, plus `margin`. The reference
    is the document's own, or the longest of its answers: not the longest of a batch, as in the paper where a batch has
    several examples, so that no answer depends on the batch.
    forced: score the reference instead of generating.
    """

    name: str
    tokenizer: Tokenizer
    most: int | None
    steps: int = 0
    by_reference: bool = False
    margin: int = 0
    until: tuple[str, ...] = ()
    forced: bool = False

    def write(self, first: int, docs: Sequence[Mapping[str, Any]], prompts: Sequence[str]) -> list[Request]:
        """Requests for documents that follow each other from index `first`, with lm-eval's text of their prompts."""
        prompted = self._own_tokens(first, docs) if "tokens" in docs[0] else self._tokenise(first, docs, prompts)
        named = [replace(one, cluster=doc.get("cluster", "")) for one, doc in zip(prompted, docs, strict=True)]
        if not self.by_reference:
            return [replace(request, steps=self.steps, until=self.until) for request in named]
        references = [self._reference(doc) for doc in docs]
        return [self._follow(request, reference) for request, reference in zip(named, references, strict=True)]

    def _reference(self, doc: Mapping[str, Any]) -> list[int]:
        texts = [doc["reference"]] if "reference" in doc else list(doc["answers"]) or [""]
        return max(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"], key=len)

    def _own_tokens(self, first: int, docs: Sequence[Mapping[str, Any]]) -> list[Request]:
        """Prompts that the task itself put together of tokens; nothing of them may be cut away."""
        return [
            Request(
                index=index,
                id=doc["id"],
                prompt=tuple(doc["tokens"]),
                prompt_tokens=len(doc["tokens"]) - doc["special_tokens"],
                context=doc["context_tokens"],
                text=doc["prompt"],
            )
            for index, doc in enumerate(docs, first)
        ]

    def _tokenise(self, first: int, docs: Sequence[Mapping[str, Any]], prompts: Sequence[str]) -> list[Request]:
        batch = self.tokenizer(list(prompts), return_special_tokens_mask=True, verbose=False)
        requests = []
        for place, (doc, tokens, special) in enumerate(
            zip(docs, batch["input_ids"], batch["special_tokens_mask"], strict=True)
        ):
            after = batch.char_to_token(place, len(doc["context"])) if doc["context"] else 0
            begin = special.index(0)
            over = 0 if self.most is None else max(0, len(tokens) - self.most)
            request = Request(
                index=first + place,
                id=doc["id"],
                # special tokens before the text stay when its beginning goes
                prompt=(*tokens[:begin], *tokens[begin + over :]),
                prompt_tokens=special.count(0),
                context=max(begin, after - over) if after else 0,
                truncated=over > 0,
                text=prompts[place],
            )
            requests.append(request)
        return requests

    def _follow(self, request: Request, reference: list[int]) -> Request:
        if not self.forced:
            return replace(request, steps=min(self.steps, len(reference) + self.margin), until=self.until)
        if len(reference) > MOST_FORCED:
            raise UserError(
                f"task={self.name}: the text to score of example {request.id} has {len(reference)} tokens with this "
                f"tokenizer; there is room for {MOST_FORCED}"
            )
        return replace(request, forced=tuple(reference))
