"""What makes a line of a benchmark's plot: an implementation of a method, on one device, in one dtype, over S."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from sparq_eval.report.bench.rows import PLACE, is_fastest_dense
from sparq_eval.report.chart import Series
from sparq_eval.report.style import COLOURS, DASHES, DENSE, MARKERS, SPARE_COLOURS, SPARE_MARKERS, label_of

COPY = {"none": "one copy", "fp8": "fp8 copy", "int8": "int8 copy"}
THEORY = "bytes allow (in the line's colour)", (0, (1, 1.5))
FASTEST = "dense, fastest"
# SparQ's own first; no two of them look alike to the colour-blind
PALETTE = (COLOURS["sparq"], SPARE_COLOURS[0], *(COLOURS[name] for name in ("lm_infinite", "flexgen", "h2o")))
COLOUR_CYCLE = (*PALETTE, SPARE_COLOURS[1], SPARE_COLOURS[2])
MARKER_CYCLE = (*(MARKERS[name] for name in ("sparq", "h2o", "lm_infinite", "flexgen")), *SPARE_MARKERS)


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dashes: object


Looks = dict[str, Look]


def name_lines(rows: pd.DataFrame) -> pd.Series:
    """The label of each row's line, without its budgets: method, what ran it, the copy that step 1 reads, and whether
    it reallocates where rows of the same device, dtype and shape differ in that.
    """
    both = pd.Series(False, index=rows.index)
    if "reallocate" in rows:
        shape = [name for name in ("method", *PLACE, "H", "G", "D", "model") if name in rows]
        both = rows.groupby(shape)["reallocate"].transform("nunique") > 1
    labels = [label(row, several) for row, several in zip(rows.to_dict("records"), both, strict=True)]
    return pd.Series(labels, index=rows.index)


def label(row: dict, reallocation: bool) -> str:
    if row["method"] == "dense":
        return FASTEST
    ran = row["implementation"].removeprefix(row["method"]).strip(" ,")
    notes = [COPY[row["copy"]]] if row["copy"] in COPY else []
    if reallocation:
        notes.append("reallocated" if row["reallocate"] is True else "not reallocated")
    return ", ".join([f"{label_of(row['method'])} {ran}".strip(), *notes])


def assign_looks(labels: Sequence[str]) -> Looks:
    """One look for each label, the same in all figures: plain SparQ first; when the colours are used up, dashed."""
    ranked = sorted(dict.fromkeys(labels), key=plainest)
    looks = {}
    for place, name in enumerate(name for name in ranked if name != FASTEST):
        again = place // len(COLOUR_CYCLE)
        colour, marker = COLOUR_CYCLE[place % len(COLOUR_CYCLE)], MARKER_CYCLE[place % len(MARKER_CYCLE)]
        looks[name] = Look(colour, marker, "-" if not again else (0, (5, 1.5)))
    looks[FASTEST] = Look(DENSE, "o", DASHES)
    return looks


def plainest(label: str) -> tuple:
    """Where a label stands: SparQ before others, kernels before torch, without a copy of its own kind before with."""
    return not label.startswith("SparQ"), "torch" in label, "," in label, label


def drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that lines are made of: timed, and of the dense ones the fastest. Refuses rows of several places."""
    if len(rows[list(PLACE)].drop_duplicates()) > 1:
        raise ValueError(f"one figure panel is one device and dtype; got {rows[list(PLACE)].drop_duplicates()}")
    return rows[rows["seconds"].notna() & ((rows["method"] != "dense") | is_fastest_dense(rows))]


def over(rows: pd.DataFrame, y: pd.Series, looks: Looks, band: float | None = None, x: str = "S") -> Iterator[Series]:
    """Lines of y over a column, one for each value of the column `line`; band: what low and high are multiplied by."""
    placed = rows.assign(x=rows[x], y=y)
    for name, group in sorted(placed.groupby("line"), key=lambda item: list(looks).index(base(str(item[0]), looks))):
        points = group.sort_values("x").dropna(subset="y")[["x", "y", "low", "high"]]
        scaled = points[["x", "y"]]
        if band is not None and points[["low", "high"]].notna().all(axis=None):
            scaled = scaled.assign(low=points["low"] * band, high=points["high"] * band)
        look = looks[base(str(name), looks)]
        yield Series(str(name), scaled, look.colour, look.marker, look.dashes)


def tell_budgets_apart(looks: Looks, names: pd.Series) -> Looks:
    """Looks for lines with budgets too, the same in all panels. names: of the points of all panels; the budget with
    most of them has its label's own look, others have other marks and dashes.
    """
    made = dict(looks)
    counts = names.value_counts()
    for label in looks:
        own = [name for name in counts.index if base(name, looks) == label and name != label]
        for place, name in enumerate(sorted(own, key=lambda name: (-counts[name], name))):
            look = looks[label]
            marker = MARKER_CYCLE[(MARKER_CYCLE.index(look.marker) + place) % len(MARKER_CYCLE)]
            made[name] = Look(look.colour, marker, look.dashes if not place else (0, (3, 1.5)))
    return made


def base(name: str, looks: Looks) -> str:
    """The longest label that a line's name, label and budgets, begins with."""
    return max((label for label in looks if name.startswith(label)), key=len)


def theory(rows: pd.DataFrame, looks: Looks, x: str = "S") -> Iterator[Series]:
    """What the bytes allow, for each line that is not dense, in its colour; the same curve is drawn once."""
    seen = set()
    sparse = rows[rows["method"] != "dense"]
    for series in over(sparse, sparse["byte_ratio"], looks, x=x):
        curve = tuple(series.points.round(6).itertuples(index=False, name=None))
        if curve not in seen:
            seen.add(curve)
            name = f"{series.label}: bytes allow"
            # a single point is no line
            mark = "." if len(curve) == 1 else ""
            yield Series(name, series.points, series.colour, mark, THEORY[1], width=0.9, under=True, listed=False)


def brief(device: str) -> str:
    """A device's name without what tells it from no other."""
    return re.sub(r"^NVIDIA |\((R|TM)\)|( \d+-Core)? Processor|-SXM\d| CPU @.*?GHz", "", device)


def name_budgets(rows: pd.DataFrame, always: Collection[str] = ()) -> pd.Series:
    """Each row's line with its budgets where a line has several: r and k, or k as a share of S where that makes fewer
    lines. always: lines that have several elsewhere in the figure.
    """
    parts = []
    for name, group in rows.groupby("line"):
        note = fewest(group)
        parts.append(
            f"{name} " + note if note.nunique() > 1 or name in always else pd.Series(str(name), index=group.index)
        )
    return pd.concat(parts).reindex(rows.index).str.strip()


def fewest(rows: pd.DataFrame) -> pd.Series:
    """Budgets in words, r and k or r and a share of S, whichever other rows share at most lengths."""
    fixed = pd.Series([words(r, k) for r, k in zip(rows["r"], rows["k"], strict=True)], index=rows.index)
    shares = [f"S/{round(S / k)}" if k is not pd.NA else k for S, k in zip(rows["S"], rows["k"], strict=True)]
    share = pd.Series([words(r, k) for r, k in zip(rows["r"], shares, strict=True)], index=rows.index)
    chosen, left = fixed.copy(), rows.index
    while len(left):
        # one line has one point at each length
        sizes = [(len(at), len(at) == rows.loc[at, "S"].nunique(), at, how)
                 for how in (fixed, share) for at in how[left].groupby(how[left]).groups.values()]  # fmt: skip
        _, _, at, how = max(sizes, key=lambda size: (size[1], size[0]))
        chosen[at], left = how[at], left.difference(at)
    return chosen


def words(r: object, k: object) -> str:
    return " ".join(f"{name}={value}" for name, value in (("r", r), ("k", k)) if value is not pd.NA)
