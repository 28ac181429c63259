"""Which settings a figure or table of the paper draws, where records hold others beside them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_records import measure, moved
from test_paper import sparq

from sparq_eval.errors import UserError
from sparq_eval.report.panel import emptiest
from sparq_eval.report.paper import draw_figures
from sparq_eval.report.paper.ablations import figure_7, unfolded
from sparq_eval.report.paper.length import at_compression
from sparq_eval.report.paper.published import Paper
from sparq_eval.report.paper.sources import load_sources, main_settings, plain

ODD = ({"copy": "fp8"}, {"copy": "int8"}, {"rank_by": "weights"})
FIGURES = ("fig1", "fig6", "fig7", "figA3", "figA4", "table2", "table3")


def share_of(share: float) -> dict[str, float]:
    """Columns of a row that moves this share of dense."""
    full = moved("dense", {}, 1000)
    return {"counted": share * full, "nominal": share * full, "counted_dense": full, "nominal_dense": full}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SparQ at four r, and beside each what ranks otherwise or reads a narrow copy."""
    folder = tmp_path_factory.mktemp("results")
    measure(folder, "mine", "squad", "dense", {}, n=3)
    for r in (8, 16, 32, 64):
        measure(folder, "mine", "squad", "sparq", sparq(r), n=3, score=0.5)
        for odd in ODD:
            measure(folder, "mine", "squad", "sparq", sparq(r, **odd), n=3, score=0.1)
    for temperature in ("sqrt_r", "warm"):
        measure(folder, "mine", "squad", "sparq", sparq(32, temperature=temperature), n=3, score=0.5)
    measure(folder, "mine", "squad", "sparq", sparq(32, 64, score="oracle"), n=3, score=0.5)
    return folder


def test_the_ablations_are_of_settings_that_are_otherwise_usual(root: Path, tmp_path: Path) -> None:
    draw_figures(["fig7"], root, tmp_path)
    numbers = pd.read_csv(tmp_path / "fig7.csv")
    assert set(numbers["panel"]) == {"a", "b"}
    assert numbers["value"].min() > 0.3, "none of them ranks by weights or reads a narrow copy"
    assert set(numbers.loc[numbers["panel"] == "b", "temperature"]) == {"coverage", "sqrt_r"}, "warm is unknown"


def test_the_way_to_reallocate_with_most_settings_is_drawn(tmp_path: Path) -> None:
    measure(tmp_path, "mine", "squad", "dense", {}, n=3)
    for r in (8, 16, 32):
        for k in (64, 128):
            measure(tmp_path, "mine", "squad", "sparq", sparq(r, k) | {"reallocate": False}, n=3)
    measure(tmp_path, "mine", "squad", "sparq", sparq(32), n=3)
    draw_figures(["fig7"], tmp_path, tmp_path / "out")
    budgets = pd.read_csv(tmp_path / "out/fig7.csv").query("panel == 'c'").dropna(subset="k")
    assert sorted(zip(budgets["r"], budgets["k"], strict=True)) == [(r, k) for r in (8, 16, 32) for k in (64, 128)]


def test_the_papers_ablations_lie_under_its_models_and_beside_another_models(
    root: Path, shared: Path, tmp_path: Path
) -> None:
    if not (shared / "paper/results.csv").is_file():
        pytest.skip("no published results")

    def titles(folder: Path) -> list[str]:
        [picture] = figure_7(load_sources(folder, shared / "paper")).pictures
        assert picture.figure is not None
        return [axes.get_title().replace("\n", " ") for axes in picture.figure.axes if axes.get_title()]

    for settings in (sparq(16), sparq(32), sparq(16, 64), sparq(32, 64)):
        measure(tmp_path, "llama2-7b", "squad", "sparq", settings, n=3)
    published = ["(a) squad", "(b) squad", "(c) squad", "(c) repetition"]
    both, beside = titles(tmp_path), titles(root)
    assert [title.split(",")[0] for title in both] == published
    assert [title.endswith("(published)") for title in both] == [True, True, False, True]
    theirs = [title for title in beside if title.endswith("(published)")]
    assert [title.split(", n")[0].split(", k")[0] for title in theirs] == [f"{name}, llama2-7b" for name in published]
    assert [title.split(",")[0] for title in beside if title not in theirs] == ["(a) squad", "(b) squad"]


def test_trade_offs_say_how_many_settings_they_leave_out(root: Path, tmp_path: Path, capsys: Any) -> None:
    sources = load_sources(root, None)
    kept = main_settings(sources.settings_of("mine", "squad"))
    assert set(kept.loc[kept["method"] == "sparq", "settings"].str.contains("fp8|weights|warm|oracle")) == {False}
    assert len(kept) == 5 and len(plain(sources.records)) == 5
    draw_figures(["fig1", "figA3", "table2"], root, tmp_path)
    left = "left out, as they are no points of these lines: 15 settings (copy: 8, rank_by: 4, score: 1, temperature: 2)"
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "left out" in line] == [f"{name}: {left}" for name in ("fig1", "figA3", "table2")]


@pytest.mark.parametrize(("model", "kept"), [("gemma-7b", True), ("llama3-8b", False)])
def test_where_both_ways_to_reallocate_are_known_the_papers_is_drawn(tmp_path: Path, model: str, kept: bool) -> None:
    for r in (8, 16):
        for on in (True, False):
            measure(tmp_path, model, "squad", "sparq", sparq(r) | {"reallocate": on}, n=2)
    # the other way has more settings
    measure(tmp_path, model, "squad", "sparq", sparq(32) | {"reallocate": not kept}, n=2)
    found = main_settings(load_sources(tmp_path, None).settings_of(model, "squad"))
    assert len(found) == 2 and found["settings"].str.contains(f'"reallocate": {str(kept).lower()}').all()


def lengths(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=["method", "settings", "counted_ratio", "nominal_ratio"])
    return made.assign(task="squad_train_3", variant="", active=True, prompt_tokens=1000)


def test_a_length_shows_the_usual_setting_that_is_near_to_a_quarter() -> None:
    oracle = ("sparq", '{"score": "oracle"}', 0.25, 0.25)
    records = lengths(("dense", "{}", 1, 1), ("sparq", '{"r": 16}', 0.26, 0.4), oracle, ("h2o", "{}", 0.39, 0.3))
    assert at_compression(records)["settings"].to_list() == ["{}", '{"r": 16}'], "0.39 is not within a half of 0.25"
    assert set(at_compression(records, "nominal_ratio")["method"]) == {"dense", "h2o"}


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far")
    measure(folder, "mine", "squad", "dense", {}, n=2, **share_of(1.0))
    # by logarithms r=16 were nearer to an eighth
    for r, share, score in ((8, 0.11, 0.5), (16, 0.141, 0.6)):
        measure(folder, "mine", "squad", "sparq", sparq(r), n=2, score=score, **share_of(share))
    measure(folder, "mine", "squad", "flexgen", {"k": 2}, n=2, **share_of(0.502))
    return folder


def test_table_2_takes_the_nearest_share_and_no_score_from_afar(far: Path, tmp_path: Path) -> None:
    draw_figures(["table2"], far, tmp_path)
    table = pd.read_csv(tmp_path / "table2.csv").set_index(["method", "compression"])
    assert table.loc[("sparq", 8), "setting"] == "r=8 k=128"
    assert table.loc[("flexgen", 2), "nearest"] > 0 and table.loc[("flexgen", 8), "ratio"] == pytest.approx(0.502)
    assert math.isnan(table.loc[("flexgen", 8), "nearest"]) and math.isnan(table.loc[("sparq", 2), "stderr"])
    text = (tmp_path / "table2.md").read_text()
    assert "none where it is beyond a factor of 2" in text
    assert "| FlexGen top-k | 1/8 | k=2 | 0.502 | - | - | - |" in text


@pytest.mark.parametrize("moves", [0.0, math.nan])
def test_a_method_that_moves_nothing_is_named_and_not_drawn(
    root: Path, tmp_path: Path, capsys: Any, moves: float
) -> None:
    for method, settings in (("dense", {}), ("sparq", sparq(8)), ("sparq", sparq(16)), ("sparq", sparq(32, 64))):
        measure(tmp_path, "mine", "squad", method, settings, n=3)
    measure(tmp_path, "mine", "squad", "free", {"k": 3}, n=3, counted=moves, nominal=moves)
    draw_figures(FIGURES, tmp_path, tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out/figA3.csv")["method"]) == {"dense", "sparq"}
    assert "free" not in (tmp_path / "out/table2.csv").read_text()
    assert "(k other than 128: 1, no counted transfers: 1)" in capsys.readouterr().out


def test_without_counted_transfers_nothing_over_them_is_drawn(tmp_path: Path, capsys: Any) -> None:
    for method, settings in (("dense", {}), ("sparq", sparq(8)), ("sparq", sparq(16, 64, score="oracle"))):
        measure(tmp_path, "mine", "squad", method, settings, n=3, counted=math.nan)
    measure(tmp_path, "mine", "squad", "sparq", sparq(8, temperature="none"), n=3, counted=math.nan)
    files = draw_figures(FIGURES, tmp_path, tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out/fig7.csv")["panel"]) == {"b"}
    assert {name for name, written in files.items() if written} == {"fig7"}
    why = "4 settings (no counted transfers: 2, score: 1, temperature: 1)"
    said = capsys.readouterr().out
    assert all(f"{name}: left out, as they are no points of these lines: {why}" in said for name in ("fig1", "figA3"))
    assert len(unfolded(load_sources(tmp_path, None).records)) == 4


def test_tasks_that_no_model_has_get_no_row(tmp_path: Path) -> None:
    for model in ("one", "two"):
        for method, settings in (("dense", {}), ("sparq", sparq(8))):
            measure(tmp_path, model, "squad", method, settings, n=2)
    draw_figures(["figA3"], tmp_path, tmp_path / "out")
    height = float((tmp_path / "out/figA3.svg").read_text().split('height="')[1].split("pt")[0])
    assert height < 2.8 * 72


def test_analyses_are_filtered_as_records_are(tmp_path: Path) -> None:
    results = Path(__file__).parents[1] / "results"
    every = {one.name for one in load_sources(results / "analysis", None).analyses}
    assert len(every) > 1
    measure(tmp_path / "records", "smollm2-135m", "squad", "dense", {}, n=1)
    for file in (results / "analysis").glob("*.json"):
        (tmp_path / "records" / file.name).write_bytes(file.read_bytes())
    found = load_sources(tmp_path / "records", None, models=["smollm2-135m"]).analyses
    assert [one.name for one in found] == ["smollm2-135m"]
    twin = load_sources(tmp_path / "records", None, models=["smollm2-135m-mha"])
    assert [one.name for one in twin.analyses] == ["smollm2-135m-mha"] and twin.records.empty
    with pytest.raises(UserError, match="model=mine: no record has it"):
        load_sources(tmp_path / "records", None, models=["mine"])


def test_published_files_are_read_where_they_are_needed(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "tables.csv").write_bytes((shared / "paper/tables.csv").read_bytes())
    draw_figures(
        ["fig4", "figE2"], Path(__file__).parents[1] / "results/analysis", tmp_path / "out", published=tmp_path
    )
    [svg, *_] = sorted((tmp_path / "out").glob("fig4*.svg"))
    assert "[0.037]" in svg.read_text() and "Llama 2 7B, r = 32" in svg.read_text()
    assert Paper(tmp_path).given and not Paper().given


def test_a_note_lies_where_least_is_drawn() -> None:
    low = np.array([[x, 0.05] for x in np.linspace(0, 1, 50)])
    size = (0.5, 0.1)
    assert emptiest(low, size)[0][1] > 0.05 + 0.03
    (x, y), covered = emptiest(low[:10], size)
    assert x > 9 / 49 + 0.03 and y == 0.04 and covered == 0
    everywhere = np.array([[x, y] for x in np.linspace(0, 1, 30) for y in np.linspace(0, 1, 30) if not 0.2 < x < 0.8])
    (x, _), covered = emptiest(everywhere, size)
    assert x == pytest.approx(0.25) and covered == 0
    assert emptiest(np.random.default_rng(0).random((2000, 2)), size)[1] > 0
    assert emptiest(np.zeros((0, 2)), size) == ((0.02, 0.04), 0)
