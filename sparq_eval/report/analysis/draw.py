"""Each figure of an analysis as files: one for each model and task, the newest record of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sparq_eval.progress import progress
from sparq_eval.report.analysis.numbers import fig4_numbers, figE1_numbers, figE2_numbers
from sparq_eval.report.analysis.panels import (
    agreement_panel,
    coverage_panel,
    density_panel,
    figE2_row,
    heads_panel,
    kurtosis_histogram,
    kurtosis_layers,
    mass_histogram,
    outlier_panel,
)
from sparq_eval.report.analysis.published import read_published
from sparq_eval.report.canvas import FULL, blank, save
from sparq_eval.report.sheet import write_sheet
from sparq_eval.report.style import RC, drawable
from sparq_eval.results.analysis import Analysis
from sparq_eval.results.formulas import guarded
from sparq_eval.results.record import safe

AXES = {"batch": "example", "sequence": "position", "layer": "layer", "head": "head", "head size": "component"}


def draw_analyses(analyses: Sequence[Analysis], out: Path, published: Path | None = None) -> list[Path]:
    """Everything that the records give, in `out`; the paths that were written. UserError as those below."""
    drawings: list[Callable[[], list[Path]]] = [
        lambda: draw_fig4(analyses, out, published),
        lambda: draw_figE1(analyses, out),
        lambda: draw_figE2(analyses, out),
        lambda: draw_table1(analyses, out, published),
    ]
    written = list[Path]()
    with progress("analyses", len(drawings), "figures") as advance:
        for draw in drawings:
            written += draw()
            advance(1)
    return written


def draw_fig4(analyses: Sequence[Analysis], out: Path, published: Path | None = None) -> list[Path]:
    """`out`/fig4_<model>_<task>.svg, .png and .csv: scores, queries and their approximations. Nothing without a record.

    published: a folder with the paper's tables.csv, whose numbers for Llama 2 7B stand beside ours. UserError if it
    cannot be read.
    """
    theirs = read_published(published)

    def compose(analysis: Analysis) -> Figure:
        figure = titled(analysis, 5.2)
        (a, b, c), (d, e, f) = figure.subplots(2, 3)
        found = analysis.statistics
        top = analysis.protocol["top"]
        mass_histogram(a, found["mass"], top)
        heads_panel(b, found["mass"]["heads"], f"(b) top-{top} weight by head", "mean weight", 0, 1)
        density_panel(c, found["queries"])
        heads_panel(d, found["queries"]["kurtosis"], "(d) kurtosis of queries by head", "kurtosis", 0, None)
        agreement_panel(e, found["agreement"], analysis.protocol["k"])
        coverage_panel(f, found["coverage"], analysis.model["head_size"], theirs)
        return figure

    return draw_each(analyses, out, "fig4", compose, fig4_numbers)


def draw_figE1(analyses: Sequence[Analysis], out: Path) -> list[Path]:
    """`out`/figE1_<model>_<task>.svg, .png and .csv: components of queries in all heads, and their kurtosis."""

    def compose(analysis: Analysis) -> Figure:
        figure = titled(analysis, 2.4)
        a, b, c = figure.subplots(1, 3)
        queries = analysis.statistics["queries"]
        density_panel(a, queries, whole=True)
        kurtosis_histogram(b, queries["kurtosis"])
        kurtosis_layers(c, queries["kurtosis"])
        return figure

    return draw_each(analyses, out, "figE1", compose, figE1_numbers)


def draw_figE2(analyses: Sequence[Analysis], out: Path) -> list[Path]:
    """`out`/figE2_<model>_<task>.svg, .png and .csv: for each key/value head how many of the best are found."""

    def compose(analysis: Analysis) -> Figure:
        figure = titled(analysis, 2.5)
        a, b = figure.subplots(1, 2, width_ratios=(1.3, 1))
        row = figE2_row(analysis)
        if row is None:
            a.set_title("nothing was left out")
            b.set_visible(False)
            return figure
        label = f"top-{row['k']} agreement, r = {row['r']}"
        heads_panel(a, row["heads"], "(a) each key/value head", label, 0, 1)
        outlier_panel(b, row["heads"], analysis.statistics["queries"]["kurtosis"], label)
        return figure

    return draw_each(analyses, out, "figE2", compose, figE2_numbers)


def draw_table1(analyses: Sequence[Analysis], out: Path, published: Path | None = None) -> list[Path]:
    """`out`/table1.csv and .md: how much of the variance of values and keys the mean along each axis explains."""
    theirs = read_published(published)
    chosen = newest(analyses)
    if not chosen:
        return []
    rows, parts = [], []
    for analysis in chosen:
        found = analysis.statistics["correlation"]
        own = [
            {
                "axis": AXES[axis],
                "entries": value["size"],
                "values": value["excess"],
                "keys": found["keys"][axis]["excess"],
                **({"published: values, Llama 2 7B": theirs.correlation.get(axis)} if theirs.correlation else {}),
            }
            for axis, value in found["values"].items()
        ]
        parts.append((heading(analysis), pd.DataFrame(own).round(3)))
        rows += [{"model": analysis.name, "task": analysis.task, "record": analysis.key, **row} for row in own]
    out.mkdir(parents=True, exist_ok=True)
    write_sheet(pd.DataFrame(rows), parts, "Excess correlation ratio, eta less that of noise", out / "table1")
    return [out / "table1.csv", out / "table1.md"]


def newest(analyses: Sequence[Analysis]) -> list[Analysis]:
    """The last record of each model and task, of records that lie oldest first."""
    return list({(analysis.name, analysis.task): analysis for analysis in analyses}.values())


def draw_each(
    analyses: Sequence[Analysis],
    out: Path,
    name: str,
    compose: Callable[[Analysis], Figure],
    numbers: Callable[[Analysis], pd.DataFrame],
) -> list[Path]:
    written = list[Path]()
    for analysis in newest(analyses):
        out.mkdir(parents=True, exist_ok=True)
        stem = f"{name}_{safe(analysis.name)}_{safe(analysis.task)}"
        with matplotlib.rc_context(RC):
            written += save(compose(analysis), out / stem)
        guarded(numbers(analysis)).to_csv(out / f"{stem}.csv", index=False, lineterminator="\n")
        written.append(out / f"{stem}.csv")
    return written


def heading(analysis: Analysis) -> str:
    return f"{analysis.name}, {analysis.task}, {analysis.prompts['count']} prompts"


def titled(analysis: Analysis, height: float) -> Figure:
    figure = blank(FULL, height)
    figure.suptitle(drawable(heading(analysis), 100), fontsize=8.5)
    return figure
