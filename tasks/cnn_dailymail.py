"""CNN/DailyMail 0-shot as SparQ's evaluation asks it (arXiv 2312.04985): a summary as long as the reference."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from sparq_eval.harness.data import Data, as_docs, read_set

SHORTEST, LONGEST = 4000, 8000  # characters of an article


def load(source: str = "hub", root: str | None = None, **_: Any) -> dict[str, Any]:
    text = read_set("cnn_dailymail", Data(source, root))
    docs = [
        {"id": row["id"], "context": f"Article: {row['article']}", "reference": row["highlights"]}
        for row in text.rows
        if SHORTEST <= len(row["article"]) <= LONGEST
    ]
    return as_docs(docs, text, seed=2353669)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"rougeL": float(scorer().score(doc["reference"], results[0])["rougeL"].fmeasure)}


@cache
def scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)
