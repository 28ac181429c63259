"""What a record is: the identity that everything measured under it shares, and one row per example."""

import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

SCHEMA = 2
# what reading a file raises that is damaged or not ours
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Identity:
    """Everything an answer depends on, as JSON values. Two runs share a record exactly if their identities are equal.

    model: at least {"name": …}, and what tells its weights apart (sha256 or revision). data: data set, its revision or
    sha256, task version. protocol: prompt, stop, truncation, dtype, device type. versions: of the packages used.
    """

    model: dict[str, Any]
    task: str
    data: dict[str, Any]
    method: str
    settings: dict[str, Any]
    protocol: dict[str, Any]
    versions: dict[str, Any]

    @property
    def key(self) -> str:
        """sha256 of the identity's canonical JSON. TypeError or ValueError if a value is not JSON."""
        return digest(asdict(self))

    @property
    def folder(self) -> Path:
        """Where the record lies, relative to the store."""
        return Path(safe(str(self.model["name"])), safe(self.task), f"{safe(self.method)}-{self.key[:16]}")


@dataclass(frozen=True)
class Row:
    """One example.

    prompt_tokens: before truncation, without special tokens. nominal, counted (and the same for dense): elements moved
    per generated token over all layers and key/value heads, by the paper's formula and as selected; counted is nan
    where no decode step was taken. calls: attention calls of the decode steps that went through the method, over all
    layers. sparse_steps: of decode_steps, those that left something out, mean over layers; layers_active: layers in
    which that ever happened. seconds: this example's share. cluster: what examples share whose scores hang together,
    such as a paragraph that several questions are about; prompt: what its text goes by. token_lengths: how many
    characters of the output each token added, with spaces between. All three are "" where not known.
    """

    index: int
    id: str
    prompt_tokens: int
    generated_tokens: int
    output: str
    score: float
    nominal: float
    nominal_dense: float
    counted: float
    counted_dense: float
    decode_steps: int
    calls: int
    sparse_steps: float
    layers_active: int
    truncated: bool
    finite: bool
    seconds: float
    cluster: str = ""
    prompt: str = ""
    token_lengths: str = ""

    def line(self, key: str) -> bytes:
        """The row as a line of JSON; ASCII, so that no character of an output can end it. Not-a-number becomes null.

        It ends with a checksum of its record's key and itself: no bit of it can change, and it can move to no other
        record, unseen.
        """
        values = {field.name: KINDS[field.name](getattr(self, field.name)) for field in fields(self)}
        values = {name: value for name, value in values.items() if name not in OPTIONAL or value != OPTIONAL[name]}
        return checked(json.dumps(plain(values), allow_nan=False).encode(), seed_of(key)) + b"\n"

    @staticmethod
    def read(values: dict[str, Any]) -> "Row":
        """The row of a parsed line."""
        filled: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
        return Row(**filled)


KINDS: dict[str, type] = {field.name: field.type for field in fields(Row) if isinstance(field.type, type)}
# what rows of older versions lack
OPTIONAL: dict[str, Any] = {field.name: field.default for field in fields(Row) if field.default is not MISSING}


CRC = re.compile(rb', "crc": "([0-9a-f]{8})"}$')


def seed_of(key: str) -> int:
    """What the checksums of a record's rows begin with."""
    return zlib.crc32(key.encode())


def checked(line: bytes, seed: int = 0) -> bytes:
    """A JSON object's line with a checksum of what comes before it."""
    body = line[:-1]
    return body + b', "crc": "%08x"}' % zlib.crc32(body, seed)


def intact(line: bytes, values: Mapping[str, Any], seed: int = 0) -> bool:
    """Whether a line, which says `values`, is as it was written with this seed or, as older versions wrote them, with
    none; one without a checksum, as still older versions wrote them, may be.
    """
    found = CRC.search(line)
    if found is None:
        return "crc" not in values
    body, crc = line[: found.start()], int(found[1], 16)
    return crc in (zlib.crc32(body, seed), zlib.crc32(body))


def seal(record: Mapping[str, Any]) -> str:
    """A digest of all that a record says but its summary, which follows from the rows."""
    said = {name: value for name, value in record.items() if name not in ("seal", "summary")}
    return digest(said)


def digest(value: object) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: object) -> Any:
    """`value` as JSON can hold it: paths and other objects as text, tuples as lists, not-a-number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def safe(name: str) -> str:
    """A name that is one folder or file on any system. Not one to one: the key tells records apart."""
    text = re.sub(r"[^A-Za-z0-9._+-]+", "-", name.replace("/", "--")).strip("-.")
    return text[:100] or "unnamed"
