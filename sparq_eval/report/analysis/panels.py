"""The panels of the figures of an analysis: histograms, maps of heads, curves of agreement and of coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from scipy.stats import norm

from sparq_eval.report.analysis.published import Published
from sparq_eval.report.style import COLOURS, DASHES, DENSE, SPARE_COLOURS
from sparq_eval.results.analysis import Analysis

OURS, OTHER = COLOURS["sparq"], SPARE_COLOURS[0]
NAMES = {"coverage": "coverage", "sqrt_d": "√d", "sqrt_r": "√r", "none": "1"}
LOOKS = {
    "coverage": (OURS, "o"),
    "sqrt_d": (COLOURS["lm_infinite"], "^"),
    "sqrt_r": (COLOURS["h2o"], "s"),
    "none": (COLOURS["flexgen"], "D"),
}
OF_PAPER = "Llama 2 7B, r = 32"  # of which the published errors are
EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}


def mass_histogram(axes: Axes, mass: Mapping[str, Any], top: int) -> None:
    counts = np.array(mass["counts"])
    axes.stairs(counts / counts.sum(), mass["edges"], fill=True, color=OURS)
    axes.set(title=f"(a) top-{top} weight", xlabel="share of a query's weight", xlim=(0, 1))
    axes.set_ylabel("share of queries")


def heads_panel(
    axes: Axes, heads: Sequence[Sequence[float]], title: str, label: str, low: float, high: float | None
) -> None:
    """A map of layers by heads, sorted in each layer."""
    values = np.sort(np.array(heads, dtype=float).T, axis=0)
    image = axes.imshow(values, cmap="viridis", aspect="auto", origin="lower", vmin=low, vmax=high, rasterized=True)
    axes.set(title=title, xlabel="layer", ylabel="head (sorted)")
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    bar = axes.figure.colorbar(image, ax=axes, pad=0.03)
    bar.set_label(label, fontsize=7)
    bar.outline.set_visible(False)


def density_panel(axes: Axes, queries: Mapping[str, Any], whole: bool = False) -> None:
    """Components in deviations from their head's mean: of each head of the middle layer, or of all heads together."""
    edges = np.array(queries["edges"])
    lines = [queries["all"]] if whole else queries["of_layer"]
    for n, line in enumerate(lines):
        label = ("all heads" if whole else "one head each") if n == 0 else None
        seen = np.array(line) > 0
        x, y = ((edges[1:] + edges[:-1]) / 2)[seen], np.array(line)[seen]
        axes.plot(x, y, color=OURS, linewidth=1.2 if whole else 0.7, label=label)
    middle = np.linspace(edges[0], edges[-1], 400)
    axes.plot(middle, norm.pdf(middle), color=DENSE, linestyle=DASHES, linewidth=1, label="normal")
    axes.set_yscale("log")
    axes.set_ylim(3e-6 if whole else 1e-4, 20)
    axes.yaxis.set_major_locator(LogLocator(10))
    axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    axes.yaxis.set_minor_locator(NullLocator())
    title = "(a) queries" if whole else f"(c) queries, layer {queries['layer']}"
    axes.set(title=title, xlabel="component (z-score)", ylabel="density", xlim=(edges[0], edges[-1]))
    axes.legend(loc="upper right", handlelength=1.4, borderaxespad=0.1)


def kurtosis_histogram(axes: Axes, kurtosis: Sequence[Sequence[float]]) -> None:
    values = np.array(kurtosis, dtype=float).ravel()
    axes.hist(values, bins=24, color=OURS)
    axes.axvline(0, color=DENSE, linestyle=DASHES, linewidth=1)
    axes.annotate("normal", (0, 0.97), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top")
    axes.axvline(float(np.median(values)), color=OTHER, linewidth=1)
    axes.margins(y=0.16)
    axes.set(title=f"(b) kurtosis, median {np.median(values):.1f}", xlabel="kurtosis", ylabel="heads")


def kurtosis_layers(axes: Axes, kurtosis: Sequence[Sequence[float]]) -> None:
    values = np.array(kurtosis, dtype=float)
    layers = np.arange(len(values))
    axes.plot(np.repeat(layers, values.shape[1]), values.ravel(), "o", color=OURS, markersize=2, markeredgewidth=0)
    axes.plot(layers, np.median(values, axis=1), color=OTHER, label="median")
    axes.set(title="(c) kurtosis by layer", xlabel="layer", ylabel="kurtosis")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(y=0.16)
    axes.legend(loc="upper left", borderaxespad=0.1)


def agreement_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], k: int) -> None:
    """Over r, at k: the mean, and where eight of ten heads lie."""
    for score, label, look in (
        ("query", "largest of q", (OURS, "o")),
        ("low_rank", "random projection", (OTHER, "s")),
    ):
        own = agreement_rows(rows, score, k)
        r = [row["r"] for row in own]
        axes.fill_between(r, [row["low"] for row in own], [row["high"] for row in own], color=look[0], alpha=0.14, lw=0)
        axes.plot(r, [row["mean"] for row in own], color=look[0], marker=look[1], label=label, **EDGE)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(r))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(title=f"(e) top-{k} agreement", xlabel="r", ylabel="share found", ylim=(0, 1))
    below(axes)


def coverage_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], head_size: int, published: Published) -> None:
    """alpha beside the weight of the truly best positions, at the r that is nearest to a quarter of the head size."""
    shown = coverage_rows(rows, head_size)
    axes.plot([0, 1], [0, 1], color=DENSE, linewidth=0.8, linestyle=DASHES)
    axes.set(xlabel="weight of the true top", ylabel="alpha", xlim=(0, 1.02), ylim=(0, 1.05))
    if not shown:
        axes.set_title("(f) nothing was left out")
        return
    for row in shown:
        edges, counts = np.array(row["edges"]), np.array(row["counts"])
        seen = counts >= max(5, counts.sum() / 1000)  # a few heads say nothing of a bin
        x, y = ((edges[1:] + edges[:-1]) / 2)[seen], np.array(row["mean"], dtype=float)[seen]
        colour, marker = LOOKS[row["temperature"]]
        theirs = published.rmse.get(row["temperature"])
        label = f"{NAMES[row['temperature']]}: {row['rmse']:.3f}" + (f" [{theirs:.3f}]" if theirs else "")
        axes.plot(x, y, color=colour, marker=marker, label=label, **EDGE)
    axes.set_title(f"(f) top-{rows[0]['k']} weight, r = {shown[0]['r']}")
    told = f"temperature: RMSE\n[{OF_PAPER}]" if published.rmse else "temperature: RMSE"
    below(axes, told)


def below(axes: Axes, title: str | None = None) -> None:
    """A legend below the panel, whose curves leave no room for one."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), title=title, title_fontsize=7, handlelength=1.6)


def power_of_ten(value: float, _: object) -> str:
    """1e-3 as 10⁻³: as text, since figures draw no formulas."""
    digits = str(round(np.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def outlier_panel(
    axes: Axes, heads: Sequence[Sequence[float]], kurtosis: Sequence[Sequence[float]], label: str
) -> None:
    """Agreement of a key/value head against the mean kurtosis of its query heads. heads: nan or None, or no layer at
    all, where nothing was left out.
    """
    found, tails = paired(heads, kurtosis)
    axes.plot(tails.ravel(), found.ravel(), "o", color=OURS, markersize=2.4, markeredgewidth=0, alpha=0.7)
    axes.set(title="(b) against the tails of its queries", xlabel="kurtosis, mean of its query heads", ylabel=label)
    axes.set_ylim(0, 1)


def paired(heads: Sequence[Sequence[float]], kurtosis: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Of each layer and key/value head the agreement and the mean kurtosis; empty where older records do not say which
    layers their agreement is of.
    """
    found, tails = np.array(heads, dtype=float), np.array(kurtosis, dtype=float)
    if len(found) != len(tails):
        return np.zeros((0, 0)), np.zeros((0, 0))
    return found, tails.reshape(*found.shape, -1).mean(axis=-1)


def agreement_rows(rows: Sequence[Mapping[str, Any]], score: str, k: int) -> list[Mapping[str, Any]]:
    """By r."""
    return sorted((row for row in rows if row["score"] == score and row["k"] == k), key=lambda row: row["r"])


def coverage_rows(rows: Sequence[Mapping[str, Any]], head_size: int) -> list[Mapping[str, Any]]:
    """Those of the r that is nearest to a quarter of the head size."""
    r = min((row["r"] for row in rows), key=lambda r: abs(r - head_size / 4), default=None)
    return [row for row in rows if row["r"] == r]


def figE2_row(analysis: Analysis) -> Mapping[str, Any] | None:
    """The agreement that Figure E2 shows: at the paper's r, 16 of 128, or what comes next to it."""
    rows = [row for row in analysis.statistics["agreement"] if "heads" in row]
    return min(rows, key=lambda row: abs(row["r"] - analysis.model["head_size"] / 8), default=None)
