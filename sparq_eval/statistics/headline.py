"""The headline of a method: the largest compression whose loss against dense is below a margin with 95 % confidence."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparq_eval.results.frames import Frames
from sparq_eval.statistics.bootstrap import TAIL, draw, interval
from sparq_eval.statistics.lines import forms, split
from sparq_eval.statistics.paired import GROUP, IGNORING, Group, groups
from sparq_eval.statistics.power import examples_more

MARGIN = 1.0
HEADLINE = [*GROUP, "method", "form", "compression", "low", "high", "margin", "verdict", "largest", "loss", "note"]


@dataclass(frozen=True)
class Line:
    """P settings from the largest budget to the smallest; gains are differences turned so that more is better.

    log: [P], log of the compression. mean, error, bound: [P], gain over dense, its standard error, the worse end of its
    interval, which leaves out `tail` at either end. draws: [D, P], the gain in each draw. samples: [P], examples. note:
    what tells the line from others.
    """

    log: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    bound: np.ndarray
    draws: np.ndarray
    samples: np.ndarray
    tail: float
    note: str

    def reach(self, margin: float) -> tuple[float, str]:
        """Log of the headline's compression, -inf where it is not shown; and the verdict."""
        reached = float(crossing(self.log, self.bound[None], margin)[0])
        passed = bool((self.bound > -margin).all())
        return reached, "beyond the grid" if passed else "shown" if reached > -np.inf else "not shown"


@IGNORING
def headline(frames: Frames, margin: float = MARGIN) -> pd.DataFrame:
    """One row for each model, task, variant and form of a method that is not dense, with the columns HEADLINE.

    form: the method, and what it does otherwise than published (see `lines.form`): an ablation, such as one that is
    given exact scores for nothing, is never the method's headline.

    margin: in points (hundredths) for scores in [0, 1] that are better the higher, such as an accuracy; in per cent of
    dense's value for all others. The column margin is it in the metric's own units.

    compression is 1 / counted_ratio. A line of settings (see `lines`) is walked from its largest budget down, as long
    as the worse end of the difference's two-sided interval stays within the margin. At the first budget where it does
    not, the ends of this budget and of the one before are joined by a straight line in log(transfers), and the headline
    is where that crosses the margin. As the walk ends there, testing many budgets of a line costs no confidence. Of a
    method's lines the one that reaches furthest counts, and choosing it does cost: with L lines each has an interval of
    1 - 0.05 / L (Bonferroni), so that in 95 of 100 repetitions none of them shows more than is so. Settings that left
    nothing out, have no counted transfers or move no less than dense are not used.

    low, high: 95 % interval of this number for other examples like these: each draw of the bootstrap moves the ends as
    it moves the differences, and is read off the same way; a draw that does not pass at the largest budget counts as
    a compression of 1, and one that passes everywhere as the smallest budget's.

    verdict: `shown`; `not shown`, the largest budget may lose more than the margin; `beyond the grid`, the smallest
    budget still passes, and compression, which is its, is a lower bound; `nothing to lose`, dense's score is itself
    within the margin of 0; `no dense`; `no transfers`; `no compression`, nothing moves less than dense. In all but the
    first and third compression is nan. largest, loss
    where it is not shown: the largest budget's compression and what it may lose, the end of its interval. The note says
    which line it is and between which compressions, or what is missing.
    """
    rows = []
    for group in groups(frames):
        limit, lines = margin_of(group, margin), lines_of(group)
        for form, method in dict(zip(forms(group.settings), group.settings["method"], strict=True)).items():
            if group.dense is None:
                rows.append(row(group, method, form, "no dense"))
            elif group.upward and 0 <= group.dense["value"] <= limit:
                note = f"dense scores {group.dense['value']:.4g}"
                rows.append(row(group, method, form, "nothing to lose", margin=limit, note=note))
            elif not lines[form]:
                counted = form in set(forms(counted_settings(group)))
                rows.append(row(group, method, form, "no compression" if counted else "no transfers", margin=limit))
            else:
                rows.append(row(group, method, form, **best(lines[form], limit)))
    return pd.DataFrame(rows, columns=HEADLINE)


def margin_of(group: Group, margin: float) -> float:
    """In the metric's units; nan where it is a share of a score that is missing."""
    if group.percentage:
        return margin / 100
    return np.nan if group.dense is None else float(margin / 100 * abs(group.dense["value"]))


def lines_of(group: Group) -> dict[str, list[Line]]:
    """The lines of each form of a method."""
    found: dict[str, list[Line]] = defaultdict(list)
    if group.paired is None:
        return found
    paired, draws = group.paired, draw(group.paired)
    counted = counted_settings(group)
    usable = counted[counted["counted_ratio"] < 1]
    parts = {str(form): list(split(of)) for form, of in usable.groupby(forms(usable), sort=False)}
    tails = TAIL / np.array([max(len(parts.get(form, ())), 1) for form in forms(group.settings)])
    low, high = interval(draws, paired, tails)
    sign, bound = (1, low) if group.upward else (-1, -high)
    for form, lines in parts.items():
        for note, _, points in lines:
            ordered = points.sort_values("counted_ratio", ascending=False)
            log, at = -np.log(ordered["counted_ratio"].to_numpy(dtype=float)), ordered["place"].to_numpy()
            of_line = (sign * paired.mean[at], paired.error[at], bound[at], sign * draws[:, at], paired.samples[at])
            found[form].append(Line(log, *of_line, tails[at[0]], note))
    return found


def counted_settings(group: Group) -> pd.DataFrame:
    """Those that left something out and whose transfers were counted; `place` is theirs among the group's."""
    placed = group.settings.assign(place=range(len(group.settings)))
    return placed[placed["active"] & np.isfinite(placed["counted_ratio"]) & (placed["counted_ratio"] > 0)]


def row(group: Group, method: str, form: str, verdict: str, **values: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("compression", "low", "high", "margin", "largest", "loss"), np.nan)
    return {**group.names, "method": method, "form": form, **nothing, "note": "", **values, "verdict": verdict}


def best(lines: list[Line], margin: float) -> dict[str, Any]:
    """What the line says that reaches furthest; where none does, that whose largest budget comes nearest."""
    line = max(lines, key=lambda line: (line.reach(margin)[0], np.nan_to_num(line.bound[0], nan=-np.inf)))
    reached, verdict = line.reach(margin)
    if verdict == "not shown":
        lost = {"largest": np.exp(line.log[0]), "loss": -line.bound[0]}
        return {"verdict": verdict, "margin": margin, "note": missing(line, margin), **lost}
    # in each draw the ends of the intervals move as the differences do
    ends = np.exp(np.fmax(crossing(line.log, line.draws - (line.mean - line.bound), margin), 0))
    low, high = np.quantile(ends, (TAIL, 1 - TAIL))
    if verdict == "shown":
        after = int(np.argmax(line.bound <= -margin)) if (line.bound <= -margin).any() else len(line.log) - 1
        where = f"between the budgets at {np.exp(line.log[after - 1]):.3g} and {np.exp(line.log[after]):.3g}"
    else:
        where = "the smallest budget measured"
    note = ": ".join(filter(None, (line.note, where)))
    return {
        "compression": np.exp(reached),
        "low": low,
        "high": high,
        "margin": margin,
        "verdict": verdict,
        "note": note,
    }


def missing(line: Line, margin: float) -> str:
    """Why the largest budget does not pass, and how many examples more would do if what was seen is so."""
    if not np.isfinite(line.bound[0]):
        return "the largest budget has no interval"
    said = f"the largest budget, at {np.exp(line.log[0]):.3g}, may lose {-line.bound[0]:.3g}"
    more = examples_more(line.mean[:1] + margin, line.error[:1], line.samples[:1], line.tail)[0]
    if line.mean[0] > -margin and np.isfinite(more):
        said += f"; {more:,.0f} examples more would show it, if it goes on like this"
    return ": ".join(filter(None, (line.note, said)))


@IGNORING
def crossing(log: np.ndarray, bounds: np.ndarray, margin: float) -> np.ndarray:
    """[D]: where bounds, [D, P], first come down to -margin on the way along log, [P]; -inf where the first is there
    already, the last of log where none is. A bound that is no number ends the way at the one before it.
    """
    fails = ~(bounds > -margin)
    first = np.where(fails.any(axis=1), fails.argmax(axis=1), len(log))
    every, after, before = np.arange(len(bounds)), np.minimum(first, len(log) - 1), np.maximum(first - 1, 0)
    above, below = bounds[every, before] + margin, bounds[every, after] + margin
    share = np.nan_to_num(above / (above - below), nan=0.0, posinf=0.0, neginf=0.0)
    met = log[before] + share * (log[after] - log[before])
    return np.where(first == 0, -np.inf, np.where(first == len(log), log[-1], met))
