"""The record of an analysis: what the attention scores, queries, keys and values of a model look like on a task."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from sparq_eval.results.record import safe
from sparq_eval.results.whole import key_of, load_whole, read_whole, require_keys, write_whole

SCHEMA = 1
NAME = re.compile(r"analysis-.+-([0-9a-f]{12})\.json")
PARTS = ("mass", "queries", "agreement", "coverage", "correlation")


@dataclass(frozen=True)
class Analysis:
    """One analysis of one model on one task. ValueError if it could not be read back as it is.

    model: {"name", layers, heads, groups, head_size, …} and what tells its weights apart. data: of the task. protocol:
    examples, dtype, and what was chosen: top, rs, ks, k, positions. prompts: how many, and their lengths in tokens.
    machine: at least {"device"}. when: ISO 8601. statistics: by name, those of `PARTS`; arrays are lists.
    """

    model: dict[str, Any]
    task: str
    data: dict[str, Any]
    protocol: dict[str, Any]
    prompts: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, Any]
    git: str
    command: str
    when: str
    statistics: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("task", "git", "command", "when"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r}: text is needed")
        for name, inner in NEEDED.items():
            value = getattr(self, name)
            if not isinstance(value, dict):
                raise ValueError(f"{name}={value!r}: an object is needed")
            if missing := [key for key in inner if key not in value]:
                raise ValueError(f"{name}.{missing[0]} is missing")
        for key in ("layers", "heads", "groups", "head_size"):
            if not isinstance(self.model[key], int) or self.model[key] < 1:
                raise ValueError(f"model.{key}={self.model[key]!r}: a whole number of at least 1 is needed")
        try:
            datetime.fromisoformat(self.when)
        except ValueError:
            raise ValueError(f"when={self.when!r}: an ISO date and time is needed, 2024-01-31T12:00:00+00:00") from None

    @property
    def name(self) -> str:
        """The model's."""
        return str(self.model["name"])

    @property
    def content(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {"schema": SCHEMA, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @property
    def key(self) -> str:
        """The first 12 digits of the sha256 of the content's canonical JSON."""
        return key_of(self.content)

    def save(self, folder: Path) -> Path:
        """Write the record into `folder`, in one step, under a name that its content decides."""
        path = Path(folder) / f"analysis-{safe(self.name)}-{self.key}.json"
        return write_whole(path, lines(self.content).encode())


NEEDED = {
    "model": ("name", "layers", "heads", "groups", "head_size"),
    "data": (),
    "protocol": ("top", "rs", "ks", "k", "positions"),
    "prompts": ("count",),
    "machine": ("device",),
    "versions": (),
    "statistics": PARTS,
}


def lines(content: Mapping[str, Any]) -> str:
    """JSON with a line for each thing that a reader may look for, not for each number of it."""
    rows = []
    for name, value in content.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(own, allow_nan=False)}" for key, own in value.items())
            rows.append(f" {json.dumps(name)}: {{\n{inner}\n }}")
        else:
            rows.append(f" {json.dumps(name)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(rows) + "\n}\n"


def compact(value: Any, digits: int = 6) -> Any:
    """Statistics as JSON holds them: arrays as lists, numbers to so many digits, not-a-number as null."""
    if isinstance(value, Mapping):
        return {str(key): compact(item, digits) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [compact(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def is_analysis(name: str) -> bool:
    """Whether a file's name is that of an analysis's record."""
    return NAME.fullmatch(name) is not None


def read_analysis(path: Path) -> Analysis:
    """The record at `path`. UserError, in one sentence, if it is not one or was changed since it was written."""
    return read_whole(path, "an analysis", SCHEMA, NAME, build)


def build(content: dict[str, Any]) -> Analysis:
    require_keys(content, {field.name for field in fields(Analysis)})
    return Analysis(**content)


def load_analyses(root: Path) -> list[Analysis]:
    """The records of analyses below `root`, see `load_whole`."""
    return load_whole(root, NAME, read_analysis)
