"""Files that several processes write: locked, flushed to the disk, replaced in one step."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def writing(path: Path, wait: bool = True) -> Iterator[BinaryIO]:
    """The file at `path`, made if it is not there, open for reading and appending, for this process alone.

    OSError if it cannot be; BlockingIOError where it is not waited for and another process has it.
    """
    # flock, not lockf: it also holds between threads, and Linux passes it on to a file server
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+b")
        except FileNotFoundError:
            if path.parent.is_dir():
                raise
            continue
        with file:
            fcntl.flock(file, how)
            if lies_at(file, path):
                yield file
                return


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO | None]:
    """The file at `path` while nobody writes it, None where there is none; unlocked if the file system has no locks."""
    while True:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            break
        with file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)
            if lies_at(file, path):
                yield file
                return
    yield None


def lies_at(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still leads to this file: whoever had the lock may have put another in its place, or taken it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def replace(path: Path, content: bytes) -> None:
    """Put a file of this content at `path`, in one step: a reader sees the old one or the new one. Needs the lock."""
    aside = aside_of(path)
    with aside.open("wb") as file:
        file.write(content)
        keep(file)
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def aside_of(path: Path) -> Path:
    """Where what will be at `path` is written first; what lies there while nobody has the lock is half a file."""
    return path.with_name(f".{path.name}.aside")


def add_lines(path: Path, lines: list[bytes]) -> None:
    """Append lines, and have them on disk."""
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))
        keep(file)


def keep(file: BinaryIO) -> None:
    """Flush `file` to the disk."""
    file.flush()
    os.fsync(file.fileno())
