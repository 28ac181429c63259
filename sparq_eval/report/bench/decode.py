"""Tokens of whole models: the share that attention takes (the paper's Figure 3), time and speed-up (9 and 10)."""

from collections.abc import Iterator

import pandas as pd

from sparq_eval.report.bench.attention import SPEEDUP, XLABEL
from sparq_eval.report.bench.lines import (
    THEORY,
    Looks,
    brief,
    drawn,
    name_budgets,
    name_lines,
    over,
    tell_budgets_apart,
    theory,
)
from sparq_eval.report.bench.published import published_lines, within
from sparq_eval.report.bench.rows import keys_of
from sparq_eval.report.chart import Chart, Plot
from sparq_eval.results.record import safe

PANEL = ("device", "dtype", "B")


def decode_plots(rows: pd.DataFrame, looks: Looks, published: pd.DataFrame) -> Iterator[Plot]:
    """For each model two plots, with panels for each device, dtype and batch. rows: of `bench_rows`."""
    rows = rows.assign(line=name_lines(rows))
    groups = [group for _, group in rows.groupby(["model", *PANEL], sort=False)]
    places = [part.assign(bare=part["line"], line=name_budgets(part)) for part in groups]
    several = {bare for part in places for bare in part.loc[part["line"] != part["bare"], "bare"]}
    panels = [shown.assign(line=name_budgets(shown, several)) for group in groups if len(shown := drawn(group))]
    if panels:
        looks = tell_budgets_apart(looks, pd.concat([shown["line"] for shown in panels]))
    for model, of_model in rows.groupby("model", sort=False):
        times, shares = [], []
        for shown in panels:
            device, dtype, B = shown[list(PANEL)].iloc[0]
            if shown["model"].iloc[0] != model:
                continue
            where = f"{brief(device)}\n{dtype}" + (f", B={B}" if B > 1 else "")
            grey = within(comparable(published, str(model), shown), shown)
            own = tuple(over(shown, shown["seconds"] * 1e3, looks, band=1e3))
            time = (*own, *milliseconds(grey))
            # a narrow range has hardly a tick on a logarithmic axis
            wide = bool(shown["seconds"].max() > 8 * shown["seconds"].min())
            times.append(Chart(where, XLABEL, "time per token (ms)", time, log=wide))
            sparse = shown[shown["method"] != "dense"]
            speed = (
                *over(sparse, sparse["speedup"], looks),
                *theory(sparse, looks),
                *published_lines(grey, "speedup"),
            )
            times.append(Chart(where, XLABEL, SPEEDUP, speed, level=1))
            known = shown[shown["attention_share"].notna()]
            if len(known):
                percent = tuple(over(known, known["attention_share"] * 100, looks))
                shares.append(Chart(where, XLABEL, "time in attention (%)", percent))
        name = f"bench-{safe(str(model))}"
        yield Plot(f"{name}-token", f"{model}: time per token", times, 2, (THEORY,), keys_of(of_model))
        yield Plot(
            f"{name}-attention-share",
            f"{model}: share of attention",
            shares,
            min(2, max(1, len(shares))),
            records=keys_of(of_model),
        )


def milliseconds(grey: pd.DataFrame) -> Iterator:
    if len(grey):
        # per query is per token here; a thousandth of it is in milliseconds
        yield from published_lines(grey.assign(seconds=grey["seconds"] / 1e3), "time")


def comparable(published: pd.DataFrame, model: str, shown: pd.DataFrame) -> pd.DataFrame:
    """What was published of this model on this kind of device, whatever its dtype, which its label gives."""
    if published.empty:
        return published
    first = shown.iloc[0]
    chosen = published[
        (published["gpu"] == first["gpu"]) & (published["model"] == model) & (published["B"] == first["B"])
    ]
    return chosen.assign(
        device=[f"{device} ({dtype})" for device, dtype in zip(chosen["device"], chosen["dtype"], strict=True)]
    )
