"""Reading samples.jsonl: complete lines become rows, anything else is left where it is and reported."""

import json
from dataclasses import dataclass
from typing import Any

from sparq_eval.results.record import KINDS, OPTIONAL, intact, seed_of

NUMBERS = {int, float, type(None)}
MOST = 2**63
NUMERIC = tuple(name for name, kind in KINDS.items() if kind in (int, float))
ALLOWED: dict[str, set[type]] = {name: NUMBERS if kind is float else {kind} for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Parsed:
    """rows: one per example, the first of each index, in the file's order; null stays None. unreadable: the numbers of
    lines that are no rows as they were written for this record.

    torn: bytes after the last line end: a write that was cut short, or one that is going on.
    """

    rows: list[dict[str, Any]]
    unreadable: list[int]
    torn: int

    @property
    def indices(self) -> set[int]:
        return {row["index"] for row in self.rows}


def parse(content: bytes, key: str) -> Parsed:
    """key: of the record that the rows are to be of."""
    seed, end = seed_of(key), content.rfind(b"\n") + 1
    lines = content[:end].split(b"\n")[:-1]
    rows, unreadable = together(lines, seed), list[int]()
    if rows is None:
        apart = [alone(line, seed) for line in lines]
        rows = [row for row in apart if row is not None]
        unreadable = [number for number, row in enumerate(apart, start=1) if row is None]
    first: dict[int, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["index"], row)
    return Parsed(list(first.values()), unreadable, len(content) - end)


def together(lines: list[bytes], seed: int) -> list[dict[str, Any]] | None:
    """All lines in one call, several times as fast as one by one; None if any of them is not a row."""
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        return None
    return rows if len(rows) == len(lines) and are_rows(rows, lines, seed) else None


def alone(line: bytes, seed: int) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if are_rows([row], [line], seed) else None


def are_rows(values: list[Any], lines: list[bytes], seed: int) -> bool:
    """Whether each is an object with a row's fields, of a row's types, and its line as it was written. Checksums are
    taken off, what may be missing is filled in.
    """
    if not all(isinstance(value, dict) for value in values):
        return False
    if not all(intact(line, value, seed) for line, value in zip(lines, values, strict=True)):
        return False
    for value in values:
        value.pop("crc", None)
        for name, default in OPTIONAL.items():
            value.setdefault(name, default)
    if not all(value.keys() == KINDS.keys() for value in values):
        return False
    if not all({type(value[name]) for value in values} <= allowed for name, allowed in ALLOWED.items()):
        return False
    # what no measurement gives, sums and tables cannot hold; nan is outside too
    return all(-MOST < value[name] < MOST for name in NUMERIC for value in values if value[name] is not None)
