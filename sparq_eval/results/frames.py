"""Reading a store into two tables. Rows are the truth: numbers are computed from them, not taken from summaries."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.results import disk
from sparq_eval.results.analysis import is_analysis
from sparq_eval.results.bench import is_bench
from sparq_eval.results.prompts import PROMPTS
from sparq_eval.results.record import KINDS, MALFORMED, SCHEMA, Identity, canonical, seal
from sparq_eval.results.rows import parse
from sparq_eval.results.store import RECORD, SAMPLES
from sparq_eval.results.summary import summarise
from sparq_eval.results.variants import name_variants

REPORT = "report"  # the folder in which a report of the results lies beside them
ORDER = ("dense", "sparq", "h2o", "lm_infinite", "flexgen")


@dataclass(frozen=True)
class Frames:
    """records: one row per record, by model, task, variant, method and setting. samples: one row per example, likewise.

    `settings` is JSON with sorted keys; r, k, local are missing where a method has none. `failure` says why a record's
    last attempt did not end well, "" where it did. `variant` is "" unless records of one model and task differ in more
    than method and settings: then each kind has its letter; they do not mix.
    """

    records: pd.DataFrame
    samples: pd.DataFrame


class NoRecords(UserError):
    """A folder without a record of an evaluation."""


class Untrusted(Exception):
    """A folder that looks like a record and cannot be used; the message says why."""


def load(root: Path) -> Frames:
    """All records below `root`. One that does not describe itself is named on standard error and left out; of two that
    are the same setting, measured in two places, that with more rows is read.

    UserError if there is no such folder; NoRecords, which is one, if there is no record in it.
    """
    root = existing(root)
    found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for folder in folders(root):
        try:
            record, rows = read(folder)
        except Untrusted as why:
            left_out(folder, str(why))
            continue
        if twin := found.get(record["key"]):
            more, fewer = sorted([twin, (record, rows)], key=lambda entry: -len(entry[1]))
            left_out(fewer[0]["path"], f"the same record as in {more[0]['path']}, which has no fewer rows")
            record, rows = more
        found[record["key"]] = record, rows
    if not found:
        raise NoRecords(f"results={root}: there is no record in it; give the folder that a run wrote (its results_dir)")
    variants = name_variants([record for record, _ in found.values()])
    entries = [(record | {"variant": variants[record["key"]]}, rows) for record, rows in found.values()]
    entries.sort(key=lambda entry: place(entry[0]))
    return Frames(record_frame(entries), sample_frame(entries))


def existing(root: Path) -> Path:
    """A folder of results. UserError if it is not there."""
    if not Path(root).is_dir():
        raise UserError(f"results={root}: no such folder; give the one that a run wrote (its results_dir)")
    return Path(root)


def folders(root: Path) -> Iterator[Path]:
    """Folders that hold a record; JSON that is of none, and no benchmark's, analysis's or report's, is named."""
    for parent, below, names in os.walk(root):
        # what begins with a dot is no result: what was set aside lies there
        below[:] = sorted(name for name in below if not name.startswith("."))
        folder = Path(parent)
        if RECORD in names:
            yield folder
        for name in sorted(names):
            own = (
                name in (RECORD, PROMPTS)
                or folder.name == REPORT
                or (name == SAMPLES and (RECORD in names or not orphaned(folder / name)))
            )
            if name.endswith((".json", ".jsonl")) and not own and not is_bench(name) and not is_analysis(name):
                left_out(folder / name, "no part of a record")


def orphaned(samples: Path) -> bool:
    """Whether a file of rows lies without its record, which is written before the first row."""
    return samples.is_file() and samples.stat().st_size > 0 and not samples.with_name(RECORD).exists()


def read_record(folder: Path) -> dict[str, Any]:
    """What record.json in `folder` says. Raises Untrusted if it is not what it says it is."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
        schema = content["schema"]
        if schema != SCHEMA:
            raise Untrusted(f"its schema is {schema}, this version reads {SCHEMA}")
        identity, key = Identity(**content["identity"]), content["key"]
        whole = all(isinstance(getattr(identity, field.name), kind_of(field.name)) for field in fields(Identity))
        whole = whole and all(isinstance(run, dict) for run in content["runs"]) and isinstance(content["summary"], dict)
        hashed, sealed, _ = identity.key, content.get("seal") in (None, seal(content)), str(identity.model["name"])
    except (*MALFORMED, OSError) as error:
        raise Untrusted(f"{RECORD} is not a record ({type(error).__name__}: {error})") from error
    if not whole:
        raise Untrusted(f"{RECORD} is not a record (a part of it is of the wrong kind)")
    if key != hashed:
        raise Untrusted("its content does not hash to its key: it was changed by hand or is not ours")
    if not sealed:
        raise Untrusted("it is not as it was written: damaged, or changed by hand")
    return dict(content)


def kind_of(name: str) -> type:
    return str if name in ("task", "method") else dict


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record in `folder` and its rows by index. Raises Untrusted if it is not what it says it is."""
    content = read_record(folder)
    identity, failure = Identity(**content["identity"]), content.get("failure")
    record = {"key": content["key"], "path": folder, "identity": identity, "model": str(identity.model["name"])}
    decoding = content.get("decoding")
    record |= {"decoding": decoding if isinstance(decoding, dict) else {}, "failure": str(failure or "")}
    record |= {"metric": str(content.get("metric")), "higher_is_better": bool(content.get("higher_is_better"))}
    path = folder / SAMPLES
    parsed = parse(settled_bytes(path), record["key"])
    if parsed.unreadable:
        numbers = ", ".join(map(str, parsed.unreadable))
        say(f"warning: {path}: lines {numbers} are not rows as they were written for this record; left out")
    if parsed.torn:
        say(f"warning: {path}: the last line is cut short; left out")
    if not parsed.rows:
        raise Untrusted(f"failed: {failure}" if failure else "it has no rows")
    if failure:
        say(f"warning: {folder}: failed: {failure}; it has {len(parsed.rows)} rows")
    return record, sorted(parsed.rows, key=lambda row: row["index"])


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rows of the record in `folder`, none where there is no such record."""
    try:
        return parse(settled_bytes(folder / SAMPLES), read_record(folder)["key"]).rows
    except Untrusted:
        return []


def settled_bytes(path: Path) -> bytes:
    """A file of rows while nobody is in the midst of an append; as it is where the file system knows no locks."""
    with disk.reading(path) as file:
        return file.read() if file else b""


def left_out(path: Path, why: str) -> None:
    say(f"warning: {path}: {why}; left out")


def place(record: dict[str, Any]) -> tuple[Any, ...]:
    """Where a record stands in a table: dense first, then as in the paper, then by budget."""
    identity: Identity = record["identity"]
    method = identity.method
    known = ORDER.index(method) if method in ORDER else len(ORDER)
    budget = [number if number is not None else math.inf for number in map(identity.settings.get, ("k", "r"))]
    budget = [number if isinstance(number, int | float) else math.inf for number in budget]
    rest = canonical(identity.settings)
    return record["model"], identity.task, record["variant"], known, method, *budget, rest, record["key"]


def record_frame(entries: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> pd.DataFrame:
    lines = []
    for record, rows in entries:
        identity: Identity = record["identity"]
        summary = summarise(rows)
        numbers = {name: whole(identity.settings.get(name)) for name in ("r", "k", "local")}
        lines.append(
            {
                **{"model": record["model"], "task": identity.task, "variant": record["variant"]},
                **{"method": identity.method, "settings": json.dumps(identity.settings, sort_keys=True), **numbers},
                **{"metric": record["metric"], "higher_is_better": record["higher_is_better"]},
                **{"value" if name == "score" else name: number for name, number in summary.items()},
                **{"milliseconds": milliseconds(record["decoding"]), "backend": record["decoding"].get("backend")},
                # a method that never left anything out has not been evaluated, whatever it scored
                **{"active": identity.method == "dense" or summary["layers_active"] > 0},
                **{"failure": record["failure"], "key": record["key"], "path": str(record["path"])},
            }
        )
    return pd.DataFrame(lines).astype(dict.fromkeys(("r", "k", "local"), "Int64"))


def milliseconds(decoding: dict[str, Any]) -> float:
    """Of a decode step with a setting alone; nan where it was not timed."""
    seconds = decoding.get("seconds")
    return seconds * 1e3 if isinstance(seconds, int | float) and not isinstance(seconds, bool) else math.nan


def whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def sample_frame(entries: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "task", "variant", "method", "settings", "key")}
    for record, rows in entries:
        identity: Identity = record["identity"]
        settings = json.dumps(identity.settings, sort_keys=True)
        names = (record["model"], identity.task, record["variant"], identity.method, settings, record["key"])
        for name, value in zip(columns, names, strict=True):
            columns[name].extend([value] * len(rows))
    every = [row for _, rows in entries for row in rows]
    values = {name: [row[name] for row in every] for name in KINDS}
    values |= {name: list(map(encodable, values[name])) for name, kind in KINDS.items() if kind is str}
    frame = pd.DataFrame(columns | values)
    return frame.astype({name: kind for name, kind in KINDS.items() if kind is float})


def encodable(text: str) -> str:
    """A lone surrogate is no character, and tables cannot hold it: it becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
