"""The story of a report: load, choose, write the tables, draw the plots."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.report.analysis import draw_analyses
from sparq_eval.report.bench import write_benches
from sparq_eval.report.bench.published import read_published
from sparq_eval.report.figures import draw_all
from sparq_eval.report.findings import Findings, find
from sparq_eval.report.latex import latex, latex_headline
from sparq_eval.report.page import write_page
from sparq_eval.report.tables import headline_csv, headline_markdown, markdown, results_csv, samples_csv
from sparq_eval.report.terminal import terminal_table
from sparq_eval.report.text import decimals, fixed, gap, short_settings
from sparq_eval.results.analysis import load_analyses
from sparq_eval.results.bench import load_benches
from sparq_eval.results.frames import REPORT, Frames, NoRecords, load
from sparq_eval.results.prompts import load_prompts
from sparq_eval.statistics import MARGIN


def write_report(
    root: Path,
    out: Path,
    *,
    models: Collection[str] = (),
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    transfers: str = "counted",
    published: Path | None = None,
    margin: float = MARGIN,
) -> Findings | None:
    """Write tables, plots and the page of the records below `root` to `out`, and return what they show: None if there
    are only records of benchmarks or analyses. Empty filters keep all; dense stays beside chosen methods; benchmarks
    and analyses are not filtered. published: a folder with the paper's numbers, to be drawn under ours. margin: of the
    headline, in points or per cent, see `statistics.headline`.

    UserError if there are no records, a filter fits none, or `out` cannot be written.
    """
    theirs, benches, analyses = read_published(published), load_benches(root), load_analyses(root)
    try:
        findings = find(choose(load(root), models, tasks, methods), margin)
    except NoRecords:
        if not (benches or analyses) or models or tasks or methods:
            raise
        findings = None
    if findings is not None:
        comment(findings.records)
        write(findings, findings.records, root, out, transfers)
    if benches:
        with writing(out):
            write_benches(benches, out, theirs)
    if analyses:
        with writing(out):
            draw_analyses(analyses, out, published)
    return findings


def report_run(root: Path, entries: Sequence[Path]) -> Findings:
    """The end of a run: tables of all that is below `root`, plots of the models and tasks that the run touched, and on
    standard output the table of its own `entries` (folders of records).
    """
    findings = find(load(root))
    records, paths = findings.records, {Path(entry).resolve() for entry in entries}
    own = records[[Path(path).resolve() in paths for path in records["path"]]]
    touched = records.merge(own[["model", "task"]].drop_duplicates())
    out = Path(root) / REPORT
    comment(touched)
    write(findings, touched, root, out, "counted")
    console = Console()
    terminal_table(findings.of(own["key"].to_list()), console)
    console.print(f"tables, plots and index.html: {out}/", markup=False, highlight=False, soft_wrap=True)
    return findings


def write(findings: Findings, drawn: pd.DataFrame, root: Path, out: Path, transfers: str) -> None:
    with writing(out):
        results_csv(findings, out / "results.csv")
        samples_csv(findings.frames.samples, out / "samples.csv")
        headline_csv(findings, out / "headline.csv")
        for name, text in (
            ("results.md", markdown(findings)),
            ("results.tex", latex(findings)),
            ("headline.md", headline_markdown(findings)),
            ("headline.tex", latex_headline(findings)),
        ):
            (out / name).write_text(text, encoding="utf-8")
        draw_all(drawn, out, transfers)
        write_page(findings.frames, findings.comparisons, findings.headline, load_prompts(root), out)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """The folder is there; UserError if it, or what the block writes to it, cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"out={out}: could not be written ({error.strerror}); choose another folder") from error


def choose(frames: Frames, models: Collection[str], tasks: Collection[str], methods: Collection[str]) -> Frames:
    for column, names in (("model", models), ("task", tasks), ("method", methods)):
        there = sorted(set(frames.records[column]))
        for name in names:
            if name not in there:
                raise UserError(f"{column}={name}: no record has it; there are {', '.join(there)}")
        if names:
            kept = {*names, "dense"} if column == "method" else set(names)
            pick = [
                frame[frame[column].isin(kept)].reset_index(drop=True) for frame in (frames.records, frames.samples)
            ]
            frames = replace(frames, records=pick[0], samples=pick[1])
        if frames.records.empty:
            raise UserError(f"{column}={','.join(names)}: no record of the chosen models and tasks has it")
    return frames


def comment(records: pd.DataFrame) -> None:
    """Say on standard error what a reader of the tables should know and might miss. records: Findings.records."""
    for (model, task, variant), group in records.groupby(["model", "task", "variant"]):
        where = f"{model}, {task}{', variant ' if variant else ''}{variant}"
        few, many = group["samples"].min(), group["samples"].max()
        if few < many:
            say(
                f"note: {where}: settings were measured on {few} to {many} examples; compare those with the same number"
            )
        for record in group[~group["active"]].to_dict("records"):
            setting = f"{record['method']} {short_settings(record['settings'])}".strip()
            say(f"warning: {where}: {setting}: inactive: it left nothing out at any step, so its score is dense's")
        for record in group[group["better"]].to_dict("records"):
            setting = f"{record['method']} {short_settings(record['settings'])}".strip()
            by = f"{fixed(record['difference'], decimals(record['value']), '+')}, 95 % {gap(record)[1]}"
            say(f"warning: {where}: {setting}: significantly better than dense ({by}): read its answers first")
        lost = group[(group["not_finite"] > 0) | group["value"].isna()]
        for record in lost.to_dict("records"):
            setting = f"{record['method']} {short_settings(record['settings'])}".strip()
            count = f"{record['not_finite'] or 'some'} of {record['samples']} answers are not finite"
            end = ", so it has no score and is not drawn" if math.isnan(record["value"]) else ""
            say(f"warning: {where}: {setting}: {count}{end}")
