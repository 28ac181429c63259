"""Records as words: the tables' cells, grouped as every rendering shows them, and short names of settings."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

HEADER = ("method", "settings", "samples", "value", "stderr", "nominal ratio", "counted ratio", "seconds")
SPEED = "ms a token"  # the last column where some setting was timed alone
WORDS = 2  # the first columns are text, the others numbers


@dataclass(frozen=True)
class Group:
    """The settings of one model and task. rows: cells in the order of `header`."""

    model: str
    task: str
    variant: str
    metric: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        return ", ".join((self.model, self.task, *([f"variant {self.variant}"] if self.variant else []), self.metric))


def groups(records: pd.DataFrame) -> Iterator[Group]:
    for (model, task, variant, metric), group in records.groupby(["model", "task", "variant", "metric"], sort=False):
        upward = bool(group["higher_is_better"].iloc[0])
        shown = str(metric) if upward else f"{metric} (lower is better)"
        timed = bool(group["milliseconds"].notna().any())
        rows = tuple(cells(record, timed) for record in group.to_dict("records"))
        yield Group(str(model), str(task), str(variant), shown, (*HEADER, SPEED) if timed else HEADER, rows)


def cells(record: dict, timed: bool) -> tuple[str, ...]:
    value, error = record["value"], record["stderr"]
    numbers = fixed(value, decimals(value)), fixed(error, decimals(value))
    ratios = fixed(record["nominal_ratio"], 3), fixed(record["counted_ratio"], 3)
    words = record["method"], short_settings(record["settings"]) + ("" if record["active"] else " (inactive)")
    speed = [fixed(record["milliseconds"], 2)] if timed else []
    return *words, str(record["samples"]), *numbers, *ratios, f"{record['seconds']:.1f}", *speed


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


def fixed(value: float, decimals: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"
