"""A benchmark's record holds what was measured, and the report compares only what may be compared."""

import gzip
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bench_fixture import CPU, GPU, attention, bench, decode, everything, timed
from matplotlib.figure import Figure
from test_report import measure

from sparq_eval.errors import UserError
from sparq_eval.report import write_report
from sparq_eval.report.bench.attention import attention_plots, nearest
from sparq_eval.report.bench.decode import decode_plots
from sparq_eval.report.bench.lines import assign_looks, brief, drawn, name_budgets, name_lines, theory
from sparq_eval.report.bench.published import read_published
from sparq_eval.report.bench.roofline import intensity, intensity_plot, roofline_plots
from sparq_eval.report.bench.rows import SIZES, bench_rows
from sparq_eval.report.canvas import fitting, wrapped
from sparq_eval.report.chart import Chart, Plot, Series, draw, short, write_plot
from sparq_eval.report.paper.kernels import joined
from sparq_eval.results import AttentionRow, Bench, DecodeRow, load, load_benches
from sparq_eval.results.bench import read

NOTHING = pd.DataFrame()
DENSE = AttentionRow(
    **{"method": "dense", "implementation": "sdpa flash", "backend": "sdpa", "dtype": "float16", "B": 4, "S": 4096},
    **{"H": 8, "G": 1, "D": 64, "bytes": 1e9, "flops": 1e9},
    **timed(1e-3),
)
SPARQ = replace(
    DENSE,
    method="sparq",
    implementation="sparq triton",
    backend="kernel",
    copy="same",
    r=16,
    k=64,
    bytes=2e8,
    seconds=4e-4,
)
TOKEN = DecodeRow(
    **{"method": "dense", "implementation": "sdpa flash", "dtype": "float16", "B": 1, "S": 4096},
    **{"model": "m", "weight_bytes": 1e9, "cache_bytes": 1e8},
    **timed(1e-3),
)
UNTIMED: dict[str, Any] = {"seconds": None, "low": None, "high": None, "repeats": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for one in everything(few=True):
        one.save(folder)
    return folder


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    assert write_report(root, folder) is None
    return folder


def plots_of(benches: list[Bench], published: pd.DataFrame = NOTHING) -> list[Plot]:
    rows, tokens = bench_rows(benches, "attention"), bench_rows(benches, "decode")
    looks = assign_looks([label for frame in (rows, tokens) if len(frame) for label in name_lines(frame)])
    plots = [*attention_plots(rows, looks, published), *roofline_plots(rows)] if len(rows) else []
    return plots + (list(decode_plots(tokens, looks, published)) if len(tokens) else [])


def points_of(plot: Plot, chart: int = 0) -> dict[str, dict[float, float]]:
    lines = plot.charts[chart].series
    return {line.label: dict(zip(line.points["x"], line.points["y"], strict=True)) for line in lines}


@pytest.mark.parametrize("rows", [[DENSE, replace(SPARQ, **UNTIMED, note="no kernel")], [TOKEN]])
def test_what_was_saved_is_read_back_equal_under_one_name(tmp_path: Path, rows: list[Any]) -> None:
    record = bench(rows)
    path = record.save(tmp_path / "new")
    assert read(path) == record and record.save(path.parent) == path
    assert [file.name for file in path.parent.iterdir()] == [
        f"bench-{record.kind}-NVIDIA-H100-80GB-HBM3-{record.key}.json"
    ]
    shutil.copytree(path.parent, tmp_path / "again")
    assert load_benches(tmp_path) == [record]


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edited


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "cut": (lambda text: text[:100], "no record of a benchmark"),
    "list": (lambda text: "[]", "an object is needed"),
    "schema": (edit(lambda content: content.update(schema=2)), "schema=2: this version reads 1"),
    "key": (edit(lambda content: content.pop("git")), "its keys must be"),
    "kind": (edit(lambda content: content.update(kind="x")), "kind='x' must be one of attention, decode"),
    "rows": (edit(lambda content: content.update(rows={})), "rows a list"),
    "row": (edit(lambda content: content["rows"].append(3)), r"rows\[1\]: an object is needed"),
    "unknown": (edit(lambda content: content["rows"][0].update(x=1)), r"rows\[0\].x: no such key; there are method"),
    "missing": (edit(lambda content: content["rows"][0].pop("H")), r"rows\[0\]: .*'H'"),
    "type": (edit(lambda content: content["rows"][0].update(B="4")), r"rows\[0\]: B='4': int is needed"),
    "truth": (edit(lambda content: content["rows"][0].update(seconds=True)), "seconds=True: float or null is needed"),
    "nan": (edit(lambda content: content["rows"][0].update(seconds=math.nan)), "seconds=nan"),
    "silent": (edit(lambda content: content["rows"][0].update(seconds=None)), "a row without seconds must say why"),
    "negative": (edit(lambda content: content["rows"][0].update(seconds=-1.0)), "a positive time"),
    "method": (edit(lambda content: content["rows"][0].update(method="x")), "method='x': one of dense, sparq"),
    "copy": (edit(lambda content: content["rows"][0].update(copy="x")), "copy='x': one of same"),
    "bytes": (edit(lambda content: content["rows"][0].update(bytes=None)), "bytes=None: a positive number"),
    "device": (edit(lambda content: content["machine"].pop("device")), "machine.device=None"),
    "versions": (edit(lambda content: content.update(versions=[])), r"versions=\[\]: an object"),
    "when": (edit(lambda content: content.update(when="yesterday")), "when='yesterday': an ISO date"),
    "ceiling": (edit(lambda content: content["ceilings"].update(copy=0)), "ceilings.copy=0: a positive number"),
    "hand": (edit(lambda content: content["rows"][0].update(seconds=1e-9)), "changed by hand"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_malformed_is_named_and_left_out(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, why = BROKEN[name]
    path = bench([DENSE]).save(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=why):
        read(path)
    other = bench([TOKEN])
    other.save(tmp_path)
    assert load_benches(tmp_path) == [other]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and str(path) in said[0] and said[0].endswith("left out")


def test_a_benchmark_is_no_foreign_part_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = measure(tmp_path, "m", "squad", "dense", {}, n=1)
    bench([DENSE]).save(tmp_path)
    bench([TOKEN]).save(folder)
    (tmp_path / "bench-other.json").write_text("{}")
    assert len(load(tmp_path).records) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "bench-other.json: no part of a record" in said[0]


@pytest.mark.parametrize("seed", range(3))
def test_speed_up_is_against_the_fastest_dense_of_the_same_sizes_dtype_and_device(seed: int) -> None:
    chance = random.Random(seed)
    benches = []
    for machine in (GPU, CPU):
        rows = []
        for dtype in ("float16", "float32"):
            for B, S, H, G in [(1, 1024, 8, 1), (1, 2048, 8, 1), (2, 1024, 8, 1), (1, 1024, 2, 4)]:
                for implementation in ("sdpa flash", "flex", "sdpa math", "sparq triton", "sparq torch"):
                    row = DENSE if "sparq" not in implementation else SPARQ
                    sizes = {"B": B, "S": S, "H": H, "G": G, "dtype": dtype, "implementation": implementation}
                    row = replace(row, **sizes, seconds=chance.uniform(1e-5, 1e-3))
                    rows.append(row if chance.random() < 0.7 else replace(row, **UNTIMED, note="not here"))
        benches.append(bench(rows, machine))
    every = bench_rows(benches, "attention")
    assert len(every) == 80 and every["seconds"].notna().sum() > 20
    for row in every.to_dict("records"):
        peers = every[(every["method"] == "dense") & every["seconds"].notna()]
        for name in SIZES["attention"]:
            peers = peers[peers[name] == row[name]]
        if peers.empty or math.isnan(row["seconds"]):
            assert math.isnan(row["speedup"])
            continue
        fastest = peers.sort_values("seconds").iloc[0]
        assert row["dense"] == fastest["implementation"]
        assert row["speedup"] == pytest.approx(fastest["seconds"] / row["seconds"])
        assert row["byte_ratio"] == pytest.approx(1 if row["method"] == "dense" else 5)
        assert row["share"] == pytest.approx(row["speedup"] / row["byte_ratio"])


def test_what_was_not_timed_is_listed_with_its_note_and_never_drawn(out: Path) -> None:
    table = pd.read_csv(out / "bench-attention.csv")
    untimed = table[table["seconds"].isna()]
    assert len(untimed) and untimed["note"].str.startswith("needs 68.7 GB").all() and untimed["speedup"].isna().all()
    text = (out / "bench-attention.md").read_text()
    assert text.count("needs 68.7 GB, of which 64.0 GB are free") == len(untimed)
    assert "needs 82 GB" in (out / "bench-decode.md").read_text()
    for path in out.glob("bench-*.csv"):
        points = pd.read_csv(path)
        if "x_is" in points:
            assert points["y"].notna().all() and not (points["line"] == "").any(), path
    assert set(untimed["S"]) == {65536} and set(untimed["B"]) == {64}
    drawn_at = pd.read_csv(next(out.glob("*float16*-positions.csv")))["x"]
    assert set(drawn_at) == {2048, 4096}


def test_device_and_dtype_never_mix_in_a_line() -> None:
    mixed = [bench([DENSE, SPARQ]), bench([DENSE, replace(SPARQ, seconds=1e-4)], CPU)]
    mixed.append(bench([replace(row, dtype="bfloat16", seconds=2e-4) for row in (DENSE, SPARQ)]))
    rows = bench_rows(mixed, "attention")
    with pytest.raises(ValueError, match="one device and dtype"):
        drawn(rows)
    plots = [plot for plot in plots_of(mixed) if plot.name.endswith("-positions")]
    speedups = {plot.title.split(":")[0]: points_of(plot, 1)["SparQ triton"] for plot in plots}
    assert len({plot.name for plot in plots}) == 3
    assert sorted(round(points[4096], 6) for points in speedups.values()) == [1, 2.5, 10]
    tokens = [bench([TOKEN]), bench([replace(TOKEN, seconds=2e-3)], CPU)]
    [plot] = [plot for plot in plots_of(tokens) if plot.name.endswith("-token")]
    for chart in range(0, 4, 2):
        assert [len(points) for points in points_of(plot, chart).values()] == [1]


def test_threads_tell_cpus_apart_and_no_gpus() -> None:
    benches = [bench([DENSE], {**machine, "threads": threads}) for machine in (GPU, CPU) for threads in (1, 2)]
    devices = set(bench_rows(benches, "attention")["device"])
    assert devices == {GPU["device"], f"{CPU['device']}, 1 threads", f"{CPU['device']}, 2 threads"}


def test_a_setting_measured_again_counts_once_and_the_latest_time_counts(capsys: pytest.CaptureFixture[str]) -> None:
    early, late, failed = "2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00", "2024-01-03T00:00:00+00:00"
    benches = [
        bench([replace(DENSE, seconds=2e-3)], when=late),
        bench([replace(DENSE, seconds=1e-3)], when=early),
        bench([replace(DENSE, **UNTIMED, note="busy")], when=failed),
    ]
    assert bench_rows(benches, "attention")["seconds"].to_list() == [2e-3]
    assert "2 of 3 attention benchmarks were measured more than once" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_a_speed_up_is_of_one_record_the_latest_that_has_both(seed: int) -> None:
    chance = random.Random(seed)
    benches = []
    for day in range(1, 6):
        names = [name for name in ("sdpa cudnn", "sdpa flash", "sparq triton", "sparq torch") if chance.random() < 0.6]
        rows = [
            replace(SPARQ if "sparq" in name else DENSE, implementation=name, seconds=chance.uniform(1e-5, 1e-3))
            for name in names
        ]
        if rows:
            benches.append(bench(rows, when=f"2024-01-{day:02}T00:00:00+00:00"))
    chance.shuffle(benches)
    shown = bench_rows(benches, "attention")
    for row in shown[shown["method"] == "sparq"].to_dict("records"):
        having = [one for one in benches if row["implementation"] in {each.implementation for each in one.rows}]
        both = [one for one in having if any(each.method == "dense" for each in one.rows)]
        right = max(both or having, key=lambda one: one.when)
        assert row["record"] == right.key
        dense = [each.seconds for each in right.rows if each.method == "dense" and each.seconds]
        assert math.isnan(row["speedup"]) if not dense else row["speedup"] == min(dense) / row["seconds"]
    assert shown["fastest"].sum() == any(row.method == "dense" for one in benches for row in one.rows)


def test_benchmarks_alone_make_a_report(out: Path) -> None:
    stems = {path.stem for path in out.glob("*.png")}
    assert stems == {path.stem for path in out.glob("*.svg")}
    assert {stem.rpartition("-")[2] for stem in stems} == {
        *("positions", "batches", "budgets", "roofline", "intensity", "share", "token")
    }
    for stem in (*stems, "bench-attention", "bench-decode", "bench-table4"):
        assert len(pd.read_csv(out / f"{stem}.csv")) and (out / f"{stem}.md").read_text().count("\n| ") > 2
    assert not list(out.glob("results.*"))


def test_records_of_both_kinds_make_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    measure(results, "m", "squad", "dense", {}, n=2)
    bench([DENSE, SPARQ]).save(results)
    frames = write_report(results, results / "report")
    assert frames is not None and len(frames.records) == 1
    names = {path.name for path in (results / "report").iterdir()}
    assert {"results.csv", "m_squad.png", "bench-attention.md", "bench-table4.csv"} <= names
    write_report(results, results / "report")
    assert "left out" not in capsys.readouterr().err, "a report is no foreign part of the results"


def test_a_filter_of_records_refuses_where_there_are_none(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no record in it"):
        write_report(root, tmp_path, models=["m"])
    with pytest.raises(UserError, match="there is no record in it"):
        write_report(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "rows",
    [
        [DENSE],
        [SPARQ],
        [replace(DENSE, **UNTIMED, note="a|b\n$x$")],
        [replace(SPARQ, low=None, high=None, r=8, implementation="sparq $a_b$ 模", reallocate=True), DENSE],
        [replace(SPARQ, reallocate=True), replace(SPARQ, reallocate=False)],
        [TOKEN],
        [replace(TOKEN, **UNTIMED, note="no memory", weight_bytes=None)],
        [replace(TOKEN, method="h2o", implementation="h2o triton", k=64)],
    ],
)
def test_odd_records_are_drawn_without_a_warning(rows: list[Any], tmp_path: Path) -> None:
    changes = {"ceilings": {"copy": None, "matmul": None}} if rows[0].method == "sparq" else {}
    replace(bench(rows), **changes).save(tmp_path / "results")
    write_report(tmp_path / "results", tmp_path)
    kind = "decode" if isinstance(rows[0], DecodeRow) else "attention"
    assert len(pd.read_csv(tmp_path / f"bench-{kind}.csv")) == len(rows)


def test_lines_name_what_ran_and_the_copy_that_was_read() -> None:
    copies = [replace(SPARQ, copy=copy) for copy in ("same", "fp8", "none")]
    rows = bench_rows([bench([DENSE, *copies, replace(SPARQ, implementation="sparq torch")])], "attention")
    assert set(name_lines(rows)) == {
        *("dense, fastest", "SparQ triton", "SparQ triton, fp8 copy", "SparQ triton, one copy", "SparQ torch")
    }
    looks = assign_looks(list(name_lines(rows)))
    assert len({look.colour for look in looks.values()}) == 5, "no two lines of one figure have a colour"


def test_budgets_tell_lines_apart_only_where_a_line_has_several() -> None:
    def names(*budgets: tuple[int, int, int]) -> list[str]:
        tokens = [replace(TOKEN, method="sparq", implementation="sparq", S=S, r=r, k=k) for S, r, k in budgets]
        rows = bench_rows([bench(tokens)], "decode")
        return sorted(set(name_budgets(rows.assign(line=name_lines(rows)))))

    assert names((4096, 16, 64), (8192, 16, 64)) == ["SparQ"]
    assert names((4096, 16, 512), (8192, 16, 1024)) == ["SparQ"]
    assert names((4096, 16, 64), (4096, 16, 128), (8192, 16, 64)) == ["SparQ r=16 k=128", "SparQ r=16 k=64"]
    shares = [(S, 16, S // share) for S in (4096, 8192, 16384) for share in (8, 16)]
    assert names(*shares) == ["SparQ r=16 k=S/16", "SparQ r=16 k=S/8"]
    mixed = [(S, r, k) for S in (4096, 8192, 16384) for r, k in ((16, S // 16), (32, 128))]
    assert names(*mixed) == ["SparQ r=16 k=S/16", "SparQ r=32 k=128"]
    # two budgets that are the same share of a length, to rounding, are two lines
    assert len(names((1000, 16, 60), (1000, 16, 59), (2000, 16, 120), (2000, 16, 118))) == 4


def test_figures_show_the_papers_setting_or_the_nearest() -> None:
    rows = [replace(row, B=B, S=S) for row in attention_rows() for B in (8, 32) for S in (1024, 2048)]
    [plot] = [plot for plot in plots_of([bench(rows)]) if plot.name.endswith("-positions")]
    assert plot.title.endswith("B=32, r=32, k=128") and set(points_of(plot)["SparQ triton"]) == {1024, 2048}
    assert nearest(pd.Series([16, 256]), 64) == 256 and nearest(pd.Series([1, 2]), 64) == 2


def test_one_batch_or_one_budget_is_drawn_once() -> None:
    rows = [DENSE, SPARQ]
    assert [plot.name.rpartition("-")[2] for plot in plots_of([bench(rows)])] == ["positions", "roofline"]
    rows += [replace(row, B=8) for row in rows]
    assert [plot.name.rpartition("-")[2] for plot in plots_of([bench(rows)])] == ["positions", "batches", "roofline"]
    rows.append(replace(SPARQ, B=8, k=128))
    names = [plot.name.rpartition("-")[2] for plot in plots_of([bench(rows)])]
    assert names == ["positions", "batches", "budgets", "roofline"]


def test_budgets_are_shown_at_the_batch_that_has_most_of_them() -> None:
    rows = [replace(row, B=B) for row in (DENSE, SPARQ) for B in (4, 64)] + [replace(SPARQ, k=k) for k in (128, 256)]
    [plot] = [plot for plot in plots_of([bench(rows)]) if plot.name.endswith("-budgets")]
    assert plot.title.endswith(": B=4") and [chart.title for chart in plot.charts] == ["S=4096"]
    assert set(points_of(plot)["SparQ triton"]) == {64, 128, 256}


def test_budgets_are_drawn_over_k_with_a_line_for_each_r_or_over_r() -> None:
    both = [replace(SPARQ, r=r, k=k, S=S) for r in (16, 32) for k in (64, 128) for S in (4096, 8192)]
    dense = [replace(DENSE, S=S) for S in (4096, 8192)]
    [plot] = [plot for plot in plots_of([bench([*dense, *both])]) if plot.name.endswith("-budgets")]
    assert [chart.title for chart in plot.charts] == ["S=4096", "S=8192"]
    assert {name: set(points) for name, points in points_of(plot).items() if "allow" not in name} == {
        "SparQ triton r=16": {64, 128}, "SparQ triton r=32": {64, 128},
    }  # fmt: skip
    [plot] = [plot for plot in plots_of([bench([*dense, *both[:2], *both[4:6]])]) if plot.name.endswith("-budgets")]
    assert set(points_of(plot)["SparQ triton"]) == {16, 32} and plot.charts[0].xlabel.endswith("r")


def test_a_budget_looks_the_same_in_all_panels() -> None:
    sparse = [replace(TOKEN, method="sparq", implementation="sparq triton", copy="same", r=16, k=k) for k in (64, 128)]
    here, there = ([TOKEN, *sparse], [replace(row, dtype="bfloat16") for row in (TOKEN, sparse[1])])
    [plot] = [plot for plot in plots_of([bench(here), bench(there)]) if plot.name.endswith("-token")]
    looks = [(series.label, series.colour, series.marker) for chart in plot.charts[::2] for series in chart.series]
    assert len(looks) == 5 and len(set(looks)) == 3 == len({label for label, *_ in looks})


def test_a_line_with_several_budgets_in_one_panel_names_them_in_all() -> None:
    sparse = replace(TOKEN, method="sparq", implementation="sparq triton", copy="same", r=16, k=64)
    narrow = replace(sparse, copy="fp8")
    here = bench([TOKEN, sparse, narrow, replace(sparse, k=128)])
    there = bench([replace(row, dtype="bfloat16") for row in (TOKEN, sparse)])
    [plot] = [plot for plot in plots_of([here, there]) if plot.name.endswith("-token")]
    names = sorted(sorted(points_of(plot, chart)) for chart in (0, 2))
    first, second = "SparQ triton r=16 k=128", "SparQ triton r=16 k=64"
    assert names == [[first, second, "SparQ triton, fp8 copy", "dense, fastest"], [second, "dense, fastest"]]


def test_a_single_point_is_seen_whole() -> None:
    figure = Figure()
    axes = figure.subplots()
    points = pd.DataFrame({"x": [4096.0], "y": [21.2], "low": [21.2], "high": [21.2]})
    draw(axes, Chart("", "S", "ms", [Series("dense", points, "black", "o")], linear=True), 3.0)
    assert axes.get_ylim()[1] > 21.2 * 1.04
    rows = bench_rows([bench([DENSE, SPARQ])], "attention").assign(line="SparQ triton")
    [allowed] = theory(rows[rows["method"] == "sparq"], assign_looks(["SparQ triton"]))
    assert allowed.marker == ".", "what bytes allow is no line there"


def test_what_all_panels_have_in_common_is_in_the_title() -> None:
    rows = [DENSE, SPARQ]
    other = [replace(row, dtype="bfloat16") for row in rows]
    plots = [plot for plot in plots_of([bench(rows), bench(other)]) if plot.name.endswith("-positions")]
    one = joined("fig8", "attention", plots, 2)
    assert one.title == "attention: H100 80GB HBM3, H=8, G=1, D=64"
    titles = {chart.title for chart in one.charts}
    assert titles == {f"{dtype}: B=4, r=16, k=64" for dtype in ("float16", "bfloat16")}
    assert joined("fig8", "attention", plots[:1], 2).charts[0].title == "B=4, r=16, k=64"


@pytest.mark.parametrize("width", [1.5, 3.4, 7.0])
def test_a_title_is_whole_and_within_its_panel(width: float) -> None:
    title = "AMD EPYC 7763 64-Core Processor, 32 threads, float32, H=32, G=1, D=128: B=1, r=32, k=128"
    lines = wrapped(title, width)
    assert " ".join(lines) == title and max(map(len, lines)) <= width * 14


def attention_rows() -> list[AttentionRow]:
    return [DENSE, SPARQ, replace(SPARQ, r=32, k=128)]


def test_times_are_per_query_and_the_bytes_ratio_lies_above() -> None:
    [plot] = [plot for plot in plots_of([bench([DENSE, SPARQ])]) if plot.name.endswith("-positions")]
    assert points_of(plot)["dense, fastest"] == {4096: pytest.approx(250)}
    assert points_of(plot, 1) == {
        "SparQ triton": {4096: pytest.approx(2.5)},
        "SparQ triton: bytes allow": {4096: pytest.approx(5)},
    }


def test_no_point_lies_above_a_ceiling_that_it_did_not_beat() -> None:
    [plot] = [plot for plot in plots_of([bench(list(attention(GPU, "float16", few=True)))]) if "roofline" in plot.name]
    for label, points in points_of(plot).items():
        if "SparQ" in label or "dense" in label:
            assert all(y <= min(3.0 * x, 700) for x, y in points.items()), label


def test_arithmetic_intensity_is_the_papers() -> None:
    many = np.array([1e9])
    limits = [(1, 1, 7), (8, 1 / 16, 104), (8, 1 / 4, 32)]
    assert [float(intensity(many, rho, g)[0]) for g, rho, _ in limits] == pytest.approx([limit for *_, limit in limits])
    d, S, B, g = 4096, 2048, 16, 4
    moved, flops = 12 * d * d + 2 * B * S * d / g, B * (12 * d * d + 2 * S * d)
    assert float(intensity(np.array([B]), S / (g * d), g)[0]) == pytest.approx(flops / moved)


PUBLISHED = """\
device,device_name,kernel,batch_size,sequence_length,n_head,head_dim,dtype,r,k,us_per_query,theoretical_bytes_per_query,speedup_vs_best_dense
cuda,NVIDIA X,attn-flash,4,4096,8,64,float16,,,400,1000,0.5
cuda,NVIDIA X,attn-torch,4,4096,8,64,float16,,,200,1000,1.0
cuda,NVIDIA X,sparq-attn-triton,4,4096,8,64,float16,16,64,50,200,4.0
cuda,NVIDIA X,sparq-attn-triton-oneK,4,4096,8,64,float16,16,64,100,200,2.0
cuda,NVIDIA X,sparq-attn-triton,4,4096,8,64,float32,16,64,1,200,200
cuda,NVIDIA X,sparq-attn-triton,4,4096,8,64,float16,32,64,1,200,200
cuda,NVIDIA X,attn-torch,4,65536,8,64,float16,,,900000,9000,1.0
cpu,Y,sparq-attn-torch,4,4096,8,64,float16,16,64,1,200,200
ipu,Z,sparq-attn,4,4096,8,64,float16,16,64,1,200,200
gpu (end-to-end),W,gpt-fast sparq,1,4096,,,BF16,16,256,,,1.5
"""


def test_published_points_lie_under_ours_where_sizes_dtype_and_device_agree(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.csv.gz").write_bytes(gzip.compress(PUBLISHED.encode()))
    published = read_published(tmp_path)
    [plot] = [plot for plot in plots_of([bench([DENSE, SPARQ])], published.attention) if "positions" in plot.name]
    times, speedups = points_of(plot), points_of(plot, 1)
    assert times["published: dense, X"] == {4096: pytest.approx(200)}
    assert times["published: SparQ, X"] == {4096: pytest.approx(50)}
    assert speedups["published: SparQ, X"] == {4096: 4.0} and "published: dense, X" not in speedups
    assert not [label for label in times if label.endswith((" Y", " Z"))]
    token = replace(TOKEN, model="llama-2-7b")
    [plot] = [plot for plot in plots_of([bench([token])], published.decode) if "-token" in plot.name]
    assert points_of(plot, 1)["published: SparQ, W (BF16)"] == {4096: 1.5}
    bench([DENSE, SPARQ]).save(tmp_path / "results")
    write_report(tmp_path / "results", tmp_path / "out", published=tmp_path)
    table = (tmp_path / "out" / "bench-table4.md").read_text()
    assert "| published: SparQ Triton, one copy | X | 100 | 200 | 2 | 5 |" in table


def test_published_that_is_not_there_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"published=.*benchmarks\.csv\.gz could not be read"):
        write_report(root, tmp_path / "out", published=tmp_path)
    pd.DataFrame({"device": []}).to_csv(tmp_path / "benchmarks.csv.gz")
    with pytest.raises(UserError, match="has no column device_name, kernel"):
        write_report(root, tmp_path / "out", published=tmp_path)


def test_the_papers_own_table_4_is_found_in_its_benchmarks(shared: Path) -> None:
    if not (shared / "paper").is_dir():
        pytest.skip("no published benchmarks")
    there = read_published(shared / "paper").attention.query("B == 64 and S == 4096 and r == 32 and k == 128 and gpu")
    best = there.groupby("device")["speedup"].max().round(2).to_dict()
    assert best == {"A100-40GB": 3.02, "A10G": 4.17}


def test_the_same_rows_give_the_same_figure(tmp_path: Path) -> None:
    plot = intensity_plot(bench_rows([bench([DENSE])], "attention"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_plot(plot, folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_a_figure_says_is_short() -> None:
    assert [short(number) for number in (1 / 4, 1, 128, 4096, 131072, 45000)] == [
        "1/4",
        "1",
        "128",
        "4k",
        "128k",
        "45000",
    ]
    assert brief("Intel(R) Xeon(R) Platinum 8480 CPU @ 2.00GHz") == "Intel Xeon Platinum 8480"
    assert brief(f"{CPU['device']}, 32 threads") == "AMD EPYC 7763, 32 threads"
    assert fitting(["x" * 60] * 4, 3.5) == 1 and fitting(["x"] * 4, 5) == 4


def test_shares_of_attention_are_of_the_same_token() -> None:
    [plot] = [plot for plot in plots_of([bench(list(decode(CPU, "float32")), CPU)]) if "share" in plot.name]
    for points in points_of(plot).values():
        assert len(points) == 6 and all(0 < y < 100 for y in points.values())
