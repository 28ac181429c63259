"""Two settings beside each other, in five lines: `python -m sparq_eval.report RESULTS --between A B`."""

import math

from sparq_eval.report.text import decimals, fixed, short_settings
from sparq_eval.results.frames import Frames
from sparq_eval.statistics import between
from sparq_eval.statistics.compare import find


def describe_pair(frames: Frames, key_a: str, key_b: str) -> str:
    """Difference, interval, p, what flipped, and how many examples more would tell the two apart. UserError as
    `statistics.between`.
    """
    [row] = between(frames, key_a, key_b).to_dict("records")
    a, b = find(frames.records, key_a), find(frames.records, key_b)
    digits = decimals(max(abs(a["value"]), abs(b["value"])))
    difference, low, high = (fixed(row[name], digits, "+") for name in ("difference", "low", "high"))
    alike = row["samples"] - row["gained"] - row["lost"] - row["unscored"]
    unscored = f", {row['unscored']} have no score on a side" if row["unscored"] else ""
    lines = [f"{a['task']}, {a['metric']}{'' if a['higher_is_better'] else ' (lower is better)'}"]
    for letter, side in (("A", a), ("B", b)):
        names = (side["model"], side["variant"], side["method"], short_settings(side["settings"]))
        lines.append(f"{letter}  {fixed(side['value'], digits)}  {' '.join(filter(None, names))}  {side['key'][:16]}")
    of = f"{row['samples']} examples in {row['clusters']} clusters"
    lines.append(f"A - B = {difference}, 95 % [{low}, {high}], p = {row['p']:.3g} ({row['test']}, {of})")
    lines.append(f"{row['gained']} examples score better with A, {row['lost']} with B, {alike} alike{unscored}")
    lines.append(f"{verdict(row)}\n")
    return "\n".join(lines)


def verdict(row: dict) -> str:
    if row["better"] or row["worse"]:
        return f"A is significantly {'better' if row['better'] else 'worse'} than B"
    if math.isnan(row["more"]):
        return "not told apart; what was seen does not say how many examples would do it"
    return f"not told apart: {row['more']:,.0f} examples more would do it with 80 % power, if the difference stays"
