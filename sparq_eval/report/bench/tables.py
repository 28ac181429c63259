"""Benchmarks as tables: every row beside the fastest dense, and SparQ's implementations at one size (Table 4)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from sparq_eval.report.bench.attention import BATCH, POSITIONS, SHAPE, choose_budgets, comparable, is_budget, nearest
from sparq_eval.report.bench.lines import drawn, name_lines
from sparq_eval.report.bench.published import kernel_name
from sparq_eval.report.bench.rows import SIZES
from sparq_eval.report.sheet import write_sheet

WHAT = ("method", "implementation", "r", "k", "copy", "reallocate")
TIMED = ("seconds", "low", "high", "repeats", "dense", "dense_seconds", "speedup", "byte_ratio", "share")
MOVED = ("bandwidth", "bandwidth_share", "note", "record")
CSV = {
    "attention": (*SIZES["attention"], *WHAT, "backend", *TIMED, "bytes", "flops", "error", *MOVED),
    "decode": (*SIZES["decode"], *WHAT, *TIMED, "attention_seconds", "weight_bytes", "cache_bytes", *MOVED),
}
UNIT = {"attention": ("µs", 1e6), "decode": ("ms", 1e3)}
GROUP = {"attention": SHAPE, "decode": ("device", "dtype", "model")}


def write_rows(rows: pd.DataFrame, kind: str, out: Path) -> None:
    """Write `out`/bench-<kind>.csv and .md: all rows, those that were not timed with their note.

    In the CSV times are seconds and bandwidth bytes/s. share: of the ratio of bytes that the speed-up reached.
    bandwidth_share: of the measured copy.
    """
    parts = []
    for names, group in rows.groupby(list(GROUP[kind]), sort=False):
        title = ", ".join(f"{name}={value}" if len(name) == 1 else str(value) for name, value in labelled(kind, names))
        parts.append((title, shown(group, kind)))
    write_sheet(rows[list(CSV[kind])], parts, f"{kind} against the fastest dense", out / f"bench-{kind}")


def labelled(kind: str, names: tuple) -> Iterator[tuple[str, object]]:
    yield from zip(GROUP[kind], names, strict=True)


def shown(group: pd.DataFrame, kind: str) -> pd.DataFrame:
    unit, factor = UNIT[kind]
    table = group[["B", "S", "implementation", "r", "k", "copy"]].assign(
        **{
            unit: group["seconds"] * factor,
            "fastest dense": group["dense"],
            f"dense {unit}": group["dense_seconds"] * factor,
            "speed-up": group["speedup"],
            "bytes allow": group["byte_ratio"],
            "% of that": group["share"] * 100,
            "GB/s": group["bandwidth"] / 1e9,
            "% of copy": group["bandwidth_share"] * 100,
        }
    )
    if kind == "attention":
        table["error"] = group["error"]
    else:
        table["% in attention"] = group["attention_share"] * 100
    return table.assign(note=group["note"])


def write_table4(rows: pd.DataFrame, published: pd.DataFrame, out: Path) -> None:
    """Write `out`/bench-table4.csv and .md, if there is anything to compare."""
    if parts := table_4_parts(rows, published):
        write_sheet(table_4_long(parts), parts, "SparQ's implementations at one size", out / "bench-table4")


def table_4_long(parts: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    return pd.concat([table.assign(sizes=title) for title, table in parts])


def table_4_parts(rows: pd.DataFrame, published: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """For each device, dtype and shape a heading and a table: time per query and speed-up of the fastest dense and of
    SparQ, at S=4096, B=64, r=32, k=128 or the nearest that was timed; beside it the fastest dense of the same record,
    with which it is compared; below it what was published at the same.
    """
    parts = []
    for names, group in rows.assign(line=name_lines(rows)).groupby(list(SHAPE), sort=False):
        timed = drawn(group)
        sparq = timed[(timed["method"] == "sparq") & timed["speedup"].notna()]
        if sparq.empty:
            continue
        r, k = choose_budgets(sparq)
        sparq = sparq[is_budget(sparq, r, k)]
        sparq = sparq[sparq["B"] == nearest(sparq["B"], BATCH)]
        sparq = sparq[sparq["S"] == nearest(sparq["S"], POSITIONS)]
        B, S = int(sparq["B"].iloc[0]), int(sparq["S"].iloc[0])
        dense = timed[(timed["method"] == "dense") & (timed["B"] == B) & (timed["S"] == S)]
        title = (
            f"{', '.join(map(str, names[:2]))}, H={names[2]}, G={names[3]}, D={names[4]}: B={B}, S={S}, r={r}, k={k}"
        )
        parts.append((title, pd.concat([own(dense.head(1), sparq), theirs(comparable(published, group), B, S, r, k)])))
    return parts


def own(dense: pd.DataFrame, sparq: pd.DataFrame) -> pd.DataFrame:
    both = pd.concat([dense, sparq.sort_values("seconds", ascending=False)])
    names = [f"dense, {row.implementation}" if row.method == "dense" else row.line for row in both.itertuples()]
    micro = both["seconds"] / both["B"] * 1e6
    return pd.DataFrame(
        {
            **{"implementation": names, "device": both["device"], "µs per query": micro},
            "dense µs per query": both["dense_seconds"] / both["B"] * 1e6,
            **{"speed-up": both["speedup"], "bytes allow": both["byte_ratio"], "record": both["record"]},
        }
    )


def theirs(published: pd.DataFrame, B: int, S: int, r: int, k: int) -> pd.DataFrame:
    if published.empty:
        return pd.DataFrame()
    there = published[(published["B"] == B) & (published["S"] == S)]
    dense = there[there["method"] == "dense"].sort_values("seconds").drop_duplicates("device")
    sparq = there[(there["method"] == "sparq") & is_budget(there, r, k)]
    both = pd.concat([dense, sparq]).sort_values("device", kind="stable")
    fastest = dense.set_index("device")
    names = [
        f"dense, {name}" if method == "dense" else kernel_name(name)
        for name, method in zip(both["implementation"], both["method"], strict=True)
    ]
    return pd.DataFrame(
        {
            **{"implementation": [f"published: {name}" for name in names], "device": both["device"]},
            "µs per query": both["seconds"] / both["B"] * 1e6,
            "dense µs per query": both["device"].map(fastest["seconds"] / fastest["B"]) * 1e6,
            "speed-up": both["speedup"],
            "bytes allow": both["device"].map(fastest["theoretical_bytes_per_query"])
            / both["theoretical_bytes_per_query"],
        }
    )
