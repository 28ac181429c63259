"""WikiText bits per character (arXiv 2312.04985): some 400 characters of a page, given its first 6,000."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparq_eval.harness.data import Data, as_docs, read_set

PAGE = re.compile(r"^(.{6000}.*?)(\s.{399}.*?)(?:\s|$)", re.DOTALL)


def load(source: str = "hub", root: str | None = None, **_: Any) -> dict[str, Any]:
    """Documents whose id is the number of their page in the set."""
    text = read_set("wikitext_document_level", Data(source, root))
    docs = [
        {"id": str(number), "context": "", "prompt": page[1], "reference": page[2]}
        for number, row in enumerate(text.rows)
        if (page := PAGE.match(row["page"]))
    ]
    return as_docs(docs, text, seed=2353669)


def score(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    loglikelihood, _ = results[0]
    return {"bits_per_character": -loglikelihood / math.log(2) / len(doc["reference"])}
