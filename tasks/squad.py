"""SQuAD 1-shot as SparQ's evaluation asks it (arXiv 2312.04985): one question about one of eight paragraphs.

With other numbers of paragraphs, about the training set: the prompts of its Figure 6, which differ in length."""

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np

from sparq_eval.harness.data import Data, Row, as_docs, read_set

DISTRACTORS, SHOTS = 7, 5


def load(
    source: str = "hub", root: str | None = None, split: str = "squad", distractors: int = DISTRACTORS, **_: Any
) -> dict[str, Any]:
    """split: `squad` or `squad_train`, the set. distractors: paragraphs beside the one that is asked about."""
    text = read_set(split, Data(source, root))
    return as_docs(list(build(text.rows, distractors)), text, seed=945237)


def build(rows: list[Row], distractors: int = DISTRACTORS) -> list[dict[str, Any]]:
    """Documents in the rows' order. The random stream is the published one: every draw counts, in this order."""
    rng = np.random.RandomState(82735235)
    paragraphs = [f"Title: {title_of(row)}. Background: {row['context']}" for row in rows]
    pool = sorted(set(paragraphs))
    same = defaultdict(list)
    for index, row in enumerate(rows):
        same[row["context"]].append(index)
    docs = []
    for index, row in enumerate(rows):
        shown = [paragraphs[index], *(pool[n] for n in rng.choice(len(pool), distractors))]
        rng.shuffle(shown)
        siblings = [n for n in same[row["context"]] if n != index]
        rng.shuffle(siblings)
        others = [n for n in rng.choice(len(rows), SHOTS + 1) if n != index]
        shot = rows[int((siblings + others)[0])]
        docs.append(
            {
                "id": row["id"],
                "context": "\n".join(shown),
                "title": title_of(row),
                "shot_question": shot["question"],
                "shot_answer": min(shot["answers"]["text"], key=len),
                "question": row["question"],
                "answers": list(row["answers"]["text"]),
                "cluster": hashlib.sha256(row["context"].encode()).hexdigest()[:12],  # the paragraph
            }
        )
    return docs


def title_of(row: Row) -> str:
    return row["title"].replace("_", " ")
