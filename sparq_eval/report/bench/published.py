"""The paper's published benchmarks, read when a report is made and drawn in grey under ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparq_eval.report.bench.lines import brief
from sparq_eval.report.chart import Series
from sparq_eval.report.published import read_file

FILE = "benchmarks.csv.gz"
NEEDED = ("device", "device_name", "kernel", "batch_size", "sequence_length", "n_head", "head_dim", "dtype", "r", "k")
TIMES = ("us_per_query", "theoretical_bytes_per_query", "speedup_vs_best_dense")
# the IPU's dense baseline streams from the host's memory: it is no device of the kind that ours are
DEVICES = {"cuda": True, "cpu": False}
TOKEN_DEVICES = {"gpu (end-to-end)": True, "cpu (end-to-end)": False}
MODEL = "llama-2-7b"
KERNELS = {"triton": "SparQ Triton", "compiled": "SparQ torch, compiled", "torch": "SparQ torch"}
GREYS = ("#8C8C8C", "#B4B4B4", "#6E6E6E")
MARKERS = ("v", "<", ">")


@dataclass(frozen=True)
class Published:
    """Columns as in ours: device, gpu, dtype, B, S, r, k, method, implementation, seconds, speedup; attention also
    has H, G, D, copy. Empty where nothing was given.
    """

    attention: pd.DataFrame
    decode: pd.DataFrame


def read_published(folder: Path | None) -> Published:
    """The points in `folder`/benchmarks.csv.gz. UserError if it is not there or lacks a column."""
    if folder is None:
        return Published(pd.DataFrame(), pd.DataFrame())
    frame = read_file(folder, FILE, (*NEEDED, *TIMES))
    names = {"batch_size": "B", "sequence_length": "S", "n_head": "H", "head_dim": "D", "kernel": "implementation"}
    frame = frame.rename(columns=names).rename(columns={"speedup_vs_best_dense": "speedup"})
    frame = frame.astype({"r": "Int64", "k": "Int64"})
    # per query there, per call here
    frame["seconds"] = frame["us_per_query"] * frame["B"] * 1e-6
    frame["method"] = ["sparq" if "sparq" in name else "dense" for name in frame["implementation"]]
    # a whole model's kernels are named by their program: "llama.cpp dense"
    frame["method"] = frame["method"].mask(frame["implementation"].str.endswith(" sparse"), "sparq")
    attention = frame[frame["device"].isin(DEVICES)].copy()
    attention["copy"] = ["none" if name.endswith("-oneK") else "same" for name in attention["implementation"]]
    attention["G"] = 1
    decode = frame[frame["device"].isin(TOKEN_DEVICES)].copy()
    decode["model"] = MODEL
    for part, kinds in ((attention, DEVICES), (decode, TOKEN_DEVICES)):
        part["gpu"] = part["device"].map(kinds)
        part["device"] = part["device_name"].map(brief)
    # short enough for a legend: "AMD EPYC, llama.cpp fork, 32 threads" with "weights Q8_0, KV f16"
    decode["device"] = decode["device"].str.replace(r" fork|, \d+ threads", "", regex=True)
    decode["dtype"] = decode["dtype"].str.replace(r"^weights (\w+),.*", r"\1", regex=True)
    return Published(attention, decode)


def published_lines(rows: pd.DataFrame, what: str, x: str = "S") -> Iterator[Series]:
    """For each device and method the fastest that was published at each value of a column. what: `time` (µs per query)
    or `speedup` (over the fastest dense, without dense itself).
    """
    if rows.empty:
        return
    rows = rows.assign(x=rows[x], y=rows["seconds"] / rows["B"] * 1e6 if what == "time" else rows["speedup"])
    for place, (device, of_device) in enumerate(rows.groupby("device", sort=True)):
        for method, group in of_device.groupby("method", sort=True):
            if what == "speedup" and method == "dense":
                continue
            best = group.groupby("x")["y"].agg("min" if what == "time" else "max").dropna().reset_index()
            label = f"published: {'dense' if method == 'dense' else 'SparQ'}, {device}"
            look = GREYS[place % len(GREYS)], MARKERS[place % len(MARKERS)], "--" if method == "dense" else "-"
            yield Series(label, best, *look, width=0.9, under=True)


def within(published: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """What was published between our smallest and largest S: a figure shows the range that we measured."""
    return published[published["S"].between(ours["S"].min(), ours["S"].max())] if len(published) else published


def kernel_name(implementation: str) -> str:
    """`sparq-attn-triton-oneK` as `SparQ Triton, one copy`."""
    core = implementation.removeprefix("sparq-attn-").removesuffix("-oneK")
    return KERNELS.get(core, core) + (", one copy" if implementation.endswith("-oneK") else "")
