"""Rows of all records as one table, each beside the fastest dense row of its sizes in its own record: of one run."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from sparq_eval.progress import say
from sparq_eval.results.bench import Bench
from sparq_eval.results.bench_rows import KINDS
from sparq_eval.results.whole import moment

PLACE = ("device", "dtype")
# rows may be compared where these are the same
SIZES = {"attention": (*PLACE, "H", "G", "D", "B", "S"), "decode": (*PLACE, "model", "B", "S")}
SETTING = ("method", "implementation", "copy", "reallocate", "r", "k")
ACCELERATOR = re.compile(r"NVIDIA|GeForce|Tesla|Quadro|Instinct|Radeon", re.IGNORECASE)


def bench_rows(benches: Sequence[Bench], kind: str) -> pd.DataFrame:
    """All rows of a kind, each setting once, by device, dtype, sizes and setting; empty if there are none.

    Beside the rows' keys: device (a CPU's with its threads), gpu, copy_ceiling (bytes/s), matmul_ceiling (flop/s); of
    the fastest dense row of the same SIZES and record: dense, dense_seconds; speedup against it; byte_ratio, its bytes
    over own; share, speedup over byte_ratio. fastest: whether it is the dense row to show of its SIZES. Also bandwidth
    (bytes/s) and what follows from one kind's keys. What was not timed has its note and no such number.
    """
    every = [line for bench in benches if bench.kind == kind for line in lines(bench)]
    if not every:
        return pd.DataFrame()
    texts = ["method", "implementation", "copy", "note", *PLACE]
    frame = pd.DataFrame(every).astype(dict.fromkeys(("r", "k", "repeats"), "Int64"))
    numbers = [field.name for field in fields(KINDS[kind]) if "float" in str(field.type)]
    frame = frame.astype(dict.fromkeys((*numbers, "copy_ceiling", "matmul_ceiling"), float))
    frame[texts] = frame[texts].fillna("")
    frame["moved"] = frame["bytes"] if kind == "attention" else frame["weight_bytes"] + frame["cache_bytes"]
    frame = latest(beside_dense(frame, SIZES[kind]), kind)
    frame["bandwidth"] = frame["moved"] / frame["seconds"]
    frame["bandwidth_share"] = frame["bandwidth"] / frame["copy_ceiling"]
    if kind == "attention":
        frame["intensity"], frame["rate"] = frame["flops"] / frame["bytes"], frame["flops"] / frame["seconds"]
    else:
        frame["attention_share"] = frame["attention_seconds"] / frame["seconds"]
    return frame


def lines(bench: Bench) -> list[dict[str, Any]]:
    gpu = on_gpu(bench.machine)
    threads = bench.machine.get("threads")
    device = bench.machine["device"] + ("" if gpu or threads is None else f", {threads} threads")
    common = {"device": device, "gpu": gpu, "when": moment(bench.when), "record": bench.key}
    common |= {f"{name}_ceiling": bench.ceilings[name] for name in ("copy", "matmul")}
    return [{"reallocate": None} | row.values | common for row in bench.rows]


def on_gpu(machine: dict[str, Any]) -> bool:
    """As the record's `type` says, where it has one; otherwise by the device's name."""
    kind = machine.get("type")
    return kind != "cpu" if isinstance(kind, str) else ACCELERATOR.search(machine["device"]) is not None


def latest(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Each setting once, in order: the newest that was timed beside dense, else that was timed, else the newest."""
    key = list(dict.fromkeys((*SIZES[kind], *SETTING)))
    frame["timed"], frame["beside"] = frame["seconds"].notna(), frame["speedup"].notna()
    kept = frame.sort_values(["timed", "beside", "when"], kind="stable").drop_duplicates(key, keep="last")
    if older := len(frame) - len(kept):
        say(
            f"note: {older} of {len(frame)} {kind} benchmarks were measured more than once; "
            "the latest that were timed beside dense are shown"
        )
    # of the fastest of several records the latest is shown
    dense = kept[kept["first"]].sort_values("when", kind="stable").drop_duplicates(SIZES[kind], keep="last")
    rank = frame["method"].map({"dense": 0, "sparq": 1}).fillna(2)
    order = kept.assign(rank=rank, fastest=kept.index.isin(dense.index)).sort_values(
        [*SIZES[kind], "rank", *SETTING], kind="stable", na_position="first"
    )
    return order.drop(columns=["rank", "timed", "beside", "first"]).reset_index(drop=True)


def beside_dense(frame: pd.DataFrame, sizes: Sequence[str]) -> pd.DataFrame:
    """first: whether it is the fastest dense row of its sizes and record, with which the others are compared."""
    run = [*sizes, "record"]
    dense = frame[(frame["method"] == "dense") & frame["seconds"].notna()]
    places = dense.groupby(run)["seconds"].idxmin()
    frame["first"] = frame.index.isin(places)
    renamed = {"implementation": "dense", "seconds": "dense_seconds", "moved": "dense_moved"}
    frame = frame.merge(dense.loc[places][[*run, *renamed]].rename(columns=renamed), how="left", on=run)
    frame["dense"] = frame["dense"].fillna("")
    frame["speedup"] = frame["dense_seconds"] / frame["seconds"]
    frame["byte_ratio"] = frame["dense_moved"] / frame["moved"]
    frame["share"] = frame["speedup"] / frame["byte_ratio"]
    return frame


def keys_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """Of the records that rows are from, each once."""
    return tuple(dict.fromkeys(rows["record"])) if len(rows) else ()


def is_fastest_dense(frame: pd.DataFrame) -> pd.Series:
    """The dense row that is shown of each size."""
    found: pd.Series = frame["fastest"]
    return found
