"""Records that are one file each: written whole or not at all, named by what they hold, read back as they were."""

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results.record import MALFORMED, digest


class Whole(Protocol):
    """when: ISO 8601."""

    @property
    def key(self) -> str: ...

    @property
    def when(self) -> str: ...


T = TypeVar("T", bound=Whole)


def key_of(content: Mapping[str, Any]) -> str:
    """The first 12 digits of the sha256 of the content's canonical JSON."""
    return digest(content)[:12]


def read_whole(path: Path, what: str, schema: int, name: re.Pattern[str], build: Callable[[dict[str, Any]], T]) -> T:
    """The record at `path`. UserError, in one sentence, if it is not one or was changed since it was written.

    what: its kind, as in `no record of a benchmark`. name: its file's, the key its first group. build: makes the record
    of a content without its schema; ValueError or TypeError for one that it cannot be made of.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("an object is needed")
        if content.get("schema") != schema:
            raise ValueError(f"schema={content.get('schema')!r}: this version reads {schema}")
        record = build({key: value for key, value in content.items() if key != "schema"})
        named = name.fullmatch(path.name)
        if named and named[1] != record.key:
            raise ValueError(f"its content hashes to {record.key}, not to its name: it was changed by hand")
        moment(record.when)
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror})") from error
    except MALFORMED as error:
        raise UserError(f"{path}: no record of {what}: {error}") from error
    return record


def require_keys(content: Mapping[str, Any], names: set[str], optional: frozenset[str] = frozenset()) -> None:
    """ValueError if the content has other keys, or lacks one that is not optional."""
    if content.keys() | optional != names:
        raise ValueError(f"its keys must be {', '.join(sorted(names))}; got {', '.join(sorted(content))}")


def load_whole(root: Path, name: re.Pattern[str], read: Callable[[Path], T]) -> list[T]:
    """The records below `root` whose files are named so, oldest first. One that cannot be read is named on standard
    error and left out; one that lies there twice counts once. What was set aside, in a hidden folder, is not looked at.
    """
    found: dict[str, T] = {}
    for parent, below, names in os.walk(root):
        below[:] = sorted(folder for folder in below if not folder.startswith("."))
        for own in filter(name.fullmatch, sorted(names)):
            try:
                record = read(Path(parent) / own)
            except UserError as error:
                say(f"warning: {error}; left out")
            else:
                found.setdefault(record.key, record)
    return sorted(found.values(), key=lambda record: (moment(record.when), record.key))


def moment(when: str) -> float:
    """ISO date and time as seconds since 1970."""
    return datetime.fromisoformat(when).timestamp()


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` in one step: a reader sees the old file or the new one. UserError if it cannot be written."""
    aside = path.parent / f".{path.name}.{os.getpid()}.aside"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        place = os.open(path.parent, os.O_RDONLY)
        os.fsync(place)
        os.close(place)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); choose another folder") from error
    return path
