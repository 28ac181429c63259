"""Repetition (arXiv 2312.04985): a passage of Shakespeare, then a line of it to be continued word for word."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparq_eval.harness.data import Data, as_docs, read_set

CONTEXT = re.compile(r"(.{6000,}?)(?=\s|$)", re.DOTALL)
PAIR = re.compile(r"(.{128,}?)(\s.{255,}?)(?=\s|$)", re.DOTALL)


def load(source: str = "hub", root: str | None = None, **_: Any) -> dict[str, Any]:
    text = read_set("tiny_shakespeare", Data(source, root))
    return as_docs(build("".join(row["text"] for row in text.rows)), text, seed=544085)


def build(text: str) -> list[dict[str, Any]]:
    """Documents in the text's order; an id is the place of the line in the text, in characters."""
    return [
        {
            "id": str(context.start() + pair.start()),
            "context": context[1],
            "prompt": pair[1],
            "reference": pair[2],
            "cluster": str(context.start()),
        }
        for context in CONTEXT.finditer(text)
        for pair in PAIR.finditer(context[1])
    ]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Characters until the first difference; the whole reference where there is none, also if the output is shorter."""
    output, reference = results[0].lstrip(), doc["reference"].lstrip()
    both = enumerate(zip(output, reference, strict=False))
    return {"match_length": float(next((n for n, (a, b) in both if a != b), len(reference)))}
