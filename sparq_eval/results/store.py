"""Writing records: rows are appended under a lock and never redone, the record beside them is replaced in one step.

A crash at any point loses at most the rows of the append it hit; many processes may write the same entry.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results import disk
from sparq_eval.results.record import MALFORMED, SCHEMA, Identity, Row, plain, seal
from sparq_eval.results.rows import Parsed, parse
from sparq_eval.results.summary import lags, summarise

RECORD, SAMPLES, TORN = "record.json", "samples.jsonl", "samples.torn"
TOTALS: dict[str, Callable[[list[float]], float]] = {"seconds": sum, "peak_memory": max}


class Store:
    """A folder of records. It is made when first written to; UserError if it could not be."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        there = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"results_dir={root}: {there} is not a folder that you may write to; choose another")

    def open(self, identity: Identity, *, metric: str, higher_is_better: bool) -> "Entry":
        """The entry of this identity, as it is or empty; nothing is written unless a crash left it half recorded."""
        return Entry(self.root, identity, metric=metric, higher_is_better=higher_is_better)


class Entry:
    """The rows measured so far under one identity, at `path`."""

    def __init__(self, root: Path, identity: Identity, *, metric: str, higher_is_better: bool) -> None:
        self.path, self.key = root / identity.folder, identity.key
        self.blank = {
            "schema": SCHEMA,
            "key": self.key,
            "identity": plain(asdict(identity)),
            "metric": metric,
            "higher_is_better": higher_is_better,
            "summary": plain(summarise([])),
            "runs": [],
        }
        recorded, rows = self.record(), self.parsed().rows
        # rows only ever become more: fewer of them mean that someone took them away
        self.seen = len(rows)
        if lags(recorded["summary"], rows):
            with self.locked() as samples:
                parsed = repair(samples, self.path, self.key)
                self.write(settled(self.record(), parsed), parsed)

    def indices(self) -> set[int]:
        """The examples already measured."""
        return self.parsed().indices

    def rows(self) -> list[Row]:
        """What was measured, by index; null reads as not-a-number."""
        return sorted((Row.read(row) for row in self.parsed().rows), key=lambda row: row.index)

    def append(self, rows: Sequence[Row], run: Mapping[str, Any]) -> None:
        """Add the rows whose index is not there yet, and say in the record which run they came from.

        run: JSON values (others are stored as text): config, versions, commit, device, started, command, … Appends
        whose run is the same but for `seconds` (added up) and `peak_memory` (the largest) count as one run.
        """
        with self.locked() as samples:
            parsed = repair(samples, self.path, self.key)
            fresh = {row.index: row for row in reversed(rows) if row.index not in parsed.indices}
            record = settled(self.record(), parsed)
            if len(parsed.rows) < self.seen:
                raise UserError(
                    f"{self.path}: {self.seen - len(parsed.rows)} rows that were written are gone: the folder was "
                    "deleted or changed while the run went on; the same command again measures what is missing"
                )
            if fresh:
                record.pop("failure", None)
                current, known = join_run(record["runs"], plain(run))
                if not known:
                    # rows must never lie there without their record, whenever the power goes
                    self.write(record, parsed)
                samples.write(b"".join(row.line(self.key) for row in reversed(fresh.values())))
                disk.keep(samples)
                current["samples"] += len(fresh)
                parsed = repair(samples, self.path, self.key)
            self.write(record, parsed)
            self.seen = len(parsed.rows)

    @property
    def failure(self) -> str | None:
        """Why the last attempt to measure this did not end well, if it did not."""
        failure = self.record().get("failure")
        return None if failure is None else str(failure)

    def fail(self, why: str, run: Mapping[str, Any] | None = None) -> None:
        """Say in the record why this could not be measured. Rows stay; the next append takes the failure back.

        run: where none of its rows were measured, the run that tried.
        """
        if self.failure == why:
            return
        with self.locked() as samples:
            parsed, record = repair(samples, self.path, self.key), self.record()
            if run is not None:
                join_run(record["runs"], plain(run))
            self.write(record | {"failure": why}, parsed)

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Say something of the setting in its record, beside its rows."""
        with self.locked() as samples:
            self.write(self.record() | {name: plain(value)}, repair(samples, self.path, self.key))

    def parsed(self) -> Parsed:
        path = self.path / SAMPLES
        return parse(path.read_bytes() if path.exists() else b"", self.key)

    def record(self) -> dict[str, Any]:
        """The record as it is on disk, or a blank one. UserError if what lies there describes something else."""
        path = self.path / RECORD
        if not path.exists():
            return {**self.blank, "runs": []}
        try:
            record = json.loads(path.read_bytes())
            same = all(record[name] == self.blank[name] for name in ("schema", "key", "identity", "metric"))
            described = same and isinstance(record["runs"], list) and isinstance(record["summary"], dict)
            described = described and record.get("seal") in (None, seal(record))
        except MALFORMED:
            described = False
        if not described:
            raise UserError(
                f"{path}: its content does not describe what its folder was made for; move {self.path} away"
            )
        return dict(record)

    def write(self, record: Mapping[str, Any], parsed: Parsed) -> None:
        """Replace the record by one with a fresh summary; a reader sees the old one or the new one. Needs the lock."""
        content = {**record, "summary": plain(summarise(parsed.rows)), "seal": seal(record)}
        disk.replace(self.path / RECORD, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")

    @contextmanager
    def locked(self) -> Iterator[BinaryIO]:
        """The file of rows, open for reading and appending, for this process alone. UserError if it cannot be."""
        try:
            with disk.writing(self.path / SAMPLES) as samples:
                yield samples
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error.strerror}); what is there is kept") from error


def settled(record: dict[str, Any], parsed: Parsed) -> dict[str, Any]:
    """The record, in which rows that a crash left uncounted are those of the last run."""
    runs = record["runs"]
    if runs and (uncounted := len(parsed.rows) - sum(run.get("samples", 0) for run in runs)) > 0:
        runs[-1]["samples"] = runs[-1].get("samples", 0) + uncounted
    return record


def join_run(runs: list[dict[str, Any]], run: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The entry of `runs` that `run` belongs to, its seconds and memory updated, and whether it was there before."""

    def described(run: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in run.items() if name not in TOTALS and name != "samples"}

    for other in runs:
        if described(other) == described(run):
            for name, total in TOTALS.items():
                values = [one[name] for one in (other, run) if one.get(name) is not None]
                if values:
                    other[name] = total(values)
            return other, True
    runs.append({**run, "samples": 0})
    return runs[-1], False


def repair(samples: BinaryIO, folder: Path, key: str) -> Parsed:
    """Parse the rows; a last line without an end is moved aside, to be measured again. Needs the lock."""
    samples.seek(0)
    content = samples.read()
    parsed = parse(content, key)
    if parsed.torn:
        disk.add_lines(folder / TORN, [content[-parsed.torn :]])
        samples.truncate(len(content) - parsed.torn)
        disk.keep(samples)
        say(f"{folder / SAMPLES}: the last line was cut short; it is moved to {TORN} and that example measured again")
    return parsed


def rewrite(folder: Path, key: str) -> None:
    """Move lines that are no rows of the record of this key out of the file of rows, to be measured again."""
    with disk.writing(folder / SAMPLES) as samples:
        samples.seek(0)
        lines = samples.read().split(b"\n")
        good = [bool(parse(line + b"\n", key).rows) for line in lines[:-1]] + [False]
        # aside first: a crash between the two leaves a line in both files, and none in neither
        disk.add_lines(folder / TORN, [line for line, is_row in zip(lines, good, strict=True) if line and not is_row])
        disk.replace(folder / SAMPLES, b"".join(line + b"\n" for line in compress(lines, good)))
