"""Figures and tables of the paper show what the records hold, say which, and name the command for what is missing."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bench_fixture import CPU, GPU, attention, bench, decode
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_report import measure

from sparq_eval.analyse.__main__ import check_used
from sparq_eval.bench.options import parser as bench_parser
from sparq_eval.errors import UserError
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.overrides import CONFIGS, check_overrides
from sparq_eval.report.analysis import newest
from sparq_eval.report.needles import needles
from sparq_eval.report.paper import draw_figures
from sparq_eval.report.paper.catalogue import CATALOGUE
from sparq_eval.report.paper.needle import cells, compressions
from sparq_eval.report.paper.sources import Sources, load_sources, main_settings
from sparq_eval.report.paper.table2 import interpolate, rows_of
from sparq_eval.report.paper.table3 import bins
from sparq_eval.results import Identity, Row, Store, load
from sparq_eval.results.analysis import load_analyses

LENGTHS, DEPTHS = (896, 1920, 9088), (0.0, 0.25, 1.0)
NEEDLES = (("dense", {}, 1.0), ("sparq", {"k": 0.125, "r": 16}, 0.25), ("h2o", {"k": 0.25}, 0.25))
TASKS = ("squad", "repetition")
MISTRAL = ("mistral-7b", "triviaqa")


def write_needles(root: Path, model: str) -> None:
    """Made-up answers to the needle task: found at depths from a length's own on."""
    for method, settings, share in NEEDLES:
        identity = Identity({"name": model}, "needle", {}, method, settings, {}, {})
        rows = []
        for length in LENGTHS:
            for depth in DEPTHS:
                place, S = int(depth * length), float(length)
                found = float(method == "dense" or depth >= {"sparq": 0.25, "h2o": 1.0}[method])
                traffic = (S * share, S) * 2
                active = 0.0 if method == "dense" else 1.0
                rows.append(
                    Row(
                        len(rows),
                        f"{length}-{place}",
                        length,
                        3,
                        "",
                        found,
                        *traffic,
                        2,
                        2,
                        active,
                        int(active),
                        *(False, True, 0.1),
                    )
                )
        Store(root).open(identity, metric="needle_match", higher_is_better=True).append(rows, {"started": "now"})


def sparq(r: int, k: int = 128, **more: Any) -> dict[str, Any]:
    return {"r": r, "k": k, "local": k // 4, "reallocate": True} | more


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of everything a little: two models (one of the paper's), needles, lengths, ablations, benchmarks."""
    folder = tmp_path_factory.mktemp("results")
    for model in ("llama2-7b", "mine"):
        for task in TASKS:
            measure(folder, model, task, "dense", {}, n=4)
            for r in (8, 16, 32):
                measure(folder, model, task, "sparq", sparq(r), n=4, score=0.3 + r / 100)
            for k in (64, 256):
                measure(folder, model, task, "h2o", {"k": k, "local": k // 4}, n=4, score=0.2 + k / 2000)
    for r in (8, 16, 32):
        measure(folder, "llama2-7b", "squad", "sparq", sparq(r, 64), n=4)
    for k in (32, 64):
        measure(folder, "llama2-7b", "squad", "sparq", sparq(16, k, score="oracle"), n=4)
    for temperature in ("none", "sqrt_d", "sqrt_r"):
        measure(folder, "llama2-7b", "squad", "sparq", sparq(32, temperature=temperature), n=4, score=0.33)
    measure(folder, "llama2-7b", "squad", "sparq", sparq(32) | {"reallocate": False}, n=4, score=0.31)
    for place, contexts in enumerate((3, 7, 15)):
        task = f"squad_train_{contexts}"
        measure(folder, "mine", task, "dense", {}, n=2, prompt_tokens=1000 * 2**place)
        measure(folder, "mine", task, "sparq", sparq(16), n=2, prompt_tokens=1000 * 2**place)
    write_needles(folder, "mine")
    for machine, dtype in ((GPU, "float16"), (CPU, "float32")):
        few = [row for row in attention(machine, dtype, few=True) if row.r in (None, 16) and row.copy in (None, "same")]
        bench(few, machine).save(folder)
        bench(list(decode(machine, dtype)), machine).save(folder)
    return folder


@pytest.fixture(scope="module")
def sources(root: Path) -> Sources:
    return load_sources(root, None)


@pytest.fixture(scope="module")
def drawn(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Path]]]:
    out = tmp_path_factory.mktemp("out")
    return out, draw_figures(["all"], root, out)


def test_every_name_draws_what_there_is(drawn: tuple[Path, dict[str, list[Path]]], root: Path) -> None:
    out, files = drawn
    assert list(files) == list(CATALOGUE)
    nothing = {name for name, written in files.items() if not written}
    assert nothing == {"fig4", "figE1", "figE2", "table1", "figA2"}
    known = set(load(root).records["key"]) | {path.stem[-12:] for path in root.glob("bench-*.json")}
    for name in files.keys() - nothing:
        origin = json.loads((out / f"{name}.json").read_text())
        assert {path.name for path in files[name]} == set(origin["files"])
        assert all(path.stat().st_size > 200 for path in files[name])
        assert set(origin["records"]) <= known and origin["records"], name
        numbers = pd.read_csv(next(iter(sorted(out.glob(f"{name}*.csv")))))
        assert len(numbers)
    assert (out / "fig1.svg").read_text().count("<path") > 30


def accepted(command: str) -> None:
    """As its program reads it, up to where work would begin."""
    python, option, program, *words = shlex.split(command)
    assert (python, option) == ("python", "-m")
    if program == "sparq_eval.bench":
        bench_parser().parse_args(words)
        return
    if program == "sparq_eval.analyse":
        check_overrides(words)
        check_used(words)
        assert {"model=llama2-7b", "task=squad"} <= set(words)
        return
    assert program == "sparq_eval"
    grids = {path.stem for path in (CONFIGS / "grid").glob("*.yaml")}
    if "grid=ablations" in words and "ablations" not in grids:
        return  # it comes with the settings that it sweeps
    check_overrides(words)
    settings = read_settings(dict(OmegaConf.to_container(compose("config", words), resolve=True)))  # type: ignore[arg-type]
    assert len(settings.settings) + len(settings.templates) > 1 and settings.samples >= 500


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of nothing that the paper has."""
    folder = tmp_path_factory.mktemp("bare")
    measure(folder, "other", "arc_easy", "dense", {}, n=2)
    return folder


def test_what_is_missing_has_a_command_that_the_command_line_accepts(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = draw_figures(["all"], bare, tmp_path)
    assert {name for name, written in files.items() if written} == {"figC1"}, "a formula needs no record"
    lines = capsys.readouterr().out.splitlines()
    last = [line for line in lines if line.startswith("missing: ")]
    assert lines[-len(last) :] == last, "what is missing comes last"
    for name in files.keys() - {"figC1"}:
        assert f"{name}: not drawn, there are no records for it" in lines
        assert any(re.search(rf"[( ]{name}[,)]", line) for line in last), name
    found = [line[line.index("): python -m") + 3 :] for line in last]
    assert len(found) == len(set(found)) > 40, "a command is named once"
    tasks = {path.stem for path in (Path(__file__).parents[1] / "tasks").glob("*.yaml")}
    alike: dict[str, str] = {}
    for command in found:
        words = dict(word.partition("=")[::2] for word in command.split() if "=" in word)
        assert words.get("task", "squad") in tasks
        # one task stands for all with the same words before it
        alike.setdefault(command.split(" task=")[0], command)
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        for command in alike.values():
            accepted(command)


def test_mistakes_are_one_sentence(bare: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="figure=fig5: there is no such figure or table; there are fig1, fig2"):
        draw_figures(["fig1", "fig5"], root, tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="there is no record in it"):
        draw_figures(["fig1"], tmp_path / "none", tmp_path)
    with pytest.raises(UserError, match="model=x: no record has it"):
        draw_figures(["fig1"], bare, tmp_path, models=["x"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out=.*could not be written"):
        draw_figures(["figC1"], bare, tmp_path / "file")
    with pytest.raises(UserError, match=r"published=.*could not be read"):
        draw_figures(["fig1"], bare, tmp_path, published=tmp_path)


def test_trade_offs_draw_the_records_scores(drawn: tuple[Path, dict], root: Path) -> None:
    out, _ = drawn
    records = load(root).records.set_index("key")
    for name, models in (("figA1", {"llama2-7b"}), ("figA3", {"mine"}), ("fig1", None)):
        numbers = pd.read_csv(out / f"{name}.csv")
        assert models is None or set(numbers["model"]) == models
        assert numbers["value"].to_list() == pytest.approx(records.loc[numbers["key"], "value"].to_list())
        assert set(json.loads((out / f"{name}.json").read_text())["records"]) == set(numbers["key"])
    # ablations are no points of the trade-off
    kept = numbers_of(out, "figA1").query("task == 'squad' and method == 'sparq'")
    assert sorted(kept["r"]) == [8, 16, 32] and set(kept["k"]) == {128}


def numbers_of(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / f"{name}.csv")


def test_ablations_are_told_apart(drawn: tuple[Path, dict]) -> None:
    numbers = numbers_of(drawn[0], "fig7")
    a, b, c = (numbers[numbers["panel"] == letter] for letter in "abc")
    assert set(a["score"]) == {"query", "oracle"} and set(a.loc[a["score"] == "query", "r"].dropna()) == {8, 16, 32}
    at_32 = b[b["r"] == 32].set_index("temperature")["value"]
    assert set(at_32.index) == {"coverage", "sqrt_d", "sqrt_r", "none", "no reallocation"} and set(b["r"]) == {32}
    assert at_32["no reallocation"] == pytest.approx(0.31, abs=0.06) and set(c["k"].dropna()) == {64, 128}
    assert len(c[c["k"] == 64]) == 3


def test_lengths_are_means_of_the_prompts(drawn: tuple[Path, dict]) -> None:
    numbers = numbers_of(drawn[0], "fig6")
    assert sorted(set(numbers["x"])) == [1000, 2000, 4000] and set(numbers["line"]) == {"dense", "SparQ"}


def test_heatmaps_and_bins_are_means_of_the_answers(sources: Sources, drawn: tuple[Path, dict]) -> None:
    rows = cells(sources)
    assert sorted(set(rows["depth"])) == list(DEPTHS) and set(rows["length"]) == {1024, 2048, 9216}
    heat = numbers_of(drawn[0], "figA4")
    means = rows.groupby(["method", "compression", "length", "depth"])["score"].mean()
    drawn_cells = heat.set_index(["method", "compression", "length", "depth"])["mean"]
    assert drawn_cells.to_dict() == means.to_dict()
    assert set(heat["compression"]) == {1, 4}
    table = numbers_of(drawn[0], "table3")
    assert set(table["bin"]) == {"1k-8k", "8k-16k", "all"}
    h2o = table[table["method"] == "h2o"].set_index("bin")
    assert h2o["mean"].to_list() == pytest.approx([1 / 3] * 3) and h2o["count"].to_dict() == {
        "1k-8k": 6,
        "8k-16k": 3,
        "all": 9,
    }
    assert table.groupby(["bin", "method"])["count"].sum().unstack()["dense"].to_dict() == h2o["count"].to_dict()


def test_of_settings_with_one_compression_the_nearest_is_drawn() -> None:
    rows = [("m", "dense", "d", 1.0), ("m", "h2o", "a", 0.3), ("m", "h2o", "b", 0.26), ("m", "h2o", "c", 0.12)]
    rows += [("other", "h2o", "e", 0.3), ("m", "sparq", "f", math.nan), ("m", "sparq", "g", 0.27)]
    records = pd.DataFrame(rows, columns=["model", "method", "key", "counted_ratio"]).assign(settings="{}")
    assert compressions(records) == {"d": 1, "b": 4, "c": 8, "e": 4, "g": 4}
    oracle = records.tail(1).assign(key="h", counted_ratio=0.25, settings='{"score": "oracle"}')
    assert compressions(pd.concat([records, oracle]))["g"] == 4, "an ablation is no SparQ"
    assert compressions(records.assign(nominal_ratio=0.5), "nominal_ratio") == {"d": 1, "a": 2, "e": 2, "f": 2}


def test_every_length_has_a_bin() -> None:
    paper = pd.Series(range(1024, 32769, 1024))
    named = bins(paper)
    assert list(dict.fromkeys(named)) == ["1k-8k", "8k-16k", "16k-24k", "24k-32k"]
    assert named.value_counts().to_list() == [8] * 4
    assert bins(pd.Series([1024, 2048])).to_list() == ["1k", "2k"]


@pytest.mark.parametrize("shortest", [19, 99, 896])
@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_depths_of_needles_are_those_that_were_meant_at_every_length(shortest: int, count: int) -> None:
    meant = np.linspace(0, 1, count)
    ids = [f"{length}-{int(depth * length)}" for length in (shortest, 7 * shortest + 3, 32640) for depth in meant]
    found = needles(pd.DataFrame({"id": [*ids, "no needle"]}))
    assert found["depth"].to_list() == pytest.approx([*meant] * 3, abs=1 / 32640)
    assert found["length"].unique().tolist() == [shortest, 7 * shortest + 3, 32640]


def test_interpolation_is_exact_at_settings_and_between_them_elsewhere() -> None:
    points = pd.DataFrame(
        {"counted_ratio": [1.0, 0.5, 0.25, 0.125], "value": [0.8, 0.7, 0.72, 0.1], "key": list("abcd")}
    )
    for ratio, value, key in points.itertuples(index=False):
        assert interpolate(points, "counted_ratio", ratio) == (pytest.approx(value), [key])
    wanted = np.geomspace(1, 0.125, 50)
    values = [interpolate(points, "counted_ratio", share)[0] for share in wanted]
    for share, value in zip(wanted, values, strict=True):
        beside = points.iloc[[max(0, int(-math.log2(share))), min(3, math.ceil(-math.log2(share) - 1e-9))]]["value"]
        assert beside.min() - 1e-9 <= value <= beside.max() + 1e-9
    assert interpolate(points, "counted_ratio", 2**-0.5) == (pytest.approx(0.75), ["a", "b"])
    assert math.isnan(interpolate(points, "counted_ratio", 0.1)[0]), "a line ends where its settings do"


def test_table_2_names_the_nearest_setting(drawn: tuple[Path, dict], sources: Sources) -> None:
    table = numbers_of(drawn[0], "table2")
    assert set(table["model"]) == {"llama2-7b", "mine"} and set(table["compression"]) == {1, 2, 4, 8}
    one = table.query("model == 'mine' and task == 'squad' and method == 'sparq'").set_index("compression")
    records = main_settings(sources.settings_of("mine", "squad"))
    ratios = records[records["method"] == "sparq"].set_index("key")["counted_ratio"]
    for compression in (2, 4, 8):
        near = (ratios - 1 / compression).abs().idxmin()
        assert one.loc[compression, "ratio"] == pytest.approx(ratios[near])
        assert str(one.loc[compression, "key"]).split()[0] == near
    assert one.loc[1, "nearest"] == pytest.approx(records.iloc[0]["value"])
    between = [one.loc[compression, "interpolated"] for compression in (2, 4)]
    values = records[records["method"].isin(("sparq", "dense"))]["value"]
    assert all(values.min() <= value <= values.max() for value in between)


def test_benchmarks_are_divided_among_the_figures(drawn: tuple[Path, dict]) -> None:
    out, _ = drawn
    keys = {name: set(json.loads((out / f"{name}.json").read_text())["records"]) for name in ("fig9", "fig10", "fig8")}
    assert len(keys["fig9"]) == len(keys["fig10"]) == 1 and not keys["fig9"] & keys["fig10"] and len(keys["fig8"]) == 2
    d1 = numbers_of(out, "figD1")
    for _, panel in d1.groupby("panel"):
        line, points = panel[panel["line"] == "line through them"], panel[panel["line"] != "line through them"]
        slope, start = np.polyfit(points["x"], points["y"], 1)
        assert line["y"].to_list() == pytest.approx((start + slope * line["x"]).to_list(), rel=1e-6)
    assert len(numbers_of(out, "table4").query("implementation.str.startswith('SparQ')", engine="python")) == 3


def test_the_records_of_another_model_are_drawn_where_the_papers_are_missing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_figures(["fig1"], root, tmp_path, models=["mine"])
    lines = capsys.readouterr().out.splitlines()
    origin = json.loads((tmp_path / "fig1.json").read_text())
    assert lines[0].startswith(f"fig1: wrote fig1.svg, fig1.png to {tmp_path}/ from {len(origin['records'])} records: ")
    assert lines[0].endswith(" and others, all in fig1.json")
    assert set(pd.read_csv(tmp_path / "fig1.csv")["model"]) == {"mine"}
    assert [line.split(": ")[1] for line in lines[1:]] == [
        f"llama2-13b {task} (fig1)" for task in ("squad", "wikitext_bpc", "repetition")
    ]


def test_analyses_draw_for_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[1] / "results/analysis"
    keys = [analysis.key for analysis in newest(load_analyses(root))]
    draw_figures(["figE1", "table1"], root, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("figE1: wrote figE1_") and f"from {len(keys)} records: " in lines[0]
    command = "python -m sparq_eval.analyse model=llama2-7b task=squad samples=40 truncate=left"
    assert lines[2:] == [f"missing: analysis of llama2-7b (figE1, table1): {command}"]
    assert lines[1].startswith(f"table1: wrote table1.csv, table1.md to {tmp_path}/ from {len(keys)} records: ")
    assert json.loads((tmp_path / "figE1.json").read_text())["records"] == sorted(keys)
    assert set(pd.read_csv(tmp_path / "table1.csv")["record"]) == set(keys)


def test_the_gallery_is_whole() -> None:
    docs = Path(__file__).parents[1] / "docs"
    text = (docs / "gallery.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((gallery/[^)]+)\)", text))
    assert linked == {f"gallery/{path.name}" for path in (docs / "gallery").iterdir()}
    assert sum(path.stat().st_size for path in docs.rglob("*")) < 3_000_000
    named = re.findall(r"`(results/[^`]+)`", text)
    assert named and all((docs.parent / name).exists() for name in named)
    assert not re.search(r"published alone", text)


def test_published_curves_lie_under_ours(
    root: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (shared / "paper/results.csv").is_file():
        pytest.skip("no published results")
    sources = load_sources(root, shared / "paper")
    theirs = main_settings(sources.published_of("llama2-13b", "squad"))
    exact = theirs[(theirs["method"] == "sparq") & (theirs["r"] == 8)]
    assert exact["value"].to_list() == [0.7485] and theirs["counted_dense"].dropna().round(-6).nunique() == 1
    draw_figures(["figA1", "fig6", "fig7", "table2", "table3"], root, tmp_path, published=shared / "paper")
    said = capsys.readouterr().out
    assert "llama2-7b (triviaqa, cnn_dailymail, wikitext_bpc)" in said
    assert "fig6: published alone, no records of it: vicuna-7b-16k" in said
    keys = set(load(root).records["key"])
    for name in ("figA1", "table2", "table3"):
        assert set(json.loads((tmp_path / f"{name}.json").read_text())["records"]) <= keys, (
            "what is published is no record"
        )
    rows = rows_of(replace(sources, records=sources.paper.curves.query("figure.str.startswith('Fig A')")), *MISTRAL)
    [cell] = [row for row in rows if (row["method"], row["compression"]) == ("sparq", 8)]
    assert (cell["nearest"], cell["setting"]) == (0.7897, "r=8 k=128"), "the paper's Table 2 has 0.790"
    table = pd.read_csv(tmp_path / "table2.csv").set_index(["model", "task", "method", "compression"])
    assert table.loc[("llama2-13b", "squad", "lm_infinite", 8), "published"] == pytest.approx(0.301)
    third = pd.read_csv(tmp_path / "table3.csv")
    assert len(third[third["model"].str.endswith("(published)")]) == 5 * 7
