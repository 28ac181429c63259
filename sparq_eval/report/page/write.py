"""The story of the page: what it shows first, what it unpacks when asked, all in one file."""

from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sparq_eval.report.page.answers import Prompts, answers
from sparq_eval.report.page.document import document
from sparq_eval.report.page.overview import overview
from sparq_eval.report.page.provenance import Provenance
from sparq_eval.results.frames import Frames
from sparq_eval.results.prompts import Prompt

PAGE = "index.html"


def write_page(
    frames: Frames,
    comparisons: pd.DataFrame | None,
    headline: pd.DataFrame | None,
    prompts: Mapping[str, Prompt] | None,
    out: Path,
) -> Path:
    """Write `out`/index.html and return its path. The same records give the same bytes.

    comparisons: one row a record that is not dense, its difference to dense (`statistics.compare`); headline: one row
    a model, task and method (`statistics.headline`); prompts: by name. None leaves out what they would show.
    OSError if it cannot be written.
    """
    records = frames.records.reset_index(drop=True)
    made_by = Provenance.read(records["path"])
    texts = Prompts(prompts or {})
    groups = list(places(records, ["model", "task", "variant", "metric"]).values())
    rows = places(frames.samples, "key")
    blocks = {
        f"answers-{number}": answers(
            frames.samples, {place: rows[records["key"][place]] for place in group.tolist()}, texts
        )
        for number, group in enumerate(groups)
    }
    first = overview(records, frames.samples, groups, rows, comparisons, headline, made_by)
    path = Path(out) / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(first, blocks | texts.blocks | {"provenance": made_by.content}), encoding="utf-8")
    return path


def places(frame: pd.DataFrame, by: str | list[str]) -> dict[Hashable, np.ndarray]:
    """Where each group's rows are, in the order of the frame."""
    return {name: np.asarray(where) for name, where in frame.groupby(by, sort=False).indices.items()}
