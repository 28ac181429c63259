"""What was sent off, and what of it Slurm still has: cells by the name and place of their jobs in the queue."""

import getpass
import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sparq_eval.sweep.cells import SUBMISSIONS
from sparq_eval.sweep.manifest import Manifest


@dataclass(frozen=True)
class Job:
    """id: ARRAY_TASK. state: in Slurm's words. why: what it waits for, where it waits."""

    id: str
    state: str
    why: str


@dataclass(frozen=True)
class Lot:
    """Cells that were sent off together: with which launcher, and when. Without any where its line is damaged."""

    cells: tuple[int, ...] = ()
    launcher: str = ""
    at: float = 0.0

    @staticmethod
    def read(line: bytes) -> "Lot":
        try:
            found = json.loads(line)
            return Lot(tuple(map(int, found["cells"])), str(found["launcher"]), float(found["at"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return Lot()


def submissions(manifest: Manifest) -> list[Lot]:
    """Every lot of cells that was sent off, in order; a damaged one has its place: names of jobs are by number."""
    path = manifest.folder / SUBMISSIONS
    return [Lot.read(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def register(manifest: Manifest, cells: Sequence[int], launcher: str) -> str:
    """Note that these cells are about to be sent off. Returns the name that their jobs are to have."""
    path = manifest.folder / SUBMISSIONS
    number = len(submissions(manifest))
    # a line that was cut short by a crash is ended first
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("ab") as file:
        line = json.dumps({"cells": list(cells), "launcher": launcher, "at": time.time()}).encode()
        file.write(b"\n" * torn + line + b"\n")
    return f"{stem(manifest)}-{number + torn}"


def stem(manifest: Manifest) -> str:
    """How the names of the sweep's jobs begin: sweeps of one name in different folders are told apart."""
    return f"sparq_eval-{hashlib.sha256(str(manifest.folder).encode()).hexdigest()[:10]}"


def queued(manifest: Manifest) -> dict[int, Job] | None:
    """Cells that are in Slurm's queue, waiting or running; None where the queue did not answer."""
    lots = {f"{stem(manifest)}-{number}": lot.cells for number, lot in enumerate(submissions(manifest))}
    if not any(lot.launcher == "slurm" for lot in submissions(manifest)):
        return {}
    command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%j|%F|%K|%T|%r"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return None
    found = {}
    for line in answer.stdout.splitlines():
        name, job, task, state, why = line.split("|", 4)
        cells = lots.get(name)
        if cells is None or state in ENDED:
            continue
        place = int(task) if task.isdigit() else 0
        if place < len(cells):
            found[cells[place]] = Job(f"{job}_{task}" if task.isdigit() else job, state, why)
    return found


ENDED = (
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
)  # and not COMPLETING: so is a job that is requeued


def last_words(manifest: Manifest, job: str) -> str:
    """The last line that a job wrote to its log, if it wrote one."""
    for log in sorted((manifest.folder / ".submitit").glob(f"*/{job}_*log.*") if job else []):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return ""
