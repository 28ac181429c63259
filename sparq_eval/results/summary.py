"""A record's numbers from its rows: score with standard error, transfers against dense, tokens, seconds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import sem

from sparq_eval.results.record import plain

MEANS = ("prompt_tokens", "nominal", "nominal_dense", "counted", "counted_dense")


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Numbers over all rows. Transfers are elements per generated token; `counted` is over the rows that know it.

    score is nan if any example's score is: a mean that leaves out failures would flatter. stderr is the paper's,
    sqrt(population variance / n), nan for a single example. nan where there is nothing to average. layers_active: most
    layers in which something was left out at any example; sparse_share: of decode steps, those that left something out.
    """
    of = {name: np.array([row[name] for row in rows], dtype=float) for name in NUMERIC}
    known = np.isfinite(of["counted"]) & np.isfinite(of["counted_dense"])
    of["counted"], of["counted_dense"] = of["counted"][known], of["counted_dense"][known]
    means = {name: mean(of[name]) for name in MEANS}
    return {
        "samples": len(rows),
        "score": mean(of["score"]),
        "stderr": float(sem(of["score"], ddof=0)) if len(rows) > 1 else math.nan,
        "nominal_ratio": ratio(means["nominal"], means["nominal_dense"]),
        "counted_ratio": ratio(means["counted"], means["counted_dense"]),
        **means,
        "generated_tokens": int(of["generated_tokens"].sum()),
        "seconds": float(of["seconds"].sum()),
        "calls": int(of["calls"].sum()),
        "layers_active": int(of["layers_active"].max(initial=0)),
        "sparse_share": ratio(of["sparse_steps"].sum(), of["decode_steps"].sum()),
        "truncated": int(of["truncated"].sum()),
        "not_finite": int(len(rows) - of["finite"].sum()),
    }


def describes(summary: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a record's summary is that of these rows, but for the last bits, in which machines differ, and numbers
    that older versions did not give.
    """
    own = plain(summarise(rows))
    return summary.keys() <= own.keys() and all(alike(value, own[name]) for name, value in summary.items())


def lags(summary: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether rows came after a record's summary was written: it is that of the first of them."""
    counted = summary.get("samples")
    return isinstance(counted, int) and 0 <= counted < len(rows) and describes(summary, rows[:counted])


def alike(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other


CERTIFIED = ("calls", "layers_active", "sparse_steps", "decode_steps", "truncated", "finite")
NUMERIC = (*MEANS, "score", "generated_tokens", "seconds", *CERTIFIED)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
