"""What figures are drawn from: records of evaluations and benchmarks, and the paper's numbers where they are given."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from sparq_eval.errors import UserError
from sparq_eval.report.bench.rows import bench_rows
from sparq_eval.report.figures import UNIT
from sparq_eval.report.paper.models import METHODS, REALLOCATE, SAMPLES, Missing, missing
from sparq_eval.report.paper.published import COLUMNS, Paper
from sparq_eval.report.write import choose
from sparq_eval.results.analysis import Analysis, load_analyses
from sparq_eval.results.bench import load_benches
from sparq_eval.results.frames import Frames, NoRecords, load
from sparq_eval.statistics.lines import odd

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

    def missing(self, model: str, task: str, methods: Sequence[str] = METHODS) -> list[Missing]:
        """The command for a model and task of the paper, if records lack one of these methods, dense or examples."""
        found = main_settings(self.settings_of(model, task))
        absent = [name for name in ("dense", *methods) if name not in set(found["method"])]
        whole, few = missing(model, task), found["samples"].min()
        if found.empty or len(absent) > len(methods):
            return [whole]
        why = [f"no {', '.join(absent)}"] if absent else []
        why += [f"{few:,} of {SAMPLES[task]:,} examples"] if few < SAMPLES[task] else []
        return [replace(whole, what=f"{whole.what} ({'; '.join(why)})")] if why else []

    @property
    def models(self) -> list[str]:
        """Those that there are records of, in their order."""
        return list(dict.fromkeys(self.records["model"]))

    @property
    def ratio(self) -> str:
        """The column of records with their share of dense's transfers."""
        return f"{self.transfers}_ratio"

    def left_out(self, model: str, task: str) -> Counter[str]:
        """How many settings are no points of a trade-off, by why."""
        found = self.settings_of(model, task)
        why = reasons(found)
        why = why.mask((why == "") & ~(found["x"] > 0), f"no {self.transfers} transfers")
        return Counter(why[why != ""])


def load_sources(
    root: Path,
    published: Path | None,
    models: Collection[str] = (),
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    transfers: str = "counted",
) -> Sources:
    """UserError if there is no record at all below `root` (and nothing published), or a filter fits none. Analyses are
    filtered by model and task, benchmarks are not.
    """
    paper = Paper(published)
    benches, analyses = load_benches(root), load_analyses(root)
    chosen = [one for one in analyses if one.name in (models or [one.name]) and one.task in (tasks or [one.task])]
    nothing = Frames(pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=["model", "task", "key", "id", "score"]))
    try:
        frames = load(root)
    except NoRecords:
        if not (benches or analyses) and published is None:
            raise
        frames = nothing
    else:
        try:
            frames = choose(frames, models, tasks, methods)
        except UserError:
            # what is filtered may be known from analyses alone
            if not (chosen and (models or tasks)):
                raise
            frames = nothing
    attention, decode = bench_rows(benches, "attention"), bench_rows(benches, "decode")
    return Sources(frames.records, frames.samples, attention, decode, chosen, paper, transfers)


def main_settings(records: pd.DataFrame) -> pd.DataFrame:
    """Of one model and task the settings that the paper's trade-offs and Table 2 have: the method as it is, SparQ with
    k = 128 where there is such, and one way to reallocate. All others are left to the ablations.
    """
    return records[reasons(records) == ""]


def plain(records: pd.DataFrame) -> pd.DataFrame:
    """The settings that vary nothing but budgets and reallocation."""
    return records[records["settings"].map(lambda settings: not odd(json.loads(settings))).astype(bool)]


def reasons(records: pd.DataFrame) -> pd.Series:
    """For each setting of one model and task which of its settings keeps it from being a main one; "" for those."""
    read = records["settings"].map(json.loads)
    why = read.map(lambda settings: "".join(odd(settings)[:1]).partition("=")[0]).astype(object)
    sparq = records["method"] == "sparq"
    at_k = (records["k"] == PAPER_K).fillna(False).astype(bool)
    if (sparq & (why == "") & at_k).any():
        why = why.mask(sparq & (why == "") & ~at_k, f"k other than {PAPER_K}")
    ways = read.map(lambda settings: settings.get("reallocate"))
    rest = ways[sparq & (why == "")]
    if rest.nunique() > 1:
        usual = REALLOCATE.get(str(records["model"].iloc[0]), rest.mode().iloc[0])
        why = why.mask(sparq & (why == "") & (ways != usual), "reallocate")
    return why


def require_known(names: Sequence[str], known: Collection[str]) -> list[str]:
    """The figures of the names, each once; `all` is all of them. UserError for one that there is not."""
    for name in names:
        if name not in known and name != "all":
            raise UserError(f"figure={name}: there is no such figure or table; there are {', '.join(known)}, all")
    return list(known) if "all" in names else list(dict.fromkeys(names))
