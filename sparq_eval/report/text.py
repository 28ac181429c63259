"""Findings as words: the tables' cells, grouped as every rendering shows them, and short names of settings."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from sparq_eval.report.findings import Findings

HEADER = (
    *("method", "settings", "samples", "value", "stderr"),
    *("to dense", "95 % interval", "nominal ratio", "counted ratio", "seconds"),
)
SPEED = "ms a token"  # the last column where some setting was timed alone
BUDGETS = ("r=", "k=", "local=")
WORDS = 2  # the first columns are text, the others numbers
HEADLINE = "Largest compression whose loss against dense is below the margin, with 95 % confidence"


LEGEND = (
    "In brackets: what other samples of examples would give (95 %, 1.00 where they would show nothing).",
    "↑ ↓: better or worse than dense: q < 0.05 (Benjamini and Hochberg over a task) and an interval without 0.",
)


@dataclass(frozen=True)
class Group:
    """The settings of one model and task. rows: cells in the order of `header`.

    shares: of dense's value that each row's is, of its inverse where lower is better; nan where there is none.
    """

    model: str
    task: str
    variant: str
    metric: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]

    @property
    def title(self) -> str:
        return ", ".join((self.model, self.task, *([f"variant {self.variant}"] if self.variant else []), self.metric))


def groups(findings: Findings) -> Iterator[Group]:
    records = findings.records
    for (model, task, variant, metric), group in records.groupby(["model", "task", "variant", "metric"], sort=False):
        upward = bool(group["higher_is_better"].iloc[0])
        shown = str(metric) if upward else f"{metric} (lower is better)"
        timed = bool(group["milliseconds"].notna().any())
        rows = tuple(cells(record, timed) for record in group.to_dict("records"))
        header = (*HEADER, SPEED) if timed else HEADER
        yield Group(str(model), str(task), str(variant), shown, header, rows, shares(group, upward))


def without_common(group: Group) -> tuple[Group, list[str]]:
    """Settings without what all of a method share and is no budget; and, by method, what that is."""
    words: dict[str, list[list[str]]] = {}
    for method, settings, *_ in group.rows:
        words.setdefault(method, []).append(settings.split())
    common = {
        method: [word for word in every[0] if not word.startswith(BUDGETS) and all(word in other for other in every)]
        for method, every in words.items()
        if len(every) > 1
    }
    rows = []
    for method, settings, *others in group.rows:
        rows.append(
            (method, " ".join(word for word in settings.split() if word not in common.get(method, ())), *others)
        )
    said = [" ".join([f"{method}:", *shared]) for method, shared in common.items() if shared]
    return replace(group, rows=tuple(rows)), said


def cells(record: dict, timed: bool) -> tuple[str, ...]:
    value, error = record["value"], record["stderr"]
    numbers = fixed(value, decimals(value)), fixed(error, decimals(value))
    ratios = fixed(record["nominal_ratio"], 3), fixed(record["counted_ratio"], 3)
    words = record["method"], short_settings(record["settings"]) + ("" if record["active"] else " (inactive)")
    speed = [fixed(record["milliseconds"], 2)] if timed else []
    return *words, str(record["samples"]), *numbers, *gap(record), *ratios, f"{record['seconds']:.1f}", *speed


def gap(record: dict) -> tuple[str, str]:
    """The difference to dense, with an arrow where it is significant: up is better; and its interval."""
    digits = decimals(record["value"])
    arrow = "↑ " if record["better"] else "↓ " if record["worse"] else ""
    difference, low, high = (fixed(record[name], digits, "+") for name in ("difference", "low", "high"))
    return arrow + difference, "-" if "-" in (low, high) else f"[{low}, {high}]"


def shares(group: pd.DataFrame, upward: bool) -> tuple[float, ...]:
    dense = group["value"][group["method"] == "dense"].head(1).to_list() or [math.nan]
    pairs = [(value, dense[0]) if upward else (dense[0], value) for value in group["value"]]
    return tuple(part / whole if whole > 0 and part >= 0 else math.nan for part, whole in pairs)


def headline_table(findings: Findings) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: one for each model, task and variant, a column for each method as it was published, or for each
    form of those that are there in no other. No rows where only dense is.
    """
    table = findings.headline[~elsewhere(findings)]
    methods = list(table["form"].unique())
    rows = []
    for (model, task, variant), group in table.groupby(["model", "task", "variant"], sort=False):
        of_method = {line["form"]: compression(line) for line in group.to_dict("records")}
        margin = group["margin"].iloc[0]
        task_cell = f"{task} ({variant})" if variant else str(task)
        cell = "-" if math.isnan(margin) else f"{margin:.3g}"
        rows.append((str(model), task_cell, cell, *(of_method.get(method, "") for method in methods)))
    return ("model", "task", "margin", *map(str, methods)), rows


def elsewhere(findings: Findings) -> pd.Series:
    """Which headlines have no place in the table: of forms of methods that are also there as they were published."""
    table = findings.headline
    published = set(table.loc[table["form"] == table["method"], "method"])
    return (table["form"] != table["method"]) & table["method"].isin(published)


def legend(findings: Findings) -> list[str]:
    """What stands below the headline."""
    others = list(dict.fromkeys(findings.headline.loc[elsewhere(findings), "form"]))
    more = f"In headline.csv and on the page also: {', '.join(others)}."
    return [*LEGEND, *([more] if others else [])]


def compression(line: dict) -> str:
    """A headline in a cell; its interval is left out where it is a lower bound."""
    if math.isfinite(line["loss"]):
        lost = fixed(line["loss"], 3 if line["loss"] < 10 else 1)
        return f"{line['verdict']} (may lose {lost} at {line['largest']:.2f} ×)"
    if math.isnan(line["compression"]):
        return str(line["verdict"])
    if line["verdict"] == "beyond the grid":
        return f"≥ {line['compression']:.2f} ×"
    return f"{line['compression']:.2f} × ({line['low']:.2f} to {line['high']:.2f})"


def short_settings(settings: str) -> str:
    """JSON of settings as `r=32 k=128 local=32 reallocate=false`; budgets first."""
    values = json.loads(settings)
    names = [name for name in ("r", "k", "local") if name in values]
    names += sorted(values.keys() - set(names))
    return " ".join(f"{name}={plain(values[name])}" for name in names)


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def decimals(value: float) -> int:
    """Four for scores around one, fewer for larger ones."""
    return 4 if abs(value) < 10 else 2


def fixed(value: float, decimals: int, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{decimals}f}"
