"""A report shows what the records hold, all of it, in files that other programs read back without loss."""

import csv
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Hashable
from pathlib import Path

import pandas as pd
import pytest
from made_records import OUTPUTS, SETTINGS, measure, measure_all, moved
from matplotlib.image import imread

from sparq_eval.errors import UserError
from sparq_eval.report import report_run, write_report
from sparq_eval.report.curves import curves
from sparq_eval.report.figures import distinct
from sparq_eval.report.latex import latex
from sparq_eval.report.panel import Panel, powers, score_range, transfer_range
from sparq_eval.report.style import drawable
from sparq_eval.report.tables import RESULTS, SAMPLES, markdown
from sparq_eval.results import load
from sparq_eval.results.formulas import as_generated
from sparq_eval.results.verify import verify


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure_all(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_report(root, folder)
    return folder


def test_the_table_has_one_row_for_each_setting_and_exactly_its_columns(out: Path) -> None:
    table = pd.read_csv(out / "results.csv")
    assert tuple(table.columns) == RESULTS and len(table) == 2 * len(SETTINGS)
    assert not table.duplicated(["model", "task", "method", "settings"]).any()
    assert list(table["method"][: len(SETTINGS)]) == [method for method, _ in SETTINGS]
    sparq = table[table["method"] == "sparq"].iloc[0]
    assert sparq["settings"] == json.dumps(json.loads(sparq["settings"]), sort_keys=True)
    assert '"sparq"' not in sparq["settings"] and (sparq["r"], sparq["k"], sparq["local"]) == (8, 64, 16)
    dense = table[table["method"] == "dense"].iloc[0]
    assert dense[["r", "k", "local"]].isna().all() and dense["nominal_ratio"] == 1
    assert ",8,64,16,20,prefix_match," in (out / "results.csv").read_text(), "whole numbers stay whole"


def test_ratios_are_means_over_the_same_examples(out: Path) -> None:
    table = pd.read_csv(out / "results.csv").query("task == 'squad' and method == 'sparq' and r == 16 and k == 128")
    [ratio] = table["nominal_ratio"]
    S = range(1000, 1020)
    settings = {"r": 16, "k": 128}
    assert ratio == pytest.approx(sum(moved("sparq", settings, s) for s in S) / sum(moved("dense", {}, s) for s in S))


def test_answers_survive_the_csv_exactly(root: Path, out: Path) -> None:
    text: dict[Hashable, type] = {"id": str, "output": str}
    table = pd.read_csv(out / "samples.csv", dtype=text, keep_default_na=False, na_values={"score": [""]})
    samples = load(root).samples
    assert tuple(table.columns) == SAMPLES
    assert table["score"].to_list() == pytest.approx(samples["score"].to_list(), rel=1e-15)
    for name in SAMPLES[:-1]:
        assert [as_generated(text) if isinstance(text, str) else text for text in table[name]] == samples[
            name
        ].to_list()
    assert set(OUTPUTS) <= set(map(as_generated, table["output"]))


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "'=1", "''-1", "' =1", " =1", "'", "a=1", ""]
)
def test_a_formula_stays_text_and_comes_back(text: str, tmp_path: Path) -> None:
    measure(tmp_path / "results", "m", "t", "dense", {}, n=2, output=text)
    write_report(tmp_path / "results", tmp_path)
    with (tmp_path / "samples.csv").open(newline="") as file:
        cells = [row["output"] for row in csv.DictReader(file)]
    assert [as_generated(cell) for cell in cells] == [text] * 2
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in cells)


def test_html_in_an_output_or_a_name_stays_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    measure(tmp_path / "results", bad, "t", "dense", {}, n=2, output=bad)
    write_report(tmp_path / "results", tmp_path)
    assert not re.search(r"(?<!\\)<", (tmp_path / "results.md").read_text())
    for path in [*tmp_path.glob("*.svg"), *tmp_path.glob("*.html")]:
        assert bad not in path.read_text(), path


def test_what_is_no_text_at_all_becomes_its_escape(tmp_path: Path) -> None:
    measure(tmp_path / "results", "m", "t", "dense", {}, n=2, output="a\ud800b")
    findings = write_report(tmp_path / "results", tmp_path)
    assert list(findings.frames.samples["output"]) == ["a\\ud800b"] * 2
    assert list(pd.read_csv(tmp_path / "samples.csv")["output"]) == ["a\\ud800b"] * 2


def test_every_figure_is_there_and_shows_something(out: Path) -> None:
    names = {path.stem for path in out.glob("*.png")}
    assert names == {path.stem for path in out.glob("*.svg")} == {"org--m_1", "org--m_1_squad", "org--m_1_repetition"}
    for path in out.glob("*.png"):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 400 and 0.002 < (pixels[..., :3].min(axis=-1) < 0.5).mean() < 0.5
    svg = (out / "org--m_1_squad.svg").read_text()
    assert svg.count("<path") > 50 and "#0072b2" in svg.lower()


def test_the_same_records_give_the_same_bytes(root: Path, out: Path, tmp_path: Path) -> None:
    write_report(root, tmp_path, tasks=["squad"])
    assert (tmp_path / "org--m_1_squad.svg").read_bytes() == (out / "org--m_1_squad.svg").read_bytes()


def test_filters_choose_and_dense_stays_beside_methods(root: Path, tmp_path: Path) -> None:
    findings = write_report(root, tmp_path, tasks=["squad"], methods=["h2o"], transfers="nominal")
    assert set(findings.records["method"]) == set(findings.frames.samples["method"]) == {"dense", "h2o"}
    assert set(pd.read_csv(tmp_path / "results.csv")["task"]) == {"squad"}
    with pytest.raises(UserError, match="model=x: no record has it; there are org/m_1"):
        write_report(root, tmp_path, models=["x"])


def test_a_file_in_the_way_is_one_clear_sentence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out="):
        write_report(root, tmp_path / "out")


def test_a_run_ends_with_its_own_table_and_the_plots_it_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [measure(tmp_path, "new", "squad", "dense", {}), measure(tmp_path, "new", "squad", "h2o", {"k": 64})]
    measure(tmp_path, "old", "squad", "sparq", {"r": 8, "k": 64})
    report_run(tmp_path, mine)
    shown = capsys.readouterr().out
    assert "new, squad" in shown and "k=64" in shown and "old" not in shown and f"{tmp_path}/report/" in shown
    assert {path.stem for path in (tmp_path / "report").glob("*.svg")} == {"new", "new_squad"}
    assert set(pd.read_csv(tmp_path / "report" / "results.csv")["model"]) == {"new", "old"}
    report_run(tmp_path, mine)
    assert "left out" not in capsys.readouterr().err, "a report is no foreign part of the results"


def test_records_under_other_conditions_are_both_shown_and_never_joined(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for protocol in ({"dtype": "float32"}, {"dtype": "bfloat16"}):
        for method, settings in SETTINGS[:3]:
            measure(results, "m", "squad", method, settings, protocol=protocol)
    findings = write_report(results, tmp_path)
    table = pd.read_csv(tmp_path / "results.csv", keep_default_na=False)
    assert table.groupby(["method", "settings"]).size().tolist() == [2, 2, 2]
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"m", "m_squad", "m_squad_B"}
    assert markdown(findings).count("### ") == latex(findings).count(r", squad, variant ") == 2


def placed(root: Path, task: str = "squad") -> pd.DataFrame:
    records = load(root).records
    return records[records["task"] == task].assign(x=records["counted"], x_dense=records["counted_dense"])


def test_lines_are_one_a_method_and_one_for_each_k_of_sparq(root: Path) -> None:
    lines = {line.label: line for line in curves(placed(root))}
    assert list(lines) == ["SparQ k=64", "SparQ k=128", "H2O", "LM-Infinite"]
    for line in lines.values():
        assert line.points["x"].is_monotonic_decreasing and line.points["value"].iloc[0] == pytest.approx(0.6, abs=0.05)
    assert [len(line.points) for line in lines.values()] == [4, 4, 3, 2]


def test_settings_that_are_no_budget_make_lines_of_their_own(tmp_path: Path) -> None:
    for reallocate in (True, False):
        for k in (64, 128):
            measure(tmp_path, "m", "squad", "sparq", {"r": 16, "k": k, "local": k // 4, "reallocate": reallocate})
    for local in (0, 8):
        measure(tmp_path, "m", "squad", "h2o", {"k": 64, "local": local})
    labels = [line.label for line in curves(placed(tmp_path))]
    assert labels == ["SparQ r=16 reallocate=false", "SparQ r=16 reallocate=true", "H2O local=0", "H2O local=8"]


def test_the_plot_has_the_papers_ranges_and_room_for_what_is_better(root: Path) -> None:
    records = placed(root)
    panel = Panel("", records, ())
    dense = records[records["method"] == "dense"].iloc[0]
    worst, best = score_range(panel)
    assert worst == pytest.approx(dense["value"] / 2) and best >= 1.05 * dense["value"]
    left, right = transfer_range(panel)
    assert left == pytest.approx(1.05 * dense["x"]) and right <= dense["x"] / 10 and right < records["x"].min()
    better = records.assign(value=records["value"].where(records["method"] != "h2o", 5.0))
    assert score_range(Panel("", better, ()))[1] > 5
    lower = records.assign(higher_is_better=False)
    worst, best = score_range(Panel("", lower, ()))
    assert worst == pytest.approx(1.25 * dense["value"]) and best < records["value"].min()
    assert score_range(Panel("", placed(root, "repetition"), ()))[0] == 0


def test_powers_of_two_mark_the_axis() -> None:
    assert powers(0.9, 17) == [1, 2, 4, 8, 16]
    assert 3 <= len(powers(1e-6, 1e6)) <= 8


def test_odd_records_are_drawn_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    odd = "$x_{1} 模型 \\ | %"
    measure(results, odd, "t^", "new$method", {"k": 64, "mode": "a|b"}, score=0.0, metric="a_b", n=1)
    measure(results, "m", "zero", "dense", {}, score=0.0)
    measure(results, "m", "never", "dense", {}, counted=math.nan)
    measure(results, "m", "low", "dense", {}, higher_is_better=False, metric="bits_per_character", n=1)
    measure(results, "m", "low", "h2o", {"k": 4}, higher_is_better=False, metric="bits_per_character", score=9.0)
    measure(results, "m", "low", "h2o", {"k": 8}, higher_is_better=False, score=math.nan, finite=False)
    write_report(results, tmp_path)
    said = capsys.readouterr().err
    assert "m, never: 1 of 1 settings have no counted transfers" in said
    assert "h2o k=8: 20 of 20 answers are not finite, so it has no score" in said
    assert "m, low: settings were measured on 1 to 20 examples" in said
    table = pd.read_csv(tmp_path / "results.csv")
    assert len(table) == 6 and table["model"].to_list().count(odd) == 1


def test_what_moves_nothing_is_named_and_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, settings in SETTINGS[:3]:
        measure(tmp_path / "results", "m", "squad", method, settings)
    measure(tmp_path / "results", "m", "squad", "mine", {"k": 3}, counted=0.0, nominal=0.0)
    write_report(tmp_path / "results", tmp_path)
    assert "m, squad: 1 of 4 settings have no counted transfers and are not drawn" in capsys.readouterr().err
    assert (tmp_path / "m_squad.png").exists() and "mine" not in (tmp_path / "m_squad.svg").read_text()
    records = placed(tmp_path / "results")
    left, right = transfer_range(Panel("", records.assign(x_dense=0.0), ()))
    assert 0 < right < left < math.inf and transfer_range(Panel("", records.assign(x=0.0), ())) == (1.05, 0.1)


def test_figures_beside_the_records_are_no_foreign_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = measure(tmp_path, "report", "squad", "dense", {})
    (tmp_path / "report" / "fig1.json").write_text("{}")
    assert list(load(tmp_path).records["path"]) == [str(folder)] and capsys.readouterr().err == ""
    assert verify(tmp_path) == []


def test_names_of_files_are_distinct_even_where_case_does_not_count() -> None:
    assert distinct(["a", "A", "a-2", "b", "a"]) == ["a", "A-2", "a-2-2", "b", "a-3"]


def test_what_a_font_lacks_becomes_a_box() -> None:
    assert drawable("a\n模²⁰") == "a □²⁰" and len(drawable("x" * 500)) < 70


def test_the_command_prints_the_table_and_refuses_in_one_sentence(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "sparq_eval.report"]
    done = subprocess.run([*command, root, "--out", tmp_path, "--method", "h2o"], capture_output=True, text=True)
    assert done.returncode == 0 and "org/m_1, squad" in done.stdout and f"{tmp_path}/" in done.stdout.splitlines()[-1]
    refused = subprocess.run([*command, tmp_path / "none"], capture_output=True, text=True)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and "no such folder" in refused.stderr


def test_neither_the_store_nor_the_report_imports_torch() -> None:
    code = (
        "import sys, sparq_eval.report, sparq_eval.results; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_large_store_is_read_in_seconds(tmp_path: Path) -> None:
    for place in range(40):
        measure(tmp_path, "m", f"t{place}", "dense", {}, n=500)
    start = time.process_time()
    assert len(load(tmp_path).samples) == 20_000
    assert time.process_time() - start < 2
