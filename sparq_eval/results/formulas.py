"""Text that a spreadsheet would run as a formula, in tables that are written as CSV."""

import re

import pandas as pd

# what a spreadsheet takes for the beginning of a formula, and what of our own would be taken for a guard
FORMULA = re.compile(r"[\s']*[=+\-@\t\r]")


def guarded(frame: pd.DataFrame) -> pd.DataFrame:
    """Text that a spreadsheet would run as a formula begins with an apostrophe: a model's output stays text."""
    words = frame.select_dtypes(["object", "string"])
    return frame.assign(**{str(name): words[name].map(guard, na_action="ignore") for name in words})


def guard(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def as_generated(text: str) -> str:
    """The text that `guarded` wrote as this."""
    return text[1:] if text.startswith("'") and FORMULA.match(text[1:]) else text
