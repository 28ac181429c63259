"""What lies in a folder of results and is no result: left by crashes, set aside, or tried in vain."""

import os
import shutil
from pathlib import Path

from sparq_eval.results import disk
from sparq_eval.results.frames import Untrusted, read_record
from sparq_eval.results.prompts import PROMPTS
from sparq_eval.results.store import RECORD, SAMPLES, TORN
from sparq_eval.results.verify import ASIDE


def rubbish(root: Path, failed: bool = False) -> list[tuple[Path, str]]:
    """Files and folders that can go, and why. failed: also records of settings that failed before any row."""
    found = []
    for parent, below, names in os.walk(root):
        folder = Path(parent)
        if ASIDE in below:
            found.append((folder / ASIDE, "was set aside"))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in (RECORD, SAMPLES, PROMPTS):
            if (aside := disk.aside_of(folder / name)).name in names:
                found.append((aside, f"half of {name}: the write was interrupted"))
        if RECORD in names and TORN in names:
            found.append((folder / TORN, "lines that were cut short and measured again"))
        if SAMPLES in names and RECORD not in names and not (folder / SAMPLES).stat().st_size:
            found.append((folder, "begun and left before anything was recorded"))
        if failed and RECORD in names and is_failed(folder):
            found.append((folder, "failed before any row"))
    return found


def is_failed(folder: Path) -> bool:
    try:
        record = read_record(folder)
    except Untrusted:
        return False
    samples = folder / SAMPLES
    return "failure" in record and not (samples.exists() and samples.stat().st_size)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
