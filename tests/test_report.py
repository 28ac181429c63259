"""A report shows what the records hold, all of it, in files that other programs read back without loss."""

import csv
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from sparq_eval.errors import UserError
from sparq_eval.report import report_run, terminal_table, write_report
from sparq_eval.report.between import describe_pair
from sparq_eval.report.curves import curves
from sparq_eval.report.figures import distinct
from sparq_eval.report.findings import find
from sparq_eval.report.latex import escape, latex, latex_headline
from sparq_eval.report.panel import Panel, powers, score_range, transfer_range
from sparq_eval.report.style import drawable
from sparq_eval.report.tables import RESULTS, SAMPLES, as_generated, markdown
from sparq_eval.report.terminal import rich_table
from sparq_eval.report.text import groups
from sparq_eval.results import Identity, Row, Store, load

OUTPUTS = (
    "",
    "NA",
    "null",
    "1851",
    "007",
    "=1+1",
    "+x",
    "-",
    "@a",
    'a "b", c',
    "a\nb",
    "a\r\nb\r",
    "\r",
    " pad\t",
    "é模\u2028",
)
HEADS = 90  # layers times key/value heads


def moved(method: str, settings: dict[str, Any], S: float, D: int = 64) -> float:
    k, r = settings.get("k", 0), settings.get("r", 0)
    formulas = {"dense": 2 * S * D, "sparq": S * r + 2 * k * D + 3 * D, "h2o": 2 * k * D + 2 * S}
    return HEADS * formulas.get(method, 2 * k * D)


SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dense", {}),
    *(("sparq", {"r": r, "k": k, "local": k // 4, "reallocate": False}) for k in (64, 128) for r in (8, 16, 32)),
    *(("h2o", {"k": k, "local": k // 4}) for k in (64, 256)),
    ("lm_infinite", {"k": 128, "sink": 16}),
)
SCORES = {"dense": 0.6, "sparq": 0.5, "h2o": 0.35, "lm_infinite": 0.1}


def measure(
    root: Path, model: str, task: str, method: str, settings: dict[str, Any], n: int = 20, **changes: Any
) -> Path:
    """Record made-up answers. changes: fields of the identity or of every row, metric, higher_is_better."""
    upward = changes.pop("higher_is_better", True)
    metric = changes.pop("metric", "prefix_match")
    score = changes.pop("score", SCORES.get(method, 0.3))
    identity = Identity({"name": model}, task, {"set": task}, method, settings, {"dtype": "float32"}, {"torch": "2"})
    of_identity = {name: changes.pop(name) for name in list(changes) if hasattr(identity, name)}
    chance = random.Random(f"{task} {method} {settings}")
    rows = []
    for index in range(n):
        S = 1000 + index
        traffic = moved(method, settings, S), moved("dense", {}, S)
        point = score + chance.uniform(-0.05, 0.05)
        output = OUTPUTS[index % len(OUTPUTS)]
        active = 0.0 if method == "dense" else 4.0
        plain = Row(
            index, f"0{index}", S, 5, output, point, *traffic, *traffic, 4, 12, active, int(active), False, True, 0.5
        )
        rows.append(replace(plain, **changes))
    entry = Store(root).open(replace(identity, **of_identity), metric=metric, higher_is_better=upward)
    entry.append(rows, {"started": "now"})
    return entry.path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for task in ("squad", "repetition"):
        for method, settings in SETTINGS:
            measure(folder, "org/m_1", task, method, settings)
    return folder


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
        assert "<script" not in path.read_text(), path


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
    assert markdown(findings).count("### ") == latex(findings).count(r"\midrule") == 2


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


TEX = re.compile(r"(?:\\[a-z]+\d*(?:\{\})?|\\[{}$&#_%]|\{[\[\]*]?\}|[^\\{}$&#_%~^<>|\"`\[\]*])*")


@pytest.mark.parametrize("seed", range(20))
def test_no_name_breaks_the_latex_table(seed: int) -> None:
    chance = random.Random(seed)
    name = "".join(chance.choice("\\{}$&#_%~^<>|\"`'[]*-aé模\n\t ") for _ in range(60))
    text = escape(name)
    assert text.isascii() and text.isprintable() and "--" not in text
    assert TEX.fullmatch(text), text


def test_the_latex_table_is_rectangular_and_balanced(root: Path) -> None:
    findings = find(load(root))
    for text, columns in ((latex(findings), 10), (latex_headline(findings), 6)):
        assert (
            text.count("{") == text.count("}") and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        )
        rows = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(r"\multicolumn")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {columns - 1}
    assert r"org/m\_1, squad, prefix\_match" in latex(findings)


def test_the_latex_tables_compile(tmp_path: Path) -> None:
    if not (program := shutil.which("pdflatex")):
        pytest.skip("pdflatex is not installed")
    odd = '$x_{1}^2 模型 \\ | % & # ~ <b> [0] ``"* -- \\end{tabular} ↓ é'
    for method, settings in SETTINGS[:4]:
        measure(tmp_path / "results", odd, "t_^$", method, settings, score=0.4 if settings else 0.9)
        measure(tmp_path / "results", odd, "bits", method, {**settings, "[mode]": odd}, higher_is_better=False)
    measure(tmp_path / "results", "[alone]", "t", "dense", {}, n=1)
    write_report(tmp_path / "results", tmp_path)
    body = r"\small\input{results.tex}\newpage\input{headline.tex}"
    packages = r"\usepackage{booktabs}\usepackage[landscape,papersize={4in,40in},margin=1cm]{geometry}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document)
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_markdown_cells_stay_cells(tmp_path: Path) -> None:
    measure(tmp_path, "a|b", "t", "x|`y`", {"mode": "p|q\n*"})
    headline, table = markdown(find(load(tmp_path))).split("### ")
    for text, columns in ((headline, 4), (table, 10)):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {columns + 1}, lines


def test_markdown_begins_with_the_headline_and_has_no_more_than_it_where_there_is_only_dense(tmp_path: Path) -> None:
    measure(tmp_path, "m", "t", "dense", {})
    assert markdown(find(load(tmp_path))).startswith("### m, t")
    measure(tmp_path, "m", "t", "h2o", {"k": 64})
    assert markdown(find(load(tmp_path))).startswith("## Largest compression")


def test_the_terminal_table_is_aligned_in_a_pipe_and_complete_in_a_terminal(root: Path) -> None:
    findings = find(load(root))
    for terminal in (False, True):
        buffer = io.StringIO()
        terminal_table(findings, Console(file=buffer, force_terminal=terminal, width=110))
        shown, _, headline = buffer.getvalue().partition("Largest compression")
        assert shown.count("lm_infinite") == 2 and shown.count("reallocate=false") == 12
        assert headline.count("lm_infinite") == 1 and headline.count("org/m_1") == 2
        assert ("\x1b" in shown) == ("█" in shown) == terminal
        if not terminal:
            lines = [line for line in shown.splitlines() if line.startswith(("dense", "sparq", "h2o"))]
            assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("width", [60, 80, 100, 140, 220])
def test_a_narrow_terminal_loses_columns_and_no_setting(root: Path, width: int) -> None:
    buffer = io.StringIO()
    terminal_table(find(load(root)), Console(file=buffer, force_terminal=True, width=width, color_system=None))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    values = re.findall(r"\b0\.\d{4}(?= +[█▏▎▍▌▋▊▉]+)", buffer.getvalue())
    assert len(values) == 2 * len(SETTINGS)
    assert ("[-0." in buffer.getvalue()) == (width >= 100)


def test_bars_are_as_long_as_the_share_of_dense(tmp_path: Path) -> None:
    measure(tmp_path, "m", "up", "dense", {}, score=0.8)
    measure(tmp_path, "m", "up", "h2o", {"k": 64}, score=0.4)
    measure(tmp_path, "m", "down", "dense", {}, score=0.8, higher_is_better=False)
    measure(tmp_path, "m", "down", "h2o", {"k": 64}, score=1.6, higher_is_better=False)
    for group in groups(find(load(tmp_path))):
        assert group.shares == pytest.approx((1, 0.5), abs=0.05)
        buffer = io.StringIO()
        Console(file=buffer, width=200).print(rich_table(group, 200))
        full, half = (line.count("█") for line in buffer.getvalue().splitlines() if "█" in line)
        assert full == 10 and half in (4, 5)


def test_a_pipe_without_our_characters_gets_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal_table(find(load(root)), Console(file=buffer))
    buffer.seek(0)
    assert "lm_infinite" in buffer.read()


def test_what_beats_dense_is_marked_and_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, score in (("dense", 0.5), ("h2o", 0.9), ("flexgen", 0.1)):
        measure(tmp_path / "results", "m", "t", method, {"k": 64} if method != "dense" else {}, score=score)
    findings = write_report(tmp_path / "results", tmp_path / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "better than dense" in line]
    assert len(said) == 1 and "m, t: h2o k=64: significantly better than dense (+0.39" in said[0]
    [better] = [line for line in markdown(findings).splitlines() if "↑ +0.39" in line]
    assert better.startswith("| h2o |") and "| flexgen |" in next(
        x for x in markdown(findings).splitlines() if "↓ -0.4" in x
    )
    assert r"$\uparrow$ +0.39" in latex(findings) and r"$\downarrow$ $-$0.4" in latex(findings)
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("method")
    assert table["better"].to_dict() == {"dense": False, "h2o": True, "flexgen": False}
    assert table.loc["dense", ["difference", "low", "high", "p", "q", "more"]].isna().all()


def test_a_larger_margin_is_another_headline(tmp_path: Path) -> None:
    for method, settings in SETTINGS:
        measure(tmp_path / "results", "m", "t", method, settings, score=10.0, metric="length", n=40)
    for margin, verdict in ((0.001, "not shown"), (5, "beyond the grid")):
        write_report(tmp_path / "results", tmp_path, margin=margin)
        table = pd.read_csv(tmp_path / "headline.csv").set_index("method")
        assert table.loc["h2o", "verdict"] == verdict and table.loc["h2o", "margin"] == pytest.approx(
            margin / 10, rel=0.1
        )
        assert verdict.replace("beyond the grid", "≥") in (tmp_path / "headline.md").read_text()


def test_two_settings_beside_each_other_on_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = load(root).records.query("task == 'squad'").set_index("method")
    text = describe_pair(load(root), records.loc["h2o", "key"].iloc[0][:10], records.loc["dense", "key"])
    assert "A - B = -0.2" in text and "20 examples in 20 clusters" in text and "A is significantly worse than B" in text
    assert "0 examples score better with A, 20 with B, 0 alike" in text


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
