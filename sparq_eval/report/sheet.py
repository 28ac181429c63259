"""A table of numbers as CSV for programs and Markdown for people."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sparq_eval.report.tables import escape
from sparq_eval.results.formulas import guarded


def write_sheet(frame: pd.DataFrame, parts: Sequence[tuple[str, pd.DataFrame]], title: str, path: Path) -> None:
    """Write `frame` as `path`.csv, and `parts`, tables with their headings, as `path`.md."""
    guarded(frame).to_csv(path.with_name(path.name + ".csv"), index=False, lineterminator="\n")
    blocks = [f"## {escape(title)}", *(f"### {escape(name)}\n\n{markdown(part)}" for name, part in parts)]
    path.with_name(path.name + ".md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def markdown(table: pd.DataFrame) -> str:
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    header = [escape(str(name)) for name in table]
    rule = ["---:" if right else ":---" for right in numeric]
    rows = [list(map(cell, row)) for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def cell(value: object) -> str:
    """Three digits of a fraction, whole numbers whole, nothing for what is missing."""
    if value is None or value is pd.NA or value != value or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return escape(str(value))
