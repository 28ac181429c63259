"""The record of a benchmark run: its timed rows with the machine, that machine's ceilings, and what made it."""

import json
import re
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sparq_eval.results.bench_rows import KINDS, BenchRow, read_row
from sparq_eval.results.record import plain, safe
from sparq_eval.results.whole import key_of, load_whole, read_whole, require_keys, write_whole

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
        return key_of(self.content)

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
    return read_whole(path, "a benchmark", SCHEMA, NAME, build)


def build(content: dict[str, Any]) -> Bench:
    require_keys(content, {field.name for field in fields(Bench)}, optional=frozenset({"note"}))
    if content["kind"] not in KINDS or not isinstance(content["rows"], list):
        raise ValueError(f"kind={content['kind']!r} must be one of {', '.join(KINDS)}, and rows a list")
    rows = tuple(read_row(content["kind"], place, row) for place, row in enumerate(content["rows"]))
    return Bench(**content | {"rows": rows})


def load_benches(root: Path) -> list[Bench]:
    """The records of benchmarks below `root`, see `load_whole`."""
    return load_whole(root, NAME, read)
