"""What was timed: a row for one call of attention, a row for one token of a whole model."""

import math
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, ClassVar, get_args

METHODS = ("dense", "sparq", "h2o", "lm_infinite", "flexgen")
COPIES = ("same", "fp8", "int8", "none")


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """What rows of both kinds have. ValueError names the key that is wrong.

    implementation: what ran, `sdpa flash` or `sparq triton`. B: sequences; S: positions in the cache. r, k: budgets,
    None where the method has none. copy: what SparQ's step 1 reads. seconds: the median of `repeats`; low, high: the
    10th and 90th percentile. note: why it was not timed; then seconds is None.
    """

    TRAFFIC: ClassVar[tuple[str, ...]] = ()  # what a timed row must know beside its time

    method: str
    implementation: str
    B: int
    S: int
    dtype: str
    r: int | None = None
    k: int | None = None
    copy: str | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            check(field.name, getattr(self, field.name), field.type)
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: one of {', '.join(METHODS)} is needed")
        if self.copy is not None and self.copy not in COPIES:
            raise ValueError(f"copy={self.copy!r}: one of {', '.join(COPIES)}, or null, is needed")
        if self.seconds is None and not self.note:
            raise ValueError("note=null: a row without seconds must say why")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds}: a positive time is needed")
        for name in self.TRAFFIC:
            value = getattr(self, name)
            if (value is None and self.seconds is not None) or (value is not None and not value > 0):
                raise ValueError(f"{name}={value}: a positive number is needed, or null in a row without seconds")

    @property
    def values(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AttentionRow(BenchRow):
    """One decode step of attention, from the caches to the output.

    backend: sdpa, flex, flashinfer, torch or kernel. H: key/value heads; G: query heads of each; D: size of a head.
    seconds: per call, for all B. bytes: the least that must move; flops: two for each multiply-add. error: norm of the
    difference to the same method in float64, relative to its norm.
    """

    TRAFFIC = ("bytes", "flops")

    backend: str
    H: int
    G: int
    D: int
    bytes: float | None = None
    flops: float | None = None
    reallocate: bool | None = None
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class DecodeRow(BenchRow):
    """One token of a whole model. seconds: per step, in which each of the B sequences gets its token.

    attention_seconds: of these, in attention. weight_bytes, cache_bytes: what must move in a step of the weights and of
    the caches of all B.
    """

    TRAFFIC = ("weight_bytes", "cache_bytes")

    model: str
    weight_bytes: float | None = None
    cache_bytes: float | None = None
    attention_seconds: float | None = None


KINDS: dict[str, type[BenchRow]] = {"attention": AttentionRow, "decode": DecodeRow}


def check(name: str, value: object, kind: Any) -> None:
    """ValueError unless `value` is of the type; a whole number is also a number, not-a-number is none."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    known = type(value) in kinds or (type(value) is int and float in kinds)
    if not known or (isinstance(value, float) and not math.isfinite(value)):
        words = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
        raise ValueError(f"{name}={value!r}: {words} is needed")


def read_row(kind: str, place: int, values: object) -> BenchRow:
    """The row of a parsed object. ValueError that names the row and its key."""
    row = KINDS[kind]
    names = [field.name for field in fields(row)]
    if not isinstance(values, dict):
        raise ValueError(f"rows[{place}]: an object is needed")
    if unknown := sorted(values.keys() - set(names)):
        raise ValueError(f"rows[{place}].{unknown[0]}: no such key; there are {', '.join(names)}")
    try:
        return row(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"rows[{place}]: {error}") from error
