"""Data in an HTML file: JSON without spaces, compressed, in an alphabet that no parser of HTML takes for markup."""

import base64
import gzip
import json
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd


def pack(content: object) -> str:
    """JSON, gzip, base64. ValueError if a number is not finite: `number` makes null of it."""
    return pack_text(json.dumps(content, separators=(",", ":"), allow_nan=False))


def pack_text(text: str) -> str:
    # without the time: the same content gives the same bytes. a lone surrogate is no character
    packed = gzip.compress(text.encode("utf-8", "backslashreplace"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def number(value: Any, digits: int = 9) -> float | int | None:
    """A number with so many significant digits; None where there is none."""
    if value is None or value is pd.NA:
        return None
    value = float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{digits}g}")


def numbers(values: Iterable[Any], digits: int = 9) -> list[float | int | None]:
    return [number(value, digits) for value in values]


class Strings:
    """Texts kept once each, and found again by their place."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))

    def column(self, texts: Iterable[str]) -> list[int]:
        return [self.place(text) for text in texts]

    @property
    def all(self) -> list[str]:
        return list(self.places)
