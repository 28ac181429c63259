"""What a job does with its cell: hold it, see that the code is that of the sweep, measure, say how it ended."""

import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.evaluate.isolate import reason, stops_the_job
from sparq_eval.evaluate.plan import Cell as Planned
from sparq_eval.evaluate.plan import look_ahead
from sparq_eval.evaluate.run import carry_out
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.overrides import PACKAGE
from sparq_eval.progress import say
from sparq_eval.results.store import Entry
from sparq_eval.sweep.cells import Cell
from sparq_eval.sweep.code import changed, code_of
from sparq_eval.sweep.lease import held, me
from sparq_eval.sweep.manifest import Manifest, put, read

STATE, TODO = "state.json", "todo.json"


def work(folder: Path, number: int) -> None:
    """Measure what is missing of a cell of the sweep in `folder`. How it ended is on disk, not in what is raised."""
    manifest = read(folder)
    if not 0 <= number < len(manifest.cells):
        raise UserError(f"cell={number}: the sweep in {folder} has cells 0 to {len(manifest.cells) - 1}")
    cell = manifest.cells[number]
    place = manifest.place(cell)
    with held(place) as other:
        if other:
            say(f"cell {cell.name}: {other} works on it: nothing left to do here")
            return
        began = time.time()
        try:
            with manifest.at_home():
                if why := changed(manifest.code, code_of(manifest.cells, manifest.folder)):
                    end(place, began, "refused", f"{why}; `sweep resume --new-code` measures what is missing with it")
                    return
                entries = measure(manifest, cell, place)
        except UserError as error:
            end(place, began, "failed", str(error))
        except Exception as error:  # whatever it was, whoever looks at the sweep must find it
            if stops_the_job(error):
                # the last of its time limits is an end; a requeue that was refused is none: Slurm was first with it
                if not isinstance(error, subprocess.CalledProcessError):
                    end(place, began, "failed", reason(error))
                raise
            end(place, began, "failed", reason(error))
            traceback.print_exc()
        else:
            failed = [(entry, entry.failure) for entry in entries if entry.failure]
            why = "; ".join(f"{entry.path.name}: {reason}" for entry, reason in failed[:3])
            if failed:
                why = f"{len(failed)} of {len(entries)} settings failed: {why}{'; …' if len(failed) > 3 else ''}"
            end(place, began, "failed" if failed else "done", why)


def measure(manifest: Manifest, cell: Cell, place: Path) -> list[Entry]:
    # records name the command that the sweep was made by, not that of the queue's own script
    sys.argv = [str(PACKAGE / "__main__.py"), *manifest.command]
    settings = read_settings(cell.config)
    planned = look_ahead(settings)
    entries = [(entry, samples_of(each)) for each in planned.cells for entry in each.entries]
    todo = {
        "began": time.time(),
        "rows": sum(min(len(entry.indices()), samples) for entry, samples in entries),
        "records": [{"path": str(entry.path), "samples": samples} for entry, samples in entries],
    }
    put(place / TODO, todo)
    carry_out(planned, settings)
    return [entry for entry, _ in entries]


def samples_of(cell: Planned) -> int:
    """Examples of a cell; one may have several requests."""
    return len({request.index for request in cell.requests})


def end(place: Path, began: float, state: str, why: str = "") -> None:
    """Write down how the cell ended."""
    holder = asdict(me())
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    put(place / STATE, {"state": state, "reason": why, "at": at, "seconds": time.time() - began, "holder": holder})
    say(f"cell {place.name}: {state}{': ' if why else ''}{why}")
