"""Figures 4, E1, E2 and Table 1: what attention looks like inside, drawn by `sparq_eval.report.analysis`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sparq_eval.report.analysis import draw_fig4, draw_figE1, draw_figE2, draw_table1, newest
from sparq_eval.report.paper.drawing import Drawing
from sparq_eval.report.paper.models import LLAMA2_7B, Missing
from sparq_eval.report.paper.sources import Sources
from sparq_eval.results.analysis import Analysis

TASK = "squad"
MISSING = Missing(
    f"analysis of {LLAMA2_7B.name}",
    f"python -m sparq_eval.analyse model={LLAMA2_7B.name} task={TASK} samples=40 truncate=left",
)
DRAW: dict[str, Callable[[Sequence[Analysis], Path, Path | None], list[Path]]] = {
    "fig4": draw_fig4,
    "figE1": lambda analyses, out, _: draw_figE1(analyses, out),
    "figE2": lambda analyses, out, _: draw_figE2(analyses, out),
    "table1": draw_table1,
}


def draw_analysis(name: str, sources: Sources, out: Path, published: Path | None) -> tuple[list[Path], Drawing]:
    """Write a figure of the analyses, of each model and task the newest, and say of which, or what is missing."""
    written = DRAW[name](sources.analyses, out, published)
    there = {(one.name, one.task) for one in sources.analyses}
    missing = [] if (LLAMA2_7B.name, TASK) in there else [MISSING]
    return written, Drawing(records=[one.key for one in newest(sources.analyses)], missing=missing)
