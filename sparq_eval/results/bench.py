"""The record of a benchmark run: its timed rows with the machine, that machine's ceilings, and what made it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results.bench_rows import KINDS, BenchRow, read_row
from sparq_eval.results.record import canonical, plain, safe
from sparq_eval.results.whole import write_whole

SCHEMA = 1
CEILINGS = ("copy", "matmul")
NAME = re.compile(r"bench-.+-([0-9a-f]{12})\.json")


@dataclass(frozen=True)
class Bench:
    """One run. ValueError if it could not be read back as it is.

    kind: `attention` or `decode`, which says what the rows are. machine: at least {"device": its name}; also memory
    (bytes), threads. versions: of the packages that were timed. when: ISO 8601. ceilings: what this machine was
    measured to reach, {"copy": bytes/s, "matmul": flop/s}, None where it was not measured. note: why rows that the
    command asks for are missing, "" where none are.
    """

    kind: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    git: str
    command: str
    when: str
    ceilings: dict[str, float | None]
    rows: tuple[BenchRow, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: one of {', '.join(KINDS)} is needed")
        for name in ("git", "command", "when", "note"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r}: text is needed")
        for name in ("machine", "versions", "ceilings"):
            value = getattr(self, name)
            if not isinstance(value, dict) or plain(value) != value:
                raise ValueError(f"{name}={value!r}: an object of JSON values is needed")
        if not (isinstance(self.machine.get("device"), str) and self.machine["device"]):
            raise ValueError(f"machine.device={self.machine.get('device')!r}: the device's name is needed")
        for name in CEILINGS:
            self.check_ceiling(name)
        try:
            datetime.fromisoformat(self.when)
        except ValueError:
            raise ValueError(f"when={self.when!r}: an ISO date and time is needed, 2024-01-31T12:00:00+00:00") from None
        for place, row in enumerate(self.rows):
            if not isinstance(row, KINDS[self.kind]):
                raise ValueError(f"rows[{place}]: a {type(row).__name__} is no row of kind {self.kind}")

    def check_ceiling(self, name: str) -> None:
        value = self.ceilings.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if name not in self.ceilings or not (value is None or number):
            raise ValueError(f"ceilings.{name}={value!r}: a positive number, or null if it was not measured, is needed")

    @property
    def content(self) -> dict[str, Any]:
        """The record as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "note" or self.note}
        return {"schema": SCHEMA, **values, "rows": [row.values for row in self.rows]}

    @property
    def key(self) -> str:
        """The first 12 digits of the sha256 of the content's canonical JSON."""
        return hashlib.sha256(canonical(self.content).encode()).hexdigest()[:12]

    def save(self, folder: Path) -> Path:
        """Write the record into `folder`, in one step, under a name that its content decides."""
        name = f"bench-{self.kind}-{safe(self.machine['device'])}-{self.key}.json"
        content = json.dumps(self.content, indent=1, allow_nan=False).encode() + b"\n"
        return write_whole(Path(folder) / name, content)


def is_bench(name: str) -> bool:
    """Whether a file's name is that of a benchmark's record."""
    return NAME.fullmatch(name) is not None


def read(path: Path) -> Bench:
    """The record at `path`. UserError, in one sentence, if it is not one or was changed since it was written."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("an object is needed")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"schema={content.get('schema')!r}: this version reads {SCHEMA}")
        names = {"schema", *(field.name for field in fields(Bench))}
        if content.keys() | {"note"} != names:
            raise ValueError(f"its keys must be {', '.join(sorted(names))}; got {', '.join(sorted(content))}")
        if content["kind"] not in KINDS or not isinstance(content["rows"], list):
            raise ValueError(f"kind={content['kind']!r} must be one of {', '.join(KINDS)}, and rows a list")
        rows = tuple(read_row(content["kind"], place, row) for place, row in enumerate(content["rows"]))
        bench = Bench(**{name: content[name] for name in content.keys() - {"schema", "rows"}}, rows=rows)
        named = NAME.fullmatch(path.name)
        if named and named[1] != bench.key:
            raise ValueError(f"its content hashes to {bench.key}, not to its name: it was changed by hand")
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: no record of a benchmark: {error}") from error
    return bench


def load_benches(root: Path) -> list[Bench]:
    """The records of benchmarks below `root`, oldest first. One that cannot be read is named on standard error and
    left out; one that lies there twice counts once.
    """
    found: dict[str, Bench] = {}
    for path in paths(Path(root)):
        try:
            bench = read(path)
        except UserError as error:
            say(f"warning: {error}; left out")
        else:
            found.setdefault(bench.key, bench)
    return sorted(found.values(), key=lambda bench: (moment(bench.when), bench.key))


def moment(when: str) -> float:
    """ISO date and time as seconds since 1970."""
    return datetime.fromisoformat(when).timestamp()


def paths(root: Path) -> Iterator[Path]:
    for parent, below, names in os.walk(root):
        below.sort()
        yield from (Path(parent) / name for name in sorted(names) if is_bench(name))
