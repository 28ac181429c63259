"""Where a sweep stands, from its folder and the queue alone: what each cell is, why, and how long it will take."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparq_eval.progress import clock
from sparq_eval.sweep.cells import Cell
from sparq_eval.sweep.lease import holder, written
from sparq_eval.sweep.manifest import Manifest
from sparq_eval.sweep.queue import Job, Lot, last_words, queued, submissions
from sparq_eval.sweep.work import STATE, TODO

DONE, RUNNING, WAITING, FAILED, MISSING = "done", "running", "waiting", "failed", "missing"
SUBMIT = "submit"  # the folder whose lease the submitting process holds
LAUNCHER = "launcher.log"
SAY = 1 << 14  # bytes


@dataclass(frozen=True)
class Standing:
    """A cell: done, running, waiting, failed (why says the reason) or missing. rows, of: answers there and to be there.

    left: seconds it still takes, as far as that can be told.
    """

    cell: Cell
    state: str
    why: str = ""
    rows: int = 0
    of: int = 0
    left: float | None = None
    seconds: float | None = None

    @property
    def live(self) -> bool:
        return self.state in (RUNNING, WAITING)


def look(manifest: Manifest, sending: bool = False) -> list[Standing]:
    """All cells as they are now. sending: whether it is us who hold the sweep to send off cells, and not another."""
    jobs = queued(manifest)
    parent = None if sending else holder(manifest.folder / SUBMIT)
    lots = submissions(manifest)
    sent = set(lots[-1].cells) if parent and lots and lots[-1].launcher != "slurm" else set[int]()
    found = [standing(manifest, cell, jobs, cell.number in sent, lots) for cell in manifest.cells]
    took = [each.seconds for each in found if each.state == DONE and each.seconds]
    usual = sum(took) / len(took) if took else None
    return [replace(each, left=usual) if each.state == WAITING else each for each in found]


def standing(manifest: Manifest, cell: Cell, jobs: dict[int, Job] | None, sent: bool, lots: Sequence[Lot]) -> Standing:
    place = manifest.place(cell)
    ended, todo = content(place / STATE), content(place / TODO)
    rows, of = progressed(todo)
    if now := holder(place):
        return Standing(cell, RUNNING, str(now), rows, of, remaining(todo, rows, of))
    state, why = ended.get("state"), str(ended.get("reason", ""))
    if state == DONE and of and rows >= of:
        return Standing(cell, DONE, "", rows, of, seconds=ended.get("seconds"))
    if jobs is None:
        return Standing(cell, WAITING, "the queue does not answer: it may be there or not", rows, of)
    if job := jobs.get(cell.number):
        why = f"job {job.id}: {job.state.lower()}" + (f", {job.why}" if job.why not in ("None", "") else "")
        return Standing(cell, WAITING, why, rows, of)
    last = written(place)
    # a job that came after the last end, and left no word of its own
    silent = last is not None and last.since > str(ended.get("at", ""))
    if sent and not silent and not (ended and ended["at"] > stamp(lots[-1].at)):
        return Standing(cell, WAITING, "in line on this machine", rows, of)
    if silent and last is not None:
        words = last_words(manifest, last.job)
        said = f"; its log ends: {words}" if words else ""
        why = "killed, or out of time or memory"
        if full(manifest.folder):
            why = f"there is no space for it: the disk that {manifest.folder} is on is full"
        return Standing(cell, FAILED, f"{last} ended without a word ({why}){said}", rows, of)
    if state == DONE:
        return Standing(cell, MISSING, f"{of - rows} of its {of} answers are not in the results any more", rows, of)
    if state:
        return Standing(cell, FAILED, why if state == "failed" else f"{state}: {why}", rows, of)
    lot = next((lot for lot in reversed(lots) if cell.number in lot.cells), None)
    if lot is None:
        return Standing(cell, MISSING, "not submitted", rows, of)
    return Standing(cell, FAILED, f"it was sent off and never began: {never(manifest, lot)}", rows, of)


def never(manifest: Manifest, lot: Lot) -> str:
    """What can be said of cells that were sent off, are not live and left nothing."""
    if full(manifest.folder):
        return f"the disk that {manifest.folder} is on is full"
    if lot.launcher == "basic":
        return "the process that ran the cells one after another ended before its turn"
    logs = [path for path in (manifest.folder / ".submitit", manifest.folder / LAUNCHER) if path.exists()]
    return f"see {' and '.join(map(str, logs))}" if logs else "its launcher left no log"


def full(folder: Path) -> bool:
    """Whether there is no room now for what a job has to say."""
    disk = os.statvfs(folder)
    return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < SAY


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def content(path: Path) -> dict[str, Any]:
    """What a file of ours says; nothing where it is not there or not ours."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def progressed(todo: dict[str, Any]) -> tuple[int, int]:
    """Answers that are in the results, and how many there will be."""
    rows = of = 0
    for record in todo.get("records", ()):
        samples = Path(record["path"]) / "samples.jsonl"
        lines = samples.read_bytes().count(b"\n") if samples.is_file() else 0
        rows, of = rows + min(lines, record["samples"]), of + record["samples"]
    return rows, of


def remaining(todo: dict[str, Any], rows: int, of: int) -> float | None:
    """Seconds, at the pace since the cell was last begun."""
    fresh = rows - todo.get("rows", 0)
    return (time.time() - todo["began"]) / fresh * (of - rows) if fresh > 0 else None


def left(standings: Sequence[Standing]) -> float | None:
    """Seconds until all that is live is done, waiting cells shared among as many jobs as run now."""
    live = [each for each in standings if each.live]
    if any(each.left is None for each in live):
        return None
    running = [each.left or 0.0 for each in live if each.state == RUNNING]
    waiting = sum(each.left or 0.0 for each in live if each.state == WAITING)
    return max(running, default=0.0) + waiting / max(1, len(running))


def summary(standings: Sequence[Standing]) -> str:
    """One line: how many cells are in which state, and the time left."""
    counts = Counter(each.state for each in standings)
    parts = [f"{counts[state]} {state}" for state in (DONE, RUNNING, WAITING, FAILED, MISSING) if counts[state]]
    live = any(each.live for each in standings)
    time_left = left(standings)
    end = (
        f"; {clock(time_left)} left" if live and time_left is not None else "; time left not known yet" if live else ""
    )
    return f"{len(standings)} cells: {', '.join(parts)}{end}"
