"""Sending off what is missing of a sweep, and waiting for it: disk and queue say how it goes, not the launcher."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.sweep.cells import Words, cut, quoted
from sparq_eval.sweep.code import changed, code_of
from sparq_eval.sweep.lease import held, inherited
from sparq_eval.sweep.manifest import Manifest, frozen, write
from sparq_eval.sweep.queue import queued, register
from sparq_eval.sweep.show import plain
from sparq_eval.sweep.status import DONE, LAUNCHER, SUBMIT, look

LOT = 1000  # cells of one array: Slurm refuses more, where MaxArraySize is its default
PATIENCE = 120.0  # seconds for an array to be in the queue
SILENCE = 5.0  # seconds that the launcher may go on after its last cell came to rest


def sweep(arguments: Sequence[str]) -> int:
    """`python -m sparq_eval -m …`: the sweep that these words mean is begun, or gone on with. The exit status."""
    words = Words.of(arguments)
    cells = cut(words)
    name = hashlib.sha256("".join(cell.digest for cell in cells).encode()).hexdigest()[:10]
    manifest = frozen(words.sweep_dir or Path("sweeps").absolute() / name, arguments, cells)
    return resume(manifest, words.launched)


def resume(manifest: Manifest, launched: Sequence[str] = (), new_code: bool = False) -> int:
    """Send off what is neither done nor live, wait until nothing is live, and say how it went.

    launched: words for the launcher, if not those of the sweep's own command.
    """
    if Path.cwd() != manifest.cwd:
        say(f"relative paths begin in {manifest.cwd}, where the sweep was submitted")
    words = tuple(launched) or manifest.words.launched
    launcher = next((word.split("=", 1)[1] for word in reversed(words) if word.startswith("hydra/launcher=")), "basic")
    slurm = launcher in ("slurm", "submitit_slurm")
    if slurm and (size := [word for word in words if word.startswith("hydra.sweeper.max_batch_size=")]):
        raise UserError(f"{size[0]}: on Slurm a lot is one array; hydra.launcher.array_parallelism says how many run")
    with manifest.at_home():
        manifest = accepted(manifest, new_code)
        say(f"sweep {manifest.name}: {len(manifest.cells)} cells in {manifest.folder}")
        tried = set[int]()
        while sent := send(manifest, words, launcher, slurm, tried):
            tried |= set(sent)
    standings = look(manifest)
    print(plain(standings), flush=True)
    return 0 if all(each.state == DONE for each in standings) else 1


def accepted(manifest: Manifest, new_code: bool) -> Manifest:
    """The sweep with the code that is here: that of its submission, or new code that the user wants."""
    now = code_of(manifest.cells, manifest.folder)
    why = changed(manifest.code, now)
    if why is None:
        return manifest
    if not new_code:
        raise UserError(
            f"{manifest.folder}: {why}; go back to that code, or give `python -m sparq_eval.sweep resume "
            f"{manifest.folder} --new-code` to measure what is missing with the code that is here"
        )
    before = [*manifest.code.get("before", ()), {key: manifest.code[key] for key in ("sha256", "commit")}]
    manifest = replace(manifest, code={**now, "before": before})
    write(manifest)
    return manifest


def send(manifest: Manifest, words: Sequence[str], launcher: str, slurm: bool, tried: Collection[int]) -> list[int]:
    """Send off up to LOT of the cells that were not tried, and wait for them. Those that were sent off."""
    # on Slurm the queue soon knows; elsewhere the launcher goes on with the cells if this process is killed
    with held(manifest.folder / SUBMIT, heirs=not slurm) as other:
        if other:
            raise UserError(f"{manifest.folder}: {other} is sending off cells of this sweep; try again when it is done")
        lacking = [each for each in look(manifest, sending=True) if not (each.live or each.state == DONE)]
        missing = [each.cell.number for each in lacking if each.cell.number not in tried][:LOT]
        if not missing:
            child = None
            if not tried:
                say("nothing to send off: every cell is done or live")
        else:
            name = register(manifest, missing, "slurm" if slurm else launcher)
            child = launch(manifest, command(manifest, missing, words, name if launcher != "basic" else ""), slurm)
            if not slurm:
                inherited(manifest.folder / SUBMIT, child.pid)
        try:
            if child and slurm:
                until_queued(manifest, child, missing)
            elif child:
                child.wait()
        except KeyboardInterrupt:
            interrupted(manifest, child)
            return []
    # the queue knows the jobs now: another may send off what it finds missing
    try:
        if slurm:
            wait(manifest, child)
    except KeyboardInterrupt:
        interrupted(manifest, child)
        return []
    return missing


def until_queued(manifest: Manifest, child: subprocess.Popen[bytes], cells: Collection[int]) -> None:
    """Until the queue has one of the cells, which are one array, or the launcher has given up."""
    end = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < end and not set(cells) & set(queued(manifest) or ()):
        time.sleep(0.3)
    if child.poll() not in (None, 0):
        say(f"the launcher gave up: {(manifest.folder / LAUNCHER).read_text(errors='replace').strip()}")


def command(manifest: Manifest, cells: Sequence[int], words: Sequence[str], name: str) -> list[str]:
    folder = quoted(manifest.folder)
    own = [f"cell={','.join(map(str, cells))}", f"sweep_dir='{folder}'", f"hydra.sweep.dir='{folder}'"]
    own += ["hydra.sweep.subdir=cells", *([f"hydra.launcher.name={name}"] if name else [])]
    if not any(word.startswith("hydra.sweeper.max_batch_size=") for word in words) and "hydra/launcher=local" in words:
        own.append("hydra.sweeper.max_batch_size=1")  # submitit would start all of them at once
    return [sys.executable, "-m", "sparq_eval", "-m", *manifest.words.flags, *own, *words]


def launch(manifest: Manifest, words: Sequence[str], quietly: bool) -> subprocess.Popen[bytes]:
    """Hydra and its launcher in a process of their own. quietly: what they say of the queue goes to a file; else they
    inherit the lease.
    """
    if not quietly:
        return subprocess.Popen(words, close_fds=False)
    with (manifest.folder / LAUNCHER).open("wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)


def wait(manifest: Manifest, child: subprocess.Popen[bytes] | None) -> None:
    """Until no cell of the sweep is live, whatever became of the launcher: it may give up on jobs that Slurm runs
    again, and wait for ever for one that died where there is no accounting.
    """
    quiet = time.monotonic()
    pause = 0.5
    while True:
        if any(each.live for each in look(manifest)):
            quiet = time.monotonic()
        elif child is None or child.poll() is not None:
            return
        elif time.monotonic() - quiet > SILENCE:
            child.terminate()
            child.wait()
            return
        time.sleep(pause)
        pause = min(5.0, pause * 1.2)


def interrupted(manifest: Manifest, child: subprocess.Popen[bytes] | None) -> None:
    if child and child.poll() is None:
        child.terminate()
        child.wait()
    say(f"stopped waiting; jobs that were sent off go on: python -m sparq_eval.sweep status {manifest.folder}")
