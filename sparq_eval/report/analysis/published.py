"""The paper's numbers on the statistics of Llama 2 7B, which stand beside ours."""

from dataclasses import dataclass, field
from pathlib import Path

from sparq_eval.errors import UserError
from sparq_eval.report.published import TABLES, read_tables

AXES = {"B": "batch", "S": "sequence", "Layer": "layer", "Head": "head", "d_h": "head size"}
TEMPERATURES = {"tau=1": "none", "sqrt(r)": "sqrt_r", "sqrt(d_h)": "sqrt_d", "coverage": "coverage"}


@dataclass(frozen=True)
class Published:
    """correlation: excess ratio of values by axis. rmse: of alpha by temperature, at r=32 of 128 and k=128."""

    correlation: dict[str, float] = field(default_factory=dict)
    rmse: dict[str, float] = field(default_factory=dict)


def read_published(folder: Path | None) -> Published:
    """What `folder`/tables.csv has of it; nothing without a folder. UserError if the file cannot be read."""
    frame = read_tables(folder).astype(str)
    one = frame[frame["table"] == "Table 1"]
    try:
        correlation = {AXES[name]: float(value) for name, value in zip(one["column"], one["value"], strict=True)}
        rmse = {}
        for row in frame[frame["table"].str.startswith("Fig 4f")].to_dict("records"):
            names, values = ([part.strip() for part in row[name].split("|")] for name in ("column", "value"))
            rmse = {TEMPERATURES[name]: float(value) for name, value in zip(names, values, strict=True)}
    except (KeyError, ValueError) as error:
        raise UserError(f"published={folder}: {TABLES} has a cell that is not the paper's ({error})") from error
    return Published(correlation, rmse)
