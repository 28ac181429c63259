"""How near to a machine's two ceilings a run came (the paper's Figure 2), and how near decoding can come (C1)."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sparq_eval.report.bench.lines import brief
from sparq_eval.report.bench.rows import PLACE, keys_of
from sparq_eval.report.chart import Chart, Plot, Series, short
from sparq_eval.report.style import COLOURS, DENSE, MARKERS, SPARE_COLOURS, label_of, paler
from sparq_eval.results.record import safe

BACKENDS = {"sdpa": "o", "flex": "s", "flashinfer": "^", "torch": "X", "kernel": "D"}
GROUPS = (1, 8)
RHOS = (4.0, 1.0, 1 / 4, 1 / 16)
BATCHES = 2.0 ** np.arange(0, 11)


def roofline_plots(rows: pd.DataFrame) -> Iterator[Plot]:
    """For each device and dtype: arithmetic intensity (flop per byte that must move) of every timed row of attention
    against the flop/s it reached, under what the measured copy and matrix product allow. rows: of `bench_rows`.
    """
    timed = rows[rows["seconds"].notna()]
    for (device, dtype), group in timed.groupby(list(PLACE), sort=False):
        points = [
            Series(
                f"{label_of(str(method))}, {backend}",
                pd.DataFrame({"x": part["intensity"], "y": part["rate"] / 1e12}).sort_values("x"),
                paler(COLOURS.get(str(method), DENSE), 0.5 if backend == "torch" else 0),
                BACKENDS.get(str(backend), "P"),
                "",
            )
            for (method, backend), part in group.groupby(["method", "backend"], sort=False)
        ]
        # what has few points above what has many
        points.sort(key=lambda series: -len(series.points))
        ceiling = tuple(ceilings(group))
        chart = Chart(limits(group), "arithmetic intensity (flop per byte)", "Tflop/s", (*ceiling, *points), log=True)
        yield Plot(
            f"bench-{safe(str(device))}-{dtype}-roofline",
            f"{brief(str(device))}, {dtype}",
            (chart,),
            1,
            records=keys_of(group),
        )


def limits(group: pd.DataFrame) -> str:
    """The two ceilings in words, those that were measured."""
    copy, matmul = group["copy_ceiling"].max(), group["matmul_ceiling"].max()
    parts = [f"copy {copy / 1e9:,.0f} GB/s"] if copy > 0 else []
    return ", ".join([*parts, *([f"matmul {matmul / 1e12:,.3g} Tflop/s"] if matmul > 0 else [])])


def ceilings(group: pd.DataFrame) -> Iterator[Series]:
    """The slope of the copy's bandwidth and the level of the matrix product's rate, the highest that were measured."""
    copy, matmul = group["copy_ceiling"].max(), group["matmul_ceiling"].max()
    low, high = group["intensity"].min() / 2, group["intensity"].max() * 2
    if copy > 0 and matmul > 0:
        ridge = matmul / copy
        low, high = min(low, ridge / 2), max(high, ridge * 4)
    if copy > 0:
        end = min(high, matmul / copy) if matmul > 0 else high
        slope = pd.DataFrame({"x": [low, end], "y": [copy * low / 1e12, copy * end / 1e12]})
        yield Series("measured copy", slope, "#555555", dashes=(0, (4, 2)), width=1)
    if matmul > 0:
        start = matmul / copy if copy > 0 else low
        level = pd.DataFrame({"x": [start, high], "y": [matmul / 1e12] * 2})
        yield Series("measured matmul", level, "#555555", width=1)


def intensity(B: np.ndarray, rho: float, g: int) -> np.ndarray:
    """Multiply-adds of decoding per element that moves, (6 + rho g) / (6 / B + rho).

    A layer of width d holds 12 d^2 weights, read once for all B; each sequence multiplies with them and, g query heads
    to a key/value head, with S keys and S values of width d: 12 d^2 + 2 S d multiply-adds, for 2 S d / g elements of
    its cache. Divided by 2 d^2, with rho = S / (g d). As B grows it tends to (6 + rho g) / rho: 7 for S = d, g = 1.
    One multiply-add per element is one flop per byte where an element has 16 bits.
    """
    return (6 + rho * g) / (6 / B + rho)


def intensity_plot(rows: pd.DataFrame) -> Plot:
    """The curve over B for some rho and g, and where each measured machine would leave off waiting for its memory."""
    balances = {}
    # elements of 16 bits alone: of those, flop per byte is multiply-adds per element
    measured = rows[rows["dtype"].isin(("float16", "bfloat16"))] if len(rows) else rows
    if len(measured):
        for device, group in measured.groupby("device"):
            balance = (group["matmul_ceiling"] / group["copy_ceiling"]).max()
            if balance > 0:
                balances[f"balance of {brief(str(device))}"] = balance
    charts = []
    for g in GROUPS:
        lines = [
            Series(
                f"rho = {short(rho)}",
                pd.DataFrame({"x": BATCHES, "y": intensity(BATCHES, rho, g)}),
                paler(COLOURS["sparq"], 0.2 * place),
                tuple(MARKERS.values())[place],
            )
            for place, rho in enumerate(RHOS)
        ]
        lines += [
            Series(name, pd.DataFrame({"x": BATCHES[[0, -1]], "y": [balance] * 2}), colour, dashes=(0, (4, 2)), width=1)
            for (name, balance), colour in zip(balances.items(), SPARE_COLOURS * len(balances), strict=False)
        ]
        title = f"g = {g} query head{'s' if g > 1 else ''} per key/value head"
        charts.append(Chart(title, "batch B", "multiply-adds per element", lines, log=True))
    title = "decoding: (6 + rho g) / (6/B + rho), rho = S / (g d_model)"
    return Plot("bench-arithmetic-intensity", title, charts, 2, records=keys_of(measured))
