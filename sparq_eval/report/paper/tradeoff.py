"""Score against transfers: Figure 1 (one model, three tasks) and Figures A1 to A3 (all models and tasks)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from sparq_eval.report.canvas import COLUMN, FULL, Cell, compose
from sparq_eval.report.curves import curves
from sparq_eval.report.figures import XLABEL, count
from sparq_eval.report.panel import Panel, panel_cells
from sparq_eval.report.paper.drawing import Drawing, Picture, keys
from sparq_eval.report.paper.models import LLAMA2_13B, MODELS, TASKS, home
from sparq_eval.report.paper.sources import Sources, main_settings

FIGURE_1 = ("squad", "wikitext_bpc", "repetition")
ACROSS = 4  # models side by side
ROW = 1.55
NUMBERS = ("model", "task", "method", "settings", "r", "k", "samples", "value", "stderr", "counted", "nominal")


def figure_1(sources: Sources) -> Drawing:
    """The paper's Llama 2 13B where there is something of it; if that is published at most, the model that answers most
    questions densely too.
    """
    models = [LLAMA2_13B.name]
    if not any(has(sources, LLAMA2_13B.name, task) for task in FIGURE_1):
        dense = sources.records[(sources.records["method"] == "dense") & sources.records["value"].notna()]
        best = dense[dense["task"].isin(FIGURE_1)].sort_values(["task", "value"], key=ranked, kind="stable").tail(1)
        models += [str(model) for model in best["model"]]
    lacking = [one for task in FIGURE_1 for one in sources.missing(LLAMA2_13B.name, task)]
    panels = [[panel_of(sources, model, task) for task in FIGURE_1] for model in models]
    notes = left_out(sources, [(model, task) for model in models for task in FIGURE_1])
    return drawn([row for row in panels if any(row)], 2.0, lacking, sources, notes)


def ranked(column: pd.Series) -> pd.Series:
    """Tasks from the last of the figure to its first, scores as they are."""
    return column.map(lambda task: -FIGURE_1.index(task)) if column.name == "task" else column


def family(sources: Sources, figure: str) -> Drawing:
    """A row for each task, a column for each model of the figure; more than four models go on in another picture."""
    of_paper = [one.name for one in MODELS if one.figure == figure]
    models = [*of_paper, *(model for model in sources.models if model not in of_paper and home(model) == figure)]
    lacking = [one for model in of_paper for task in TASKS for one in sources.missing(model, task)]
    columns = [[panel_of(sources, model, task) for task in TASKS] for model in models]
    columns = [column for column in columns if any(column)]
    notes = left_out(sources, [(model, task) for model in models for task in TASKS])
    pages = [columns[start : start + ACROSS] for start in range(0, len(columns), ACROSS)]
    drawings = [drawn(*laid_out(page), lacking, sources, notes) for page in pages]
    pictures = [
        Picture(one.title, one.numbers, one.parts, one.figure, str(page) if page > 1 else "")
        for page, drawing in enumerate(drawings, start=1)
        for one in drawing.pictures
    ]
    records = [key for drawing in drawings for key in drawing.records]
    told = [note for drawing in drawings for note in drawing.notes]
    return Drawing(pictures, records, lacking, list(dict.fromkeys([*notes, *told])))


def left_out(sources: Sources, shown: Sequence[tuple[str, str]]) -> list[str]:
    """A note on the settings that are no points of these models' and tasks' lines."""
    found = sum((sources.left_out(model, task) for model, task in shown), Counter[str]())
    why = ", ".join(f"{name}: {count}" for name, count in sorted(found.items()))
    return [f"left out, as they are no points of these lines: {found.total()} settings ({why})"] if found else []


def has(sources: Sources, model: str, task: str) -> bool:
    found = sources.settings_of(model, task)
    return bool((found["method"] != "dense").any())


def panel_of(sources: Sources, model: str, task: str) -> Panel | None:
    both = sources.settings_of(model, task), sources.published_of(model, task)
    own, theirs = (main_settings(found[found["x"] > 0]) for found in both)
    if own.empty and theirs.empty:
        return None
    lines = curves(theirs) if len(theirs) else []
    if own.empty:
        # drawn on its own axes: dense is the published one too
        return Panel(f"{model} (published)\n{task}, n = {count(theirs['samples'])}", theirs, (), lines)
    return Panel(f"{model}\n{task}, n = {count(own['samples'])}", own, curves(own), lines)


def is_published(panel: Panel) -> bool:
    """Whether all of it is."""
    return bool((panel.records["key"] == "published").all())


def laid_out(models: Sequence[Sequence[Panel | None]]) -> tuple[list[Sequence[Panel | None]], float]:
    """Rows of panels and their height: a row for each task that any model has; those of a model alone three abreast."""
    if len(models) == 1:
        there = [panel for panel in models[0] if panel is not None]
        return [there[start : start + 3] for start in range(0, len(there), 3)], 2.0
    return [row for row in zip(*models, strict=True) if any(row)], ROW


def drawn(
    rows: Sequence[Sequence[Panel | None]], height: float, lacking: Sequence, sources: Sources, notes: Sequence[str]
) -> Drawing:
    """Panels as they lie, None where there is nothing; the last row may be shorter."""
    panels = [panel for row in rows for panel in row if panel is not None]
    if not panels:
        return Drawing(missing=lacking, notes=notes)
    across = max(map(len, rows))
    width = COLUMN if across == 1 else FULL / across
    labelled = zip(panel_cells(panels, XLABEL[sources.transfers], width), panels, strict=True)
    # the paper's transfers are by its formula
    made = (replace(cell, xlabel=XLABEL["nominal"]) if is_published(panel) else cell for cell, panel in labelled)
    cells: list[Cell | None] = [None if panel is None else next(made) for row in rows for panel in row]
    numbers = pd.concat([panel.records for panel in panels])
    parts = [(", ".join(panel.title.splitlines()), readable(panel.records)) for panel in panels]
    alone: dict[str, list[str]] = {}
    for first in (panel.records.iloc[0] for panel in panels if is_published(panel)):
        alone.setdefault(str(first["model"]), []).append(str(first["task"]))
    named = [f"{model} ({', '.join(tasks)})" for model, tasks in alone.items()]
    notes = [*notes, *([f"published alone, no records of it: {', '.join(named)}"] if named else [])]
    if any(panel.published for panel in panels):
        notes.append("published transfers are by the paper's formula")
    columns = [name for name in (*NUMBERS, "counted_ratio", "nominal_ratio", "key") if name in numbers]
    picture = Picture("", numbers[columns], parts, compose("", cells, across, height))
    return Drawing([picture], keys(numbers["key"]), lacking, notes)


def readable(records: pd.DataFrame) -> pd.DataFrame:
    return records[["method", "r", "k", "value", "stderr", "counted_ratio", "nominal_ratio"]]
