"""Who works on a cell: a lock that dies with its process, and beside it in words who holds it."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sparq_eval.errors import UserError

LEASE = "lease"


@dataclass(frozen=True)
class Holder:
    """job: the queue's name for it, ARRAY_TASK; empty where there is no queue. restart: how often it was requeued."""

    job: str
    restart: int
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{f'job {self.job}' if self.job else f'process {self.pid}'} on {self.host} since {self.since}"


def me() -> Holder:
    env = os.environ
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else env.get("SLURM_JOB_ID", "")
    since = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Holder(job, int(env.get("SLURM_RESTART_COUNT", 0)), socket.gethostname(), os.getpid(), since)


@contextmanager
def held(place: Path, patience: float = 2.0, heirs: bool = False) -> Iterator[Holder | None]:
    """Hold the cell's lease for the block and yield None, or yield who else holds it. UserError if it cannot be
    written.

    A job that was requeued waits for its own former self, which may still run while the queue ends it: it is the one
    that must go on. Others have `patience` with a lease that may only have been looked at.

    heirs: whether processes that are started with this one's files open hold it too, as long as one of them lives.
    """
    own, end = me(), time.monotonic() + patience
    with refusing(place):
        place.mkdir(parents=True, exist_ok=True)
        (place / LEASE).touch()
    with (place / LEASE).open("a+b", buffering=0) as file:
        os.set_inheritable(file.fileno(), heirs)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                other = written(place)
                if time.monotonic() > end and not (own.job and other and other.job == own.job):
                    yield other or Holder("", 0, "an unknown host", 0, "just now")
                    return
                time.sleep(0.2)
        with refusing(place):
            file.truncate(0)
            file.write(json.dumps(asdict(own)).encode())
        yield None


def inherited(place: Path, pid: int) -> None:
    """Say of a lease that is held here that a process of ours, which inherited it, is the one to ask for."""
    with refusing(place):
        (place / LEASE).write_text(json.dumps(asdict(replace(me(), pid=pid))), encoding="utf-8")


@contextmanager
def refusing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{place / LEASE}: could not be written ({error.strerror})") from error


def written(place: Path) -> Holder | None:
    """Who last held the lease, alive or not."""
    try:
        return Holder(**json.loads((place / LEASE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def holder(place: Path) -> Holder | None:
    """Who holds the lease now. It is taken for an instant where nobody does."""
    try:
        with (place / LEASE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return written(place) or Holder("", 0, "an unknown host", 0, "just now")
