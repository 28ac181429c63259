"""The paper's published curves and tables as records are: read when figures are made, laid under ours, never kept."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sparq_eval.report.bench.published import Published, read_published
from sparq_eval.report.paper.models import MODELS
from sparq_eval.report.published import read_file, read_tables

CURVES = "results.csv"
NEEDED = (
    *("figure_or_experiment", "model", "task", "method", "r_or_rank", "k", "reallocate", "metric", "value"),
    *("stderr", "samples", "prefill_length", "transfer_ratio", "transfer_elements_per_token"),
)
METRICS = {
    "prefix-match accuracy": "prefix_match",
    "match length (chars)": "match_length",
    "ROUGE-L F": "rougeL",
    "bits per char": "bits_per_character",
    "match rate": "needle_match",
}
COLUMNS = (
    *("figure", "model", "task", "variant", "method", "settings", "r", "k", "metric", "higher_is_better", "value"),
    *("stderr", "samples", "prompt_tokens", "counted", "counted_dense", "nominal", "nominal_dense"),
    *("counted_ratio", "nominal_ratio", "active", "key"),
)
# how the file names a method: method and settings here
LABELS = {
    "flexgen_topk": ("flexgen", {}),
    "oracle top-k (exact scores, free)": ("sparq", {"score": "oracle"}),
    "low_rank (random orthonormal)": ("sparq", {"score": "low_rank"}),
    "sparq, temperature no reallocation (label: limit tau->0)": ("sparq", {"reallocate": False}),
    "sparq, temperature sqrt(r)": ("sparq", {"temperature": "sqrt_r"}),
    "sparq, temperature sqrt(d_h)": ("sparq", {"temperature": "sqrt_d"}),
    "sparq, temperature sqrt(d*L1 coverage) [SparQ]": ("sparq", {"temperature": "coverage"}),
}


@dataclass(frozen=True)
class Paper:
    """What lies in `folder`, or nothing without one; each file is read when it is asked for, with UserError if it is
    not there or lacks a column.
    """

    folder: Path | None = None

    @property
    def given(self) -> bool:
        return self.folder is not None

    @cached_property
    def curves(self) -> pd.DataFrame:
        """COLUMNS: as in Frames.records, and the figure."""
        if self.folder is None:
            return pd.DataFrame(columns=list(COLUMNS))
        return curves(read_file(self.folder, CURVES, NEEDED))

    @cached_property
    def tables(self) -> pd.DataFrame:
        return read_tables(self.folder)

    @cached_property
    def benches(self) -> Published:
        return read_published(self.folder)


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    named = [LABELS.get(method, (method, {})) for method in frame["method"]]
    ks = pd.to_numeric(frame["k"].astype(str).str.extract(r"^(\d+)$")[0])
    settings = []
    for (_, own), r, k, reallocate in zip(named, frame["r_or_rank"], ks, frame["reallocate"], strict=True):
        known = {"r": r, "k": k}
        budgets = {name: int(value) for name, value in known.items() if not np.isnan(value)}
        way = {"reallocate": bool(reallocate)} if isinstance(reallocate, bool) else {}
        settings.append(json.dumps(way | budgets | own, sort_keys=True))
    elements = frame["transfer_elements_per_token"]
    whole = elements / frame["transfer_ratio"]
    made = pd.DataFrame(
        {
            "figure": frame["figure_or_experiment"],
            "model": frame["model"].map({one.path: one.name for one in MODELS}).fillna(frame["model"]),
            "task": [task_of(row) for row in frame.to_dict("records")],
            "variant": "",
            "method": [method for method, _ in named],
            "settings": settings,
            **{"r": frame["r_or_rank"].astype("Int64"), "k": ks.astype("Int64")},
            "metric": frame["metric"].map(METRICS).fillna(frame["metric"]),
            "higher_is_better": frame["metric"] != "bits per char",
            "value": frame["value"],
            # a band of nothing where none was published
            "stderr": frame["stderr"].fillna(0.0),
            "samples": frame["samples"],
            "prompt_tokens": frame["prefill_length"],
            **{"counted": elements, "counted_dense": whole, "nominal": elements, "nominal_dense": whole},
            **{"counted_ratio": frame["transfer_ratio"], "nominal_ratio": frame["transfer_ratio"]},
            **{"active": True, "key": "published"},
        }
    )
    return made[list(COLUMNS)]


def task_of(row: dict) -> str:
    """squad_train in its lengths, told by the number of confusion contexts in the note."""
    found = re.search(r"confusion_contexts=(\d+)", str(row.get("note")))
    return f"{row['task']}_{found[1]}" if row["task"] == "squad_train" and found else str(row["task"])
