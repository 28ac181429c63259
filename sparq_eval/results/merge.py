"""Two folders of results made one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results.analysis import is_analysis, read_analysis
from sparq_eval.results.bench import is_bench
from sparq_eval.results.bench import read as read_bench
from sparq_eval.results.frames import Untrusted, existing, folders, left_out, read, read_record
from sparq_eval.results.prompts import PROMPTS, Prompt, keep_prompts
from sparq_eval.results.prompts import read as read_prompts
from sparq_eval.results.record import OPTIONAL, Identity, Row
from sparq_eval.results.store import Store
from sparq_eval.results.whole import write_whole


class Merged(NamedTuple):
    """How much came from the source. notes: on settings. files: records of benchmarks and analyses. different: how many
    rows both have, with another content.
    """

    rows: int
    notes: int
    files: int
    different: int


def merge(into: Path, source: Path) -> Merged:
    """Add to `into` what only `source` has. UserError if there is no such source.

    Rows and notes that both have stay as they are in `into`. `source` is not changed.
    """
    store, source = Store(into), existing(source)
    rows = notes = different = 0
    asked = dict[Path, dict[str, Prompt]]()
    for folder in folders(source):
        try:
            _, theirs = read(folder)
            record = read_record(folder)
        except Untrusted as why:
            left_out(folder, str(why))
            continue
        entry = store.open(
            Identity(**record["identity"]),
            metric=record["metric"],
            higher_is_better=record["higher_is_better"],
        )
        there = {row["index"]: row for row in entry.parsed().rows}
        fresh = [row for row in theirs if row["index"] not in there]
        different += sum(differ(row, there[row["index"]]) for row in theirs if row["index"] in there)
        if folder.parent not in asked:
            asked[folder.parent] = read_prompts(folder.parent / PROMPTS)[0]
        named = {row["prompt"] for row in (*there.values(), *fresh)}
        keep_prompts(entry.path.parent, [prompt for name, prompt in asked[folder.parent].items() if name in named])
        if fresh:
            entry.append([Row.read(row) for row in fresh], {"merged_from": str(source), "runs": record["runs"]})
            if "failure" in record:
                entry.fail(str(record["failure"]))
        for name in record.keys() - entry.record().keys() - {"failure", "seal"}:
            entry.note(name, record[name])
            notes += 1
        rows += len(fresh)
    return Merged(rows, notes, add_files(into, source), different)


def differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether rows of one example say different things of it.

    Their time aside, what either does not know, and what the prompt goes by, which depends on what was kept of it.
    """
    known = [name for name in one if name not in OPTIONAL or OPTIONAL[name] not in (one[name], other[name])]
    return any(one[name] != other[name] for name in known if name not in ("seconds", "prompt"))


def add_files(into: Path, source: Path) -> int:
    """Copy the records of benchmarks and analyses, whose names say what they hold; how many."""
    there, added = {path.name for path in wholes(into)}, 0
    for path in [path for path in wholes(source) if path.name not in there]:
        try:
            read_bench(path) if is_bench(path.name) else read_analysis(path)
        except UserError as why:
            say(f"warning: {why}; left out")
        else:
            write_whole(into / path.relative_to(source), path.read_bytes())
            added += 1
    return added


def wholes(root: Path) -> Iterator[Path]:
    for parent, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if is_bench(name) or is_analysis(name))
