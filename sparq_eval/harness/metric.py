"""One number for one document: which metric of a task a record's score is of."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from lm_eval.api.metrics import bits_per_byte, brier_score, mean, nanmean, perplexity, weighted_perplexity
from lm_eval.api.task import ConfigurableTask

from sparq_eval.errors import UserError

# what lm-eval computes over a set of documents that also makes sense over a set of one
OF_ONE = {bits_per_byte, brier_score, perplexity, weighted_perplexity}
PERPLEXITIES = {perplexity, weighted_perplexity}


@dataclass(frozen=True)
class Metric:
    """A metric of a task, behind one of its filters.

    gather: where lm-eval computes the metric over a set of documents, what it does so with; here each document is a
    set of one. A record's score is the plain mean over documents: where lm-eval weights them by length (bits per byte)
    or averages logarithms (perplexity), its number for a whole set is another.
    """

    name: str
    filter: str
    higher_is_better: bool
    gather: Callable[[list[Any]], float] | None = None

    def of(self, row: Mapping[str, Any]) -> float:
        """The metric of one of lm-eval's rows; not a number where the task gave this document none."""
        if self.name not in row:
            return math.nan
        try:
            return float(row[self.name] if self.gather is None else self.gather([row[self.name]]))
        except OverflowError:  # a perplexity beyond all numbers
            return math.inf


def only(task: ConfigurableTask) -> Metric:
    """The metric of a task that has one, a number for each document."""
    ((name, higher_is_better),) = task.higher_is_better().items()
    return Metric(name, task._filters[0].name, higher_is_better)


def choose(task: ConfigurableTask, label: str, wanted: str | None, rows: Sequence[Mapping[str, Any]]) -> Metric:
    """The metric called `wanted` (`name` or `name:filter`), or the task's first, perplexities last.

    label: what the user calls the task. rows: lm-eval's rows of any one document. Raises UserError for a metric that
    does not exist, or only over many documents.
    """
    metrics = [metric for row in rows for metric in usable(task, row)]
    names = ", ".join(dict.fromkeys(metric.name for metric in metrics))
    if not metrics:
        there = ", ".join(rows[0]["metrics"])
        raise UserError(
            f"task={label}: each of its metrics ({there}) exists only over many documents, and a score here is one "
            "document's; `python -m sparq_eval.lm_eval` measures them, a method at a time"
        )
    if wanted is None:
        return min(metrics, key=lambda metric: metric.gather in PERPLEXITIES)
    name, _, chain = wanted.partition(":")
    fitting = [metric for metric in metrics if metric.name == name]
    if not fitting:
        known = any(name in row["metrics"] for row in rows)
        why = "that metric exists only over many documents" if known else "it has no such metric"
        raise UserError(f"task={label}:{wanted}: {why}; there are {names}")
    behind = [metric for metric in fitting if not chain or metric.filter == chain]
    if not behind:
        chains = ", ".join(metric.filter for metric in fitting)
        raise UserError(f"task={label}:{wanted}: {name} has no such filter; there are {chains}")
    return behind[0]


def usable(task: ConfigurableTask, row: Mapping[str, Any]) -> list[Metric]:
    """Metrics of a row that are a number for each document, or can be made one."""
    found = []
    for name in row["metrics"]:
        gather = task.aggregation().get(name, mean)
        plain = gather in (mean, nanmean) and isinstance(row[name], Real | np.bool_)
        if plain or gather in OF_ONE:
            higher = bool(task.higher_is_better().get(name, True))
            found.append(Metric(name, row["filter"], higher, None if plain else gather))
    return found
