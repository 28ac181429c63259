"""The tables as files: CSV for programs, Markdown for people."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from sparq_eval.report.findings import Findings
from sparq_eval.report.text import HEADLINE, WORDS, groups, headline_table, legend
from sparq_eval.results.formulas import guarded

RESULTS = (
    *("model", "task", "variant", "method", "settings", "r", "k", "local", "samples", "metric", "value", "stderr"),
    *("difference", "low", "high", "test", "p", "q", "better", "worse", "more", "clusters"),
    *(
        "nominal_ratio",
        "counted_ratio",
        "seconds",
        "milliseconds",
        "backend",
        "active",
        "sparse_share",
        "layers_active",
        "truncated",
        "not_finite",
        "key",
    ),
)
SAMPLES = ("model", "task", "variant", "method", "settings", "index", "id", "output", "score", "key")


def results_csv(findings: Findings, path: Path) -> None:
    """One row per model, task and setting; settings is JSON, what a method has not is empty.

    difference to clusters: beside dense, as in `statistics.compare`; empty for dense itself.
    milliseconds: of a decode step with this setting alone; backend: what decoded it. active: whether the method ever
    left anything out; sparse_share: at which share of decode steps it did; layers_active: in how many layers;
    truncated, not_finite: how many examples.
    """
    guarded(findings.records[list(RESULTS)]).to_csv(path, index=False, lineterminator="\n")


def headline_csv(findings: Findings, path: Path) -> None:
    """One row per model, task, variant and form of a method, as in `statistics.headline`."""
    guarded(findings.headline).to_csv(path, index=False, lineterminator="\n")


def samples_csv(samples: pd.DataFrame, path: Path) -> None:
    """One row per example, text quoted and as it was generated but for the apostrophe of `guarded`.

    An output may be empty, a number, or the word NA: read it back with
    `pandas.read_csv(path, dtype={"id": str, "output": str}, keep_default_na=False, na_values={"score": [""]})`, and
    `results.formulas.as_generated` takes the apostrophes away.
    """
    guarded(samples[list(SAMPLES)]).to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


def markdown(findings: Findings) -> str:
    """The headline, then a heading and a table for each model and task."""
    parts = [headline_markdown(findings)]
    for group in groups(findings):
        parts.append(f"### {escape(group.title)}\n\n{sheet(group.header, group.rows, WORDS)}")
    return "\n".join(filter(None, parts))


def headline_markdown(findings: Findings) -> str:
    """Nothing where there is only dense."""
    header, rows = headline_table(findings)
    below = escape(" ".join(legend(findings)))
    return f"## {escape(HEADLINE)}\n\n{sheet(header, rows, WORDS)}\n{below}\n" if rows else ""


def sheet(header: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A table, its first `words` columns to the left and the others to the right."""
    rule = [":---" if column < words else "---:" for column in range(len(header))]
    head, *cells = ([escape(cell) for cell in row] for row in (header, *rows))
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, rule, *cells))


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    special = {ord(character): f"\\{character}" for character in "\\|*_`<>[]#~$"}
    return " ".join(text.translate(special).split())
