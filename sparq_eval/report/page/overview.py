"""What the page shows at once: what the records are, the headline, all settings, curves and needle maps."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from sparq_eval.report.curves import Curve, curves
from sparq_eval.report.figures import UNIT
from sparq_eval.report.page.needles import needle_maps
from sparq_eval.report.page.pack import Strings, numbers
from sparq_eval.report.page.provenance import Provenance
from sparq_eval.report.panel import Panel, score_range
from sparq_eval.report.style import DENSE, METRICS, Look, label_of, looks
from sparq_eval.report.text import short_settings

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "P": "cross", "X": "x", "p": "pentagon"}
TEXTS = ("model", "task", "variant", "method", "metric", "failure", "key")
NUMBERS = (
    *("samples", "value", "stderr", "nominal_ratio", "counted_ratio", "seconds", "milliseconds", "generated_tokens"),
    *("sparse_share", "layers_active", "truncated", "not_finite"),
)
COMPARED = ("difference", "low", "high", "p", "q", "more", "clusters")
HEADLINE = ("compression", "low", "high", "margin")


def overview(
    records: pd.DataFrame,
    samples: pd.DataFrame,
    groups: Sequence[np.ndarray],
    rows: Mapping[Hashable, np.ndarray],
    comparisons: pd.DataFrame | None,
    headline: pd.DataFrame | None,
    made_by: Provenance,
) -> dict[str, Any]:
    """groups: places of the records of each model, task, variant and metric. rows: places in `samples` by record's key.

    Texts are places in `strings`.
    """
    strings = Strings()
    methods = list(dict.fromkeys([*records["method"], *(() if headline is None else headline["method"])]))
    parts = [records.iloc[where] for where in groups]
    drawn = [curves(part.assign(x=part["counted"].fillna(part["nominal"]))) for part in parts]
    shown = looks_of_models(records, parts, drawn)
    return {
        "facts": {
            "models": list(dict.fromkeys(records["model"])),
            "tasks": list(dict.fromkeys(records["task"])),
            "records": len(records),
            "rows": len(samples),
            "devices": made_by.said("device"),
            "commits": made_by.said("commit"),
        },
        "methods": {name: {"label": label_of(name), "colour": colour} for name, colour in colours(methods).items()},
        "metrics": {name: METRICS.get(name, name) for name in dict.fromkeys(records["metric"])},
        "records": setting_columns(records, strings) | compared_columns(records, comparisons, strings),
        "compared": comparisons is not None,
        "headline": None if headline is None else headline_columns(headline, strings),
        "groups": [
            group(part, lines, shown[part["model"].iloc[0]], samples, rows)
            for part, lines in zip(parts, drawn, strict=True)
        ],
        "strings": strings.all,
    }


def colours(methods: Sequence[str]) -> dict[str, str]:
    """Of each method, as in the figures."""
    shown = looks([(name, label_of(name), 0.0) for name in methods if name != "dense"])
    return {name: DENSE if name == "dense" else to_hex(shown[label_of(name)].colour) for name in methods}


def setting_columns(records: pd.DataFrame, strings: Strings) -> dict[str, list]:
    return {
        **{name: strings.column(map(str, records[name])) for name in TEXTS},
        "settings": strings.column(map(short_settings, records["settings"])),
        **{name: numbers(records[name]) for name in NUMBERS},
        **{name: numbers(records[name] / UNIT) for name in ("nominal", "counted")},
        **{name: [int(flag) for flag in records[name]] for name in ("active", "higher_is_better")},
    }


def compared_columns(records: pd.DataFrame, comparisons: pd.DataFrame | None, strings: Strings) -> dict[str, list]:
    """flag: 1 where a setting is significantly better than dense, -1 where it is worse."""
    if comparisons is None:
        return {}
    found = comparisons.drop_duplicates("key").set_index("key").reindex(records["key"])
    better, worse = (found[name].eq(True).astype(int) for name in ("better", "worse"))
    return {
        **{name: numbers(found[name]) for name in COMPARED},
        "shared": numbers(found["samples"]),
        "test": strings.column(texts(found["test"])),
        "flag": (better - worse).tolist(),
    }


def headline_columns(headline: pd.DataFrame, strings: Strings) -> dict[str, list]:
    words = ("model", "task", "variant", "method", "verdict", "note")
    return {
        **{name: strings.column(texts(headline[name])) for name in words},
        "form": strings.column(map(label_of, headline["form"])),
        **{name: numbers(headline[name]) for name in HEADLINE},
    }


def texts(column: pd.Series) -> list[str]:
    """Its texts, "" where there is none."""
    return [value if isinstance(value, str) else "" for value in column]


def looks_of_models(
    records: pd.DataFrame, parts: Sequence[pd.DataFrame], drawn: Sequence[Sequence[Curve]]
) -> dict[str, dict[str, Look]]:
    """How each model's lines are drawn: a label has one look in all of its charts."""
    lines: dict[str, list[tuple[str, str, float]]] = {str(model): [] for model in records["model"]}
    for part, of_part in zip(parts, drawn, strict=True):
        lines[str(part["model"].iloc[0])] += [(line.method, line.label, line.rank) for line in of_part]
    methods = list(dict.fromkeys(line[0] for of in lines.values() for line in of))
    ordered = {
        model: sorted(dict.fromkeys(of), key=lambda line: (methods.index(line[0]), line[2]))
        for model, of in lines.items()
    }
    return {model: looks(of) for model, of in ordered.items()}


def group(
    records: pd.DataFrame,
    lines: Sequence[Curve],
    shown: dict[str, Look],
    samples: pd.DataFrame,
    places: Mapping[Hashable, np.ndarray],
) -> dict[str, Any]:
    """The records of one model and task; their index is their place among all. near: scores that the figures show.

    lines: as the figures draw them; points: places of their records, without dense.
    """
    first = records.iloc[0]
    rows = samples.iloc[np.concatenate([places[key] for key in records["key"]])]
    dense = records.index[records["method"] == "dense"]
    return {
        **{name: str(first[name]) for name in ("model", "task", "variant", "metric")},
        "up": bool(first["higher_is_better"]),
        "records": [int(place) for place in records.index],
        "near": numbers(score_range(Panel("", records, lines)), 4),
        "lines": [
            {
                "label": line.label,
                "method": line.method,
                "colour": to_hex(shown[line.label].colour),
                "symbol": SYMBOLS.get(shown[line.label].marker, "hexagon"),
                "points": [int(place) for place in line.points.index.difference(dense, sort=False)],
            }
            for line in lines
        ],
        "needles": needle_maps(rows, str(first["metric"])),
    }
