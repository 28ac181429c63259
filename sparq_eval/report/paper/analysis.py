"""Figures 4, E1, E2 and Table 1: what attention looks like inside, drawn by `sparq_eval.report.analysis`."""

from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

from sparq_eval.report.paper.drawing import Drawing
from sparq_eval.report.paper.models import LLAMA2_7B, Missing
from sparq_eval.report.paper.sources import Sources

MISSING = Missing(f"analysis of {LLAMA2_7B.name}", f"python -m sparq_eval.analyse model={LLAMA2_7B.name}")
WITH_PUBLISHED = ("fig4", "table1")


def draw_analysis(name: str, sources: Sources, out: Path, published: Path | None) -> tuple[list[Path], Drawing]:
    """Write a figure of the analyses below the sources' root, and say of which, or what is missing."""
    # the one place that knows of analyses: a checkout without them has no records of them either
    if not all(map(there, ("sparq_eval.report.analysis", "sparq_eval.results.analysis"))):
        return [], Drawing(missing=[MISSING])
    analyses: Any = import_module("sparq_eval.results.analysis").load_analyses(sources.root)
    draw: Callable[..., Any] = getattr(import_module("sparq_eval.report.analysis"), f"draw_{name}")
    written = list(draw(analyses, out, published) if name in WITH_PUBLISHED else draw(analyses, out))
    missing = [] if any(one.name == LLAMA2_7B.name for one in analyses) else [MISSING]
    # of each model and task the last is drawn
    drawn = {(one.name, one.task): str(one.key) for one in analyses}
    return written, Drawing(records=list(drawn.values()) if written else [], missing=missing)


def there(module: str) -> bool:
    return util.find_spec(module) is not None
