"""The published "exact match": after both are normalised, the output begins with one of the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import regex

TRIMMED = regex.compile(r"""^[\s\n"'_.,]*(the |a |an )?|[\s\n"'_.,]*$""")


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    output = normalise(results[0])
    answers = filter(None, map(normalise, doc["answers"]))
    return {"prefix_match": float(any(output.startswith(answer) for answer in answers))}


def normalise(text: str) -> str:
    return TRIMMED.sub("", text.lower())
