"""Files with the paper's own numbers, each read where it is needed."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from sparq_eval.errors import UserError

TABLES = "tables.csv"
OF_TABLES = ("table", "row", "column", "value")


def read_file(folder: Path, name: str, needed: Collection[str]) -> pd.DataFrame:
    """`folder`/`name`. UserError if it cannot be read or lacks one of the needed columns."""
    try:
        frame = pd.read_csv(Path(folder) / name)
    except (OSError, ValueError) as error:
        raise UserError(f"published={folder}: {name} could not be read ({error}); give the folder it is in") from error
    if lacking := [column for column in needed if column not in frame]:
        raise UserError(f"published={folder}: {name} has no column {', '.join(lacking)}")
    return frame


def read_tables(folder: Path | None) -> pd.DataFrame:
    """The cells of the paper's tables: table, row, column, value. Empty without a folder."""
    return pd.DataFrame(columns=list(OF_TABLES)) if folder is None else read_file(folder, TABLES, OF_TABLES)
