"""What drawing a figure or table gives: pictures with their numbers, the records behind them, and what is missing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sparq_eval.report.canvas import save
from sparq_eval.report.chart import Plot, compose, long_table, wide_tables
from sparq_eval.report.paper.models import Missing
from sparq_eval.report.sheet import write_sheet


@dataclass(frozen=True)
class Picture:
    """numbers: what is drawn, one row a point. parts: the same for people, tables with their headings. figure: None
    for a table. suffix: tells pictures of one name apart.
    """

    title: str
    numbers: pd.DataFrame
    parts: Sequence[tuple[str, pd.DataFrame]]
    figure: Figure | None = None
    suffix: str = ""

    @staticmethod
    def of(plot: Plot, suffix: str = "") -> "Picture":
        return Picture(plot.title, long_table(plot), wide_tables(plot), compose(plot), suffix)


@dataclass(frozen=True)
class Drawing:
    """records: keys of the records drawn. missing: of what the paper shows here. notes: sentences for whoever asked."""

    pictures: Sequence[Picture] = ()
    records: Sequence[str] = ()
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = field(default=())


def write(name: str, title: str, drawing: Drawing, out: Path) -> list[Path]:
    """Write the pictures, their numbers as CSV and Markdown, and <name>.json, which says what they come from."""
    written = []
    for picture in drawing.pictures:
        path = out / (f"{name}-{picture.suffix}" if picture.suffix else name)
        if picture.figure is not None:
            written += save(picture.figure, path)
        write_sheet(picture.numbers, picture.parts, picture.title or title, path)
        if picture.figure is None:
            written += [path.with_name(f"{path.name}.{kind}") for kind in ("md", "csv")]
    if written:
        write_origin(name, title, drawing, written, out)
    return written


def write_origin(name: str, title: str, drawing: Drawing, written: Sequence[Path], out: Path) -> None:
    origin = {
        "figure": name,
        "title": title,
        "files": [path.name for path in written],
        "records": sorted(drawing.records),
        "missing": [{"what": one.what, "command": one.command} for one in drawing.missing],
        "notes": list(drawing.notes),
    }
    text = json.dumps(origin, indent=1, ensure_ascii=False) + "\n"
    (out / f"{name}.json").write_text(text, encoding="utf-8")


def keys(*columns: Iterable[object]) -> list[str]:
    """Each record once, in order; what was published is no record."""
    every = (str(key) for column in columns for key in column)
    return list(dict.fromkeys(key for key in every if key != "published"))
