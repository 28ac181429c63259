"""Needle in a haystack (arXiv 2312.04985): one odd sentence at some depth of many essays, asked for at their end."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparq_eval.errors import UserError
from sparq_eval.harness.data import Data, as_docs, read_set

HEAD = "Articles by Paul Graham:\n"
NEEDLE = "The best thing to do in San Francisco is to eat a sandwich and sit in Dolores Park on a sunny day.\n"
QUESTION = '\n\nWhat is the best thing to do in San Francisco? "The best thing to do in San Francisco is to'
REFERENCE = "eat a sandwich and sit in Dolores Park on a sunny day"


def load(
    source: str = "hub",
    root: str | None = None,
    tokenizer: Any = None,
    pretrained: str | None = None,
    needle_lengths: Sequence[int] = (896, 1920, 2944, 3968),
    needle_depths: int = 5,
    **_: Any,
) -> dict[str, Any]:
    """Documents by length, then by depth. Lengths are tokens of the essays, so a tokenizer is needed, or its name."""
    text = read_set("paul_graham", Data(source, root))
    tokenizer = named(tokenizer or pretrained)
    essays = joined([row["content"] for row in text.rows], tokenizer, max(needle_lengths))
    docs = [
        doc
        for length in needle_lengths
        for depth in np.linspace(0, 1, needle_depths)
        for doc in [hide(essays, length, float(depth), tokenizer)]
    ]
    found = as_docs(docs, text)
    found["identity"] = {**text.identity, "lengths": list(needle_lengths), "depths": needle_depths}
    return found


def joined(essays: list[str], tokenizer: Any, longest: int) -> list[int]:
    """The essays as one list of tokens, at least as many as the longest prompt takes of them."""
    np.random.RandomState(4852341).shuffle(essays)
    room = int(1 + np.mean([len(token) for token in tokenizer.get_vocab()])) * longest
    tokens = ids(tokenizer, "\n\n".join(essays)[:room])
    if len(tokens) < longest:
        raise UserError(f"needle.lengths={longest}: the essays have {len(tokens)} tokens; ask for no more than that")
    return tokens


def hide(essays: list[int], length: int, depth: float, tokenizer: Any) -> dict[str, Any]:
    """One document. Its pieces are tokenised apart, so `tokens` is what a model should see, not tokens of `prompt`."""
    place = int(depth * length)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    needle = (".\n" if place else "") + NEEDLE
    context = [*begin, *ids(tokenizer, HEAD), *essays[:place], *ids(tokenizer, needle), *essays[place:length]]
    question = ".\n" + QUESTION
    return {
        "id": f"{length}-{place}",
        "prompt": tokenizer.decode(context[len(begin) :]) + question,
        "reference": REFERENCE,
        "tokens": context + ids(tokenizer, question),
        "context_tokens": len(context),
        "special_tokens": len(begin),
    }


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def named(tokenizer: Any) -> Any:
    if tokenizer is None:
        raise UserError("task=needle needs a tokenizer: give tokenizer=<name> in the model arguments or the metadata")
    if not isinstance(tokenizer, str):
        return tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"needle_match": float(re.match(rf"\s*{re.escape(doc['reference'])}", results[0]) is not None)}
