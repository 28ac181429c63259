"""Tables say what the records hold and what follows from it, in files, on paper and in a terminal."""

import io
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_records import SETTINGS, measure, measure_all
from rich.console import Console

from sparq_eval.report import terminal_table, write_report
from sparq_eval.report.__main__ import main
from sparq_eval.report.between import describe_pair
from sparq_eval.report.findings import Findings, find
from sparq_eval.report.latex import escape, latex, latex_headline
from sparq_eval.report.tables import headline_csv, headline_markdown, markdown
from sparq_eval.report.terminal import rich_table
from sparq_eval.report.text import groups
from sparq_eval.results import load


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure_all(tmp_path_factory.mktemp("results"))


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
    for text, kind, columns in ((latex(findings), "longtable", 7), (latex_headline(findings), "tabular", 5)):
        assert text.count("{") == text.count("}")
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") == 1
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
    assert "Missing character" not in compiled(program, tmp_path / "results", tmp_path)


def test_the_latex_tables_stay_on_their_pages(root: Path, tmp_path: Path) -> None:
    """In an article's narrow text, with as many settings as need several pages."""
    if not (program := shutil.which("pdflatex")):
        pytest.skip("pdflatex is not installed")
    shutil.copytree(root, tmp_path / "results")
    for k in range(100):
        settings = {"r": 16, "k": 100 + k, "local": 25, "rank_by": "logits", "reallocate": False}
        measure(tmp_path / "results", "org/m_1", "squad", "sparq", settings, n=3)
    log = compiled(program, tmp_path / "results", tmp_path)
    assert "Overfull" not in log and int(re.findall(r"paper\.pdf \((\d+) pages", log)[0]) >= 3


def compiled(program: str, results: Path, folder: Path) -> str:
    """The log of a paper of both tables."""
    write_report(results, folder)
    body = r"\input{results.tex}\newpage\footnotesize\noindent\input{headline.tex}"
    packages = r"\usepackage{array,booktabs,longtable}"
    (folder / "paper.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(3):  # a longtable knows its widths after some
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "paper.pdf").stat().st_size > 10_000
    return (folder / "paper.log").read_text(errors="replace")


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
        # what all settings of a method share is said once a table in a terminal, and in each row in a pipe
        assert shown.count("lm_infinite") == 2 and shown.count("reallocate=false") == (2 if terminal else 12)
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
        findings = find(load(tmp_path / "results"), margin)
        headline_csv(findings, tmp_path / "headline.csv")
        table = pd.read_csv(tmp_path / "headline.csv").set_index("method")
        assert table.loc["h2o", "verdict"] == verdict and table.loc["h2o", "margin"] == pytest.approx(
            margin / 10, rel=0.1
        )
        assert verdict.replace("beyond the grid", "≥") in headline_markdown(findings)


def test_two_settings_beside_each_other_on_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = load(root).records.query("task == 'squad'").set_index("method")
    text = describe_pair(load(root), records.loc["h2o", "key"].iloc[0][:10], records.loc["dense", "key"])
    assert "A - B = -0.2" in text and "20 examples in 20 clusters" in text and "A is significantly worse than B" in text
    assert "0 examples score better with A, 20 with B, 0 alike" in text


def test_an_example_without_a_score_is_not_alike(tmp_path: Path) -> None:
    measure(tmp_path, "m", "t", "dense", {})
    measure(tmp_path, "m", "t", "h2o", {"k": 4}, score=math.nan, finite=False)
    frames = load(tmp_path)
    text = describe_pair(frames, *reversed(frames.records["key"].to_list()))
    assert "0 examples score better with A, 0 with B, 0 alike, 20 have no score on a side" in text


def test_a_loss_has_one_sign_and_the_bracket_is_explained(tmp_path: Path) -> None:
    for method, settings in SETTINGS:
        measure(tmp_path, "m", "t", method, settings, score=2.0, metric="bits", higher_is_better=False)
    findings = find(load(tmp_path), 0.001)
    for text in (headline_markdown(findings), terminal(findings)):
        assert "not shown (may lose 0." in text and "(-" not in text
        assert "In brackets: what other samples of examples would give" in text
    assert "may lose" not in latex_headline(findings) and "% In brackets: what other" in latex_headline(findings)


def terminal(findings: Findings) -> str:
    buffer = io.StringIO()
    terminal_table(findings, Console(file=buffer, width=200))
    return buffer.getvalue()


def test_the_command_compares_two_settings_and_refuses_a_margin_of_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = load(root).records.query("task == 'squad'")
    keys = [records[records["method"] == method]["key"].iloc[0] for method in ("sparq", "lm_infinite")]
    monkeypatch.setattr(sys, "argv", ["report", str(root), "--between", *keys])
    main()
    assert "A is significantly better than B" in capsys.readouterr().out and not (root / "report").exists()
    for given in ("0", "-1", "nan", "x"):
        monkeypatch.setattr(sys, "argv", ["report", str(root), f"--margin={given}"])
        with pytest.raises(SystemExit):
            main()
        assert f"{given} must be a number above 0" in capsys.readouterr().err
