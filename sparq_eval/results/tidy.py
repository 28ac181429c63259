"""What lies in a folder of results and is no result: left by crashes, set aside, or tried in vain."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sparq_eval.results import disk
from sparq_eval.results.frames import Untrusted, existing, read_record
from sparq_eval.results.prompts import PROMPTS
from sparq_eval.results.store import RECORD, SAMPLES, TORN
from sparq_eval.results.verify import ASIDE

# what is written under the lock of which file
LOCKED = {RECORD: SAMPLES, SAMPLES: SAMPLES, PROMPTS: PROMPTS}


def rubbish(root: Path, failed: bool = False) -> list[tuple[Path, str]]:
    """Files and folders that can go, and why. failed: also records of settings that failed before any row.

    UserError if there is no such folder.
    """
    found = []
    for parent, below, _ in os.walk(existing(root)):
        folder = Path(parent)
        if ASIDE in below:
            found.append((folder / ASIDE, "was set aside"))
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += halves(folder)
        with disk.reading(folder / SAMPLES):
            if (folder / TORN).exists() and any((folder / name).exists() for name in (RECORD, PROMPTS)):
                found.append((folder / TORN, "lines that were cut short and measured again"))
            if why := in_vain(folder, failed):
                found.append((folder, why))
    return found


def halves(folder: Path) -> Iterator[tuple[Path, str]]:
    """Writes that ended before what they wrote was put in its place."""
    for name, lock in LOCKED.items():
        aside = disk.aside_of(folder / name)
        if aside.exists():
            with disk.reading(folder / lock):
                if aside.exists():
                    yield aside, f"half of {name}: the write was interrupted"


def in_vain(folder: Path, failed: bool) -> str | None:
    """Why a record's folder holds nothing, if it does; failed: a failure without rows is nothing."""
    samples = folder / SAMPLES
    if samples.exists() and samples.stat().st_size:
        return None
    if samples.exists() and not (folder / RECORD).exists():
        return "begun and left before anything was recorded"
    return "failed before any row" if failed and is_failed(folder) else None


def is_failed(folder: Path) -> bool:
    try:
        return "failure" in read_record(folder)
    except Untrusted:
        return False


def remove(path: Path, failed: bool = False) -> bool:
    """Remove what was found; False if it is being written, or is something by now."""
    if path.name == ASIDE:
        shutil.rmtree(path)
        return True
    written = path.name.removeprefix(".").removesuffix(".aside")
    lock = path / SAMPLES if path.is_dir() else path.with_name(LOCKED.get(written, SAMPLES))
    there = lock.exists()
    try:
        with disk.writing(lock, wait=False):
            if not path.is_dir():
                path.unlink(missing_ok=True)
                if not (there or lock.stat().st_size):
                    lock.unlink()
            elif in_vain(path, failed):
                for name in (disk.aside_of(path / RECORD).name, RECORD, TORN, SAMPLES):
                    (path / name).unlink(missing_ok=True)
                # another process may have begun it again, or laid something there
                with suppress(OSError):
                    path.rmdir()
            else:
                return False
    except BlockingIOError:
        return False
    return True
