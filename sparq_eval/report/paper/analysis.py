"""Figures 4, E1, E2 and Table 1: what attention looks like inside, drawn by `sparq_eval.report.analysis`."""

from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.report.paper.models import LLAMA2_7B, Missing
from sparq_eval.report.paper.sources import Sources

COMMAND = f"python -m sparq_eval.analyse model={LLAMA2_7B.name}"
WITH_PUBLISHED = ("fig4", "table1")


def draw_analysis(name: str, sources: Sources, out: Path, published: Path | None) -> tuple[list[Path], list[Missing]]:
    """Write a figure of the analyses below the sources' root; what is missing where there are none."""
    # the one place that knows of analyses: a checkout without them has no records of them either
    if not all(map(there, ("sparq_eval.report.analysis", "sparq_eval.results.analysis"))):
        return [], [Missing("analyses", COMMAND)]
    analyses: Any = import_module("sparq_eval.results.analysis").load_analyses(sources.root)
    if not len(analyses):
        return [], [Missing("analyses", COMMAND)]
    draw: Callable[..., Any] = getattr(import_module("sparq_eval.report.analysis"), f"draw_{name}")
    try:
        written = draw(analyses, out, published) if name in WITH_PUBLISHED else draw(analyses, out)
    except UserError as why:
        return [], [Missing(str(why), COMMAND)]
    return list(written or ()), []


def there(module: str) -> bool:
    return util.find_spec(module) is not None
