"""Is a folder of results what was written? What is torn, cut short, changed or foreign is named or set aside."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.results import disk
from sparq_eval.results.analysis import is_analysis, read_analysis
from sparq_eval.results.bench import is_bench, read
from sparq_eval.results.frames import REPORT, Untrusted, existing, orphaned, read_record
from sparq_eval.results.prompts import PROMPTS, drop_lines
from sparq_eval.results.prompts import read as read_prompts
from sparq_eval.results.rows import parse
from sparq_eval.results.store import RECORD, SAMPLES, TORN, rewrite
from sparq_eval.results.summary import describes, lags

ASIDE = ".aside"
OURS = {RECORD, SAMPLES, TORN, *(disk.aside_of(Path(name)).name for name in (RECORD, SAMPLES))}


@dataclass(frozen=True)
class Finding:
    """path: the file or folder. what: is wrong with it. partly: it is lines of the file, the others are as written."""

    path: Path
    what: str
    partly: bool = False
    movable: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def verify(root: Path) -> list[Finding]:
    """Everything below `root` that is not as it was written. UserError if there is no such folder."""
    found = list[Finding]()
    keys = dict[str, Path]()
    for parent, below, names in os.walk(existing(root)):
        below[:] = sorted(name for name in below if not name.startswith("."))
        folder = Path(parent)
        if RECORD in names:
            found += in_record(folder, keys)
            found += [Finding(folder / name, "no part of a record") for name in sorted(set(names) - OURS)]
        else:
            ours = [
                name for name in sorted(names) if name.endswith((".json", ".jsonl")) and not of_report(folder, name)
            ]
            for name in ours:
                found += in_prompts(folder / name) if name == PROMPTS else by_itself(folder / name)
    return found


def of_report(folder: Path, name: str) -> bool:
    """Whether a file is a report's own, which lies beside the results and is none."""
    return folder.name == REPORT and not (is_bench(name) or is_analysis(name) or name == PROMPTS)


def in_prompts(path: Path) -> Iterator[Finding]:
    """Lines that are no prompts as they were written."""
    if bad := read_prompts(path)[1]:
        yield Finding(path, f"lines {', '.join(map(str, bad[:5]))} are not prompts as they were written", partly=True)


def by_itself(path: Path) -> Iterator[Finding]:
    """What is wrong with a file that lies by itself: it is a benchmark's or an analysis's record, or foreign."""
    if path.name == SAMPLES:
        if orphaned(path):
            yield Finding(path, "rows without their record")
        return
    if not is_bench(path.name) and not is_analysis(path.name):
        yield Finding(path, "no part of a record")
        return
    try:
        read(path) if is_bench(path.name) else read_analysis(path)
    except UserError as why:
        yield Finding(path, str(why).removeprefix(f"{path}: "))


def in_record(folder: Path, keys: dict[str, Path]) -> Iterator[Finding]:
    """What is wrong with the record in a folder. keys: where each key was met before."""
    # under one lock: whoever appends writes first the one, then the other
    with disk.reading(folder / SAMPLES) as samples:
        try:
            content = read_record(folder)
        except Untrusted as untrusted:
            yield Finding(folder, str(untrusted))
            return
        written = samples.read() if samples else b""
    if content["key"] in keys:
        why = f"the same record as in {keys[content['key']]}; that with more rows is read"
        yield Finding(folder, why, movable=False)
    keys.setdefault(content["key"], folder)
    parsed = parse(written, content["key"])
    if parsed.unreadable or parsed.torn:
        numbers = ", ".join(map(str, parsed.unreadable[:5])) + (", …" if len(parsed.unreadable) > 5 else "")
        what = [f"lines {numbers} are not rows as they were written for this record"] if parsed.unreadable else []
        what += ["its last line is cut short"] if parsed.torn else []
        yield Finding(folder / SAMPLES, "; ".join(what), partly=True)
    if (twice := written.count(b"\n") - len(parsed.unreadable) - len(parsed.rows)) > 0:
        yield Finding(folder / SAMPLES, f"{twice} examples are there twice; the first counts", movable=False)
    summary, wrote = content["summary"], content["summary"].get("samples")
    if isinstance(wrote, int) and len(parsed.rows) < wrote:
        why = f"{wrote - len(parsed.rows)} of {wrote} rows are gone; the same run measures them again"
        yield Finding(folder / SAMPLES, why, movable=False)
    elif lags(summary, parsed.rows):
        why = "its summary is that of its first rows only; the next run puts it right"
        yield Finding(folder / RECORD, why, movable=False)
    elif not describes(summary, parsed.rows):
        why = "its summary is not that of its rows: either was changed, or is another record's"
        yield Finding(folder / RECORD, why, movable=False)


def set_aside(root: Path, finding: Finding) -> Path | None:
    """Move what was found out of the way, below `root`/.aside, or the lines that are no rows beside their file."""
    if finding.partly:
        torn = finding.path.with_name(TORN)
        if finding.path.name == PROMPTS:
            drop_lines(finding.path, torn)
        else:
            rewrite(finding.path.parent, read_record(finding.path.parent)["key"])
        return torn
    if not finding.movable:
        return None
    place = Path(root) / ASIDE / finding.path.relative_to(root)
    number = 0
    while place.exists():
        number += 1
        place = place.with_name(f"{finding.path.name}.{number}")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(finding.path, place)
    return place
