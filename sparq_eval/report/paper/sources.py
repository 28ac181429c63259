"""What figures are drawn from: records of evaluations and benchmarks, and the paper's numbers where they are given."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparq_eval.errors import UserError
from sparq_eval.report.bench.rows import bench_rows
from sparq_eval.report.figures import UNIT
from sparq_eval.report.paper.models import REALLOCATE
from sparq_eval.report.paper.published import Paper, read_paper
from sparq_eval.report.write import choose
from sparq_eval.results.analysis import Analysis, load_analyses
from sparq_eval.results.bench import load_benches
from sparq_eval.results.frames import Frames, NoRecords, load

# settings that the paper's trade-off curves do not vary, and what they are there; records that leave one out have it
USUAL = {"temperature": "coverage", "score": "query", "copy": "same", "rank_by": "logits"}
PAPER_K = 128


@dataclass(frozen=True)
class Sources:
    """records, samples: of Frames, empty where there are none. attention, decode: of `bench_rows`, likewise.

    transfers: `counted` or `nominal`, what trade-offs show on x.
    """

    records: pd.DataFrame
    samples: pd.DataFrame
    attention: pd.DataFrame
    decode: pd.DataFrame
    analyses: Sequence[Analysis]
    paper: Paper
    transfers: str = "counted"

    def settings_of(self, model: str, task: str) -> pd.DataFrame:
        """All settings of a model and task, those of its first variant, with transfers in 2^20 elements as x."""
        return self.placed(self.records, model, task)

    def published_of(self, model: str, task: str, figure: str = "Fig A") -> pd.DataFrame:
        """The same of what was published in a figure whose name begins so."""
        curves = self.paper.curves
        return self.placed(curves[curves["figure"].str.startswith(figure)], model, task)

    def placed(self, records: pd.DataFrame, model: str, task: str) -> pd.DataFrame:
        chosen = records[(records["model"] == model) & (records["task"] == task) & records["variant"].isin(("", "A"))]
        return chosen.assign(x=chosen[self.transfers] / UNIT, x_dense=chosen[f"{self.transfers}_dense"] / UNIT)

    @property
    def models(self) -> list[str]:
        """Those that there are records of, in their order."""
        return list(dict.fromkeys(self.records["model"]))


def load_sources(
    root: Path,
    published: Path | None,
    models: Collection[str] = (),
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    transfers: str = "counted",
) -> Sources:
    """UserError if there is no record at all below `root` (and nothing published), or a filter fits none."""
    paper = read_paper(published)
    benches, analyses = load_benches(root), load_analyses(root)
    try:
        frames = choose(load(root), models, tasks, methods)
    except NoRecords:
        if not (benches or analyses) and published is None:
            raise
        frames = Frames(paper.curves.head(0), pd.DataFrame(columns=["model", "task", "key", "id", "score"]))
    attention, decode = bench_rows(benches, "attention"), bench_rows(benches, "decode")
    return Sources(frames.records, frames.samples, attention, decode, analyses, paper, transfers)


def main_settings(records: pd.DataFrame) -> pd.DataFrame:
    """Of one model and task the settings that the paper's trade-offs and Table 2 have: the method as it is, SparQ with
    k = 128 where there is such, and one way to reallocate. All others are left to the ablations.
    """
    if records.empty:
        return records
    read = records["settings"].map(json.loads)
    plain = read.map(lambda settings: all(settings.get(name, usual) == usual for name, usual in USUAL.items()))
    records, read = records[plain], read[plain]
    sparq = records["method"] == "sparq"
    if (sparq & (records["k"] == PAPER_K)).any():
        kept = ~sparq | (records["k"] == PAPER_K).fillna(False)
        records, read, sparq = records[kept], read[kept], sparq[kept]
    ways = read[sparq].map(lambda settings: settings.get("reallocate"))
    if ways.nunique() > 1:
        usual = REALLOCATE.get(str(records["model"].iloc[0]), ways.mode().iloc[0])
        records = records[~sparq | (read.map(lambda settings: settings.get("reallocate")) == usual)]
    return records


def require_known(names: Sequence[str], known: Collection[str]) -> list[str]:
    """The figures of the names, each once; `all` is all of them. UserError for one that there is not."""
    for name in names:
        if name not in known and name != "all":
            raise UserError(f"figure={name}: there is no such figure or table; there are {', '.join(known)}, all")
    return list(known) if "all" in names else list(dict.fromkeys(names))
