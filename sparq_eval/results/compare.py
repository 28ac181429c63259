"""Two folders of results: what differs between them, and one made of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparq_eval.progress import say
from sparq_eval.results.frames import Untrusted, folders, left_out, load, read, read_record
from sparq_eval.results.prompts import PROMPTS, keep_prompts
from sparq_eval.results.prompts import read as read_prompts
from sparq_eval.results.record import Identity, Row
from sparq_eval.results.store import Store

SAME = ["model", "task", "method", "settings"]


def diff(a: Path, b: Path) -> pd.DataFrame:
    """One line for each setting of either: scores, common examples, how many of these differ in output or score, and
    the mean difference of scores, B less A. A setting that only one of them has is there with no other score.
    """
    ours, theirs = load(a), load(b)
    lines = []
    names = [*dict.fromkeys([*keyed(ours.records), *keyed(theirs.records)])]
    for name in names:
        left, right = (pick(frames.samples, name) for frames in (ours, theirs))
        both = left.merge(right, on=["index", "id"], suffixes=("_a", "_b"))
        gap = both["score_b"] - both["score_a"]
        changed = (both["output_a"] != both["output_b"]) | ((gap != 0) & gap.notna())
        scores = [side["score"].mean() if len(side) else float("nan") for side in (left, right)]
        line = [*name, len(left), len(right), *scores, len(both), int(changed.sum()), gap.mean()]
        lines.append(dict(zip(COLUMNS, line, strict=True)))
    return pd.DataFrame(lines, columns=COLUMNS)


COLUMNS = [*SAME, "samples_a", "samples_b", "score_a", "score_b", "common", "changed", "difference"]


def keyed(records: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(records[SAME].itertuples(index=False, name=None))


def pick(samples: pd.DataFrame, name: Sequence[Any]) -> pd.DataFrame:
    """A setting's examples; of several variants, the first, with a word that there are more."""
    chosen = samples[(samples[SAME] == list(name)).all(axis=1)]
    if len(kinds := chosen["key"].unique()) > 1:
        say(
            f"note: {', '.join(map(str, name))}: {len(kinds)} records under different conditions; the first is compared"
        )
        chosen = chosen[chosen["key"] == kinds[0]]
    return chosen[["index", "id", "output", "score"]]


def merge(into: Path, source: Path) -> tuple[int, int]:
    """Add to `into` what only `source` has. How many rows were added, and how many are there with another content.

    Rows that both have stay as they are in `into`. `source` is not changed.
    """
    store, added, different = Store(into), 0, 0
    for folder in folders(Path(source)):
        try:
            _, rows = read(folder)
            record = read_record(folder)
        except Untrusted as why:
            left_out(folder, str(why))
            continue
        entry = store.open(
            Identity(**record["identity"]),
            metric=record["metric"],
            higher_is_better=record["higher_is_better"],
        )
        there = {row["index"]: row for row in entry.parsed().rows}
        fresh = [row for row in rows if row["index"] not in there]
        different += sum(content(row) != content(there[row["index"]]) for row in rows if row["index"] in there)
        if fresh:
            prompts = read_prompts(folder.parent / PROMPTS)[0] if (folder.parent / PROMPTS).exists() else {}
            keep_prompts(entry.path.parent, [prompts[row["prompt"]] for row in fresh if row["prompt"] in prompts])
            entry.append([Row.read(row) for row in fresh], {"merged_from": str(source), "runs": record["runs"]})
        added += len(fresh)
    return added, different


def content(row: dict[str, Any]) -> dict[str, Any]:
    """All of a row but its time."""
    return {name: value for name, value in row.items() if name != "seconds"}
