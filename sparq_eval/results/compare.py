"""What differs between two folders of results, setting by setting."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from sparq_eval.results.frames import Frames, load, read_record
from sparq_eval.results.record import Identity
from sparq_eval.results.variants import conditions_of, describe, differing

SAME = ["model", "task", "method", "settings"]
EXAMPLE = ["index", "id", "output", "score"]


def diff(a: Path, b: Path) -> pd.DataFrame:
    """A line for each setting of either: scores, common examples, how many of these differ in output or score, and the
    mean difference of scores, B less A. A setting that only one of them has is there with no other score.

    A record is compared with the same record; where the other folder lacks it, with one of its setting under other
    conditions. Where a setting has several records, `conditions` says what tells them apart.
    """
    sides = load(a), load(b)
    ours, theirs = map(keyed, sides)
    samples = [{str(key): group for key, group in frames.samples.groupby("key")} for frames in sides]
    none = sides[0].samples[:0]
    lines = []
    for name in dict.fromkeys([*ours, *theirs]):
        conditions = ours.get(name, {}) | theirs.get(name, {})
        telling = differing(conditions)
        for pair in pairs(list(ours.get(name, {})), list(theirs.get(name, {}))):
            left, right = (own.get(str(key), none)[EXAMPLE] for key, own in zip(pair, samples, strict=True))
            both = left.merge(right, on=["index", "id"], suffixes=("_a", "_b"))
            gap = both["score_b"] - both["score_a"]
            changed = (both["output_a"] != both["output_b"]) | ((gap != 0) & gap.notna())
            scores = [side["score"].mean() if len(side) else float("nan") for side in (left, right)]
            asked = {side: conditions[key] for side, key in zip("AB", pair, strict=True) if key}
            told = "; ".join(describe(one, asked) for one in telling)
            line = [*name, len(left), len(right), *scores, len(both), int(changed.sum()), gap.mean(), told]
            lines.append(dict(zip(COLUMNS, line, strict=True)))
    return pd.DataFrame(lines, columns=COLUMNS)


COLUMNS = [*SAME, "samples_a", "samples_b", "score_a", "score_b", "common", "changed", "difference", "conditions"]


def keyed(frames: Frames) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """For each setting its records' conditions, by key."""
    found = dict[tuple[Any, ...], dict[str, dict[str, Any]]]()
    for record in frames.records.to_dict("records"):
        identity = Identity(**read_record(Path(record["path"]))["identity"])
        found.setdefault(tuple(record[name] for name in SAME), {})[record["key"]] = conditions_of(identity)
    return found


def pairs(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[str | None, str | None]]:
    """Keys to compare: equal ones, then others as they come; None where the other side has no more."""
    rest = zip_longest([key for key in ours if key not in theirs], [key for key in theirs if key not in ours])
    return [*((key, key) for key in ours if key in theirs), *rest]
