"""TriviaQA 0-shot as SparQ's evaluation asks it (arXiv 2312.04985): a question after one Wikipedia page."""

from typing import Any

import numpy as np

from sparq_eval.harness.data import Data, Row, as_docs, read_set

SHORTEST, LONGEST = 4000, 8000  # characters of a page


def load(
    source: str = "hub", root: str | None = None, model_name: str = "", pretrained: str = "", **_: Any
) -> dict[str, Any]:
    """model_name, or `pretrained` from lm-eval's own model arguments: Pythia models get another template."""
    text = read_set("trivia_qa", Data(source, root))
    hint = "Single-word answer:" if "pythia" in (model_name or pretrained).lower() else "Answer:"
    return as_docs(build(text.rows, hint), text, seed=487523)


def build(rows: list[Row], hint: str) -> list[dict[str, Any]]:
    """Documents in the rows' order. The random stream is the published one: every draw counts, in this order."""
    rng = np.random.RandomState(2751584)
    docs = []
    for row in rows:
        pages = [page for page in row["entity_pages"]["wiki_context"] if SHORTEST <= len(page) <= LONGEST]
        if not pages:
            continue
        rng.choice(len(rows), 7)  # candidates for shots, of which there are none here
        docs.append(
            {
                "id": row["question_id"],
                "context": pages[rng.randint(len(pages))],
                "question": row["question"],
                "hint": hint,
                "answers": list(row["answer"]["aliases"]),
                "cluster": row["question_id"],  # which may come again with another page
            }
        )
    return docs
