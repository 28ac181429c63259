"""Laws of the analysis: every statistic gathered on the way equals the obvious one over whole matrices in float64."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from library import write_model, write_tasks
from scipy.stats import kurtosis, skew
from test_methods import step_of
from test_protocol import composed
from tiny import CONFIGS, Letters, tiny_model, tiny_requests

from sparq_eval.analyse.__main__ import check_used
from sparq_eval.analyse.correlation import AXES, Correlation
from sparq_eval.analyse.gather import Choice, Gathered
from sparq_eval.analyse.run import choice, run
from sparq_eval.analyse.scores import coverage, top_mass
from sparq_eval.errors import UserError
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import layer_windows, shape_of
from sparq_eval.hf.observe import observe
from sparq_eval.hf.seam import Call
from sparq_eval.methods import Shape
from sparq_eval.methods.sparq import TEMPERATURES, projection
from sparq_eval.report.analysis import draw_analyses
from sparq_eval.report.analysis.draw import newest
from sparq_eval.report.analysis.panels import coverage_rows, figE2_row, paired
from sparq_eval.report.analysis.published import read_published
from sparq_eval.request import Request
from sparq_eval.results.analysis import PARTS, Analysis, compact, load_analyses, read_analysis
from sparq_eval.results.frames import folders
from sparq_eval.results.tidy import rubbish
from sparq_eval.results.verify import verify
from sparq_eval.step import Visible

KINDS = sorted(CONFIGS)
LENGTHS = [24, 31, 19, 12]
CHOICE = Choice(top=5, rs=(2, 3), ks=(3, 8), k=8, positions=10)
CLOSE = {"abs": 1e-6, "rel": 1e-6}


class Kept:
    """A session that keeps every call's queries, keys and values, and attends with whole matrices in float64."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, np.ndarray, np.ndarray]] = []

    def attend(self, call: Call) -> torch.Tensor:
        q, k, v = (x.double() for x in (call.q, call.k, call.v))
        T = q.shape[3]
        scores = torch.einsum("bhgtd,bhsd->bhgts", q, k) * call.scale
        scores = scores if call.softcap is None else call.softcap * torch.tanh(scores / call.softcap)
        distance = torch.arange(T)[:, None] - torch.arange(T)
        seen = (distance >= 0) & (distance < (call.window or T))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        # the last query over what it sees, whole
        own = seen[-1]
        self.calls.append((call, scores[0, :, :, -1, own].numpy(), own.numpy()))
        return torch.einsum("bhgts,bhsd->bhgtd", weights, v).to(call.q.dtype)


@pytest.fixture(scope="module")
def both() -> Any:
    """Statistics gathered on the way, and by prompt what a session that keeps everything has seen."""
    made: dict[str, tuple[dict[str, Any], list[Kept]]] = {}

    def make(kind: str) -> tuple[dict[str, Any], list[Kept]]:
        if kind not in made:
            torch.set_num_threads(1)
            model = tiny_model(kind).double().cpu()
            engine = Engine(model, Letters())
            found = Gathered(CHOICE, shape_of(CONFIGS[kind]), engine.layers)
            kept = []
            for request in tiny_requests(LENGTHS):
                observe(engine, request.prompt, found.see)
                found.close()
                kept.append(Kept())
                ids = torch.tensor([request.prompt])
                with torch.inference_mode():
                    engine.forward(ids, torch.arange(ids.shape[1])[None], kept[-1], last_only=True)
            made[kind] = found.statistics(), kept
        return made[kind]

    return make


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def largest(x: np.ndarray, n: int) -> np.ndarray:
    return np.argsort(-x, axis=-1, kind="stable")[..., :n]


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_mass_is_that_of_the_largest_weights(kind: str, both: Any) -> None:
    statistics, kept = both(kind)
    weights = [[np.sort(softmax(scores))[..., -5:].sum(-1).ravel() for _, scores, _ in one.calls] for one in kept]
    assert statistics["mass"]["heads"] == pytest.approx(np.mean(weights, axis=0), **CLOSE)
    counts = np.histogram(np.clip(weights, 0, 1), bins=statistics["mass"]["edges"])[0]
    assert statistics["mass"]["counts"].tolist() == counts.tolist()


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_queries_have_the_moments_and_densities_of_all_components_together(kind: str, both: Any) -> None:
    statistics, kept = both(kind)
    queries = np.array([[call.q[0, :, :, -1].flatten(0, 1).numpy() for call, _, _ in one.calls] for one in kept])
    for layer in range(queries.shape[1]):
        for head in range(queries.shape[2]):
            own = queries[:, layer, head].ravel()
            expected = {"mean": own.mean(), "deviation": own.std(), "skewness": skew(own), "kurtosis": kurtosis(own)}
            for name, value in expected.items():
                assert statistics["queries"][name][layer, head] == pytest.approx(value, abs=1e-5, rel=1e-5)
    edges = statistics["queries"]["edges"]
    middle = queries[:, len(kept[0].calls) // 2, 0].ravel()
    z = (middle - middle.mean()) / middle.std()
    expected = np.histogram(z, bins=edges)[0] / len(z) / np.diff(edges)
    assert statistics["queries"]["of_layer"][0] == pytest.approx(expected, abs=2.1 / len(z) / np.diff(edges)[0])
    assert (statistics["queries"]["all"] * np.diff(edges)).sum() == pytest.approx(1)


def approximated(call: Call, own: np.ndarray, r: int, score: str, temperature: str) -> np.ndarray:
    """(H, G, S) approximate logits, one product after another."""
    q, k = call.q[0, :, :, -1].double().numpy(), call.k[0].double().numpy()[:, own]
    H, G, D = q.shape
    found = np.zeros((H, G, k.shape[1]))
    for h in range(H):
        components = largest(np.abs(q[h]).sum(axis=0), r)
        basis = projection(H, D, r, torch.device("cpu"))[h].double().numpy()
        for g in range(G):
            share = np.abs(q[h, g, components]).sum() / np.abs(q[h, g]).sum()
            bent = {"coverage": share**-0.5, "sqrt_d": 1, "sqrt_r": (D / r) ** 0.5, "none": D**0.5}[temperature]
            if score == "query":
                found[h, g] = k[h][:, components] @ q[h, g, components] * call.scale * bent
            else:
                found[h, g] = (k[h] @ basis) @ (q[h, g] @ basis) * call.scale
    return found if call.softcap is None else call.softcap * np.tanh(found / call.softcap)


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_agreement_is_the_share_of_the_best_that_is_found(kind: str, both: Any) -> None:
    statistics, kept = both(kind)
    assert {(row["score"], row["r"], row["k"]) for row in statistics["agreement"]} == {
        (score, r, k) for score in ("query", "low_rank") for r in (2, 3) for k in (3, 8)
    }
    for row in statistics["agreement"]:
        layers = []
        for layer in range(len(kept[0].calls)):
            shares = []
            for one in kept:
                call, scores, own = one.calls[layer]
                near = approximated(call, own, row["r"], row["score"], "coverage").sum(axis=1)
                best = [largest(x, row["k"]) for x in (scores.sum(axis=1), near)]
                shares.append([len({*a.tolist()} & {*b.tolist()}) / row["k"] for a, b in zip(*best, strict=True)])
            layers.append(np.mean(shares, axis=0))
        assert row["mean"] == pytest.approx(np.mean(layers), **CLOSE)
        if "heads" in row:
            assert row["heads"] == pytest.approx(np.array(layers), **CLOSE)


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_coverage_is_held_against_the_true_weight_of_the_best_positions_and_of_the_chosen_ones(
    kind: str, both: Any
) -> None:
    statistics, kept = both(kind)
    rows = {(row["temperature"], row["r"]): row for row in statistics["coverage"]}
    assert set(rows) == {(name, r) for name in TEMPERATURES for r in (2, 3)}
    for (name, r), row in rows.items():
        found = []
        for one in kept:
            for call, scores, own in one.calls:
                near = approximated(call, own, r, "query", name)
                for h, best in enumerate(largest(near.sum(axis=1), 8)):
                    estimated, chosen = (softmax(x[h])[:, best].sum(axis=-1) for x in (near, scores))
                    true = np.sort(softmax(scores[h]), axis=-1)[:, -8:].sum(axis=-1)
                    found += zip(estimated.tolist(), chosen.tolist(), true.tolist(), strict=True)
        estimated, chosen, true = np.array(found).T
        assert (chosen <= true + 1e-9).all()
        assert row["rmse_of_chosen"] == pytest.approx(np.sqrt(np.mean((estimated - chosen) ** 2)), **CLOSE)
        assert row["bias_of_chosen"] == pytest.approx(np.mean(estimated - chosen), **CLOSE)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((estimated - true) ** 2)), **CLOSE)
        assert row["bias"] == pytest.approx(np.mean(estimated - true), **CLOSE)
        bins = np.clip(np.digitize(true, row["edges"]), 1, 20) - 1
        assert row["counts"].tolist() == np.bincount(bins, minlength=20).tolist()
        for n in set(bins.tolist()):
            assert row["mean"][n] == pytest.approx(estimated[bins == n].mean(), **CLOSE)
            assert row["deviation"][n] == pytest.approx(estimated[bins == n].std(), abs=1e-6)


def eta(x: np.ndarray, axis: int) -> float:
    """The correlation ratio of a whole array along an axis, as it is defined."""
    means, n = x.mean(axis=axis), x.shape[axis]
    return float(np.sqrt(n * ((means - x.mean()) ** 2).sum() / ((x - x.mean()) ** 2).sum()))


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_correlation_is_that_of_the_whole_array(kind: str, both: Any) -> None:
    statistics, kept = both(kind)
    for name in ("k", "v"):
        x = np.array([[getattr(call, name)[0, :, -10:].numpy() for call, _, _ in one.calls] for one in kept])
        found = statistics["correlation"][{"k": "keys", "v": "values"}[name]]
        for axis, dim in zip(AXES, (0, 3, 1, 2, 4), strict=True):
            assert found[axis]["size"] == x.shape[dim]
            assert found[axis]["ratio"] == pytest.approx(eta(x, dim), abs=1e-6)
            assert found[axis]["excess"] == pytest.approx(eta(x, dim) - x.shape[dim] ** -0.5, abs=1e-6)


def test_independent_entries_have_no_excess_and_equal_ones_have_all() -> None:
    source = torch.Generator().manual_seed(5)
    noise, constant = Correlation(4), Correlation(4)
    same = torch.randn(2, 1, 16, generator=source).expand(2, 50, 16)
    for _ in range(6):
        for layer in range(4):
            noise.add(layer, torch.randn(2, 50, 16, generator=source))
            constant.add(layer, same)
        noise.close()
        constant.close()
    assert all(abs(found["excess"]) < 0.01 for found in noise.ratios().values())
    found = constant.ratios()
    assert [found[axis]["ratio"] for axis in ("batch", "sequence", "layer")] == pytest.approx([1, 1, 1])


def test_a_layer_with_a_window_is_looked_at_through_it() -> None:
    kind = "mqa with soft caps and windows"
    counts: dict[int, int] = {}
    engine = Engine(tiny_model(kind), Letters())
    observe(engine, tiny_requests([30])[0].prompt, lambda n, step: counts.update({n: int(step.visible.count[0, 0])}))
    assert counts == {n: window or 30 for n, window in enumerate(layer_windows(CONFIGS[kind]))}
    found = Gathered(Choice(5, (3,), (4, 20), 20, 10), shape_of(CONFIGS[kind]), 3)
    observe(engine, tiny_requests([30])[0].prompt, found.see)
    found.close()
    # what does not leave anything out in a window of 9 is known of the other layers alone
    assert found.of[20].tolist() == [int(window is None) for window in layer_windows(CONFIGS[kind])]
    statistics = found.statistics()
    assert all(0 < row["mean"] <= 1 for row in statistics["agreement"])
    unlimited = [window is None for window in layer_windows(CONFIGS[kind])]
    for row in statistics["coverage"]:
        assert np.isfinite(row["heads"]).all(axis=1).tolist() == unlimited


def test_nothing_that_is_kept_grows_with_a_prompt() -> None:
    engine = Engine(tiny_model("gqa"), Letters())
    sizes = []
    for length in (20, 90):
        found = Gathered(CHOICE, shape_of(CONFIGS["gqa"]), engine.layers)
        observe(engine, tiny_requests([length])[0].prompt, found.see)
        tensors = [*found.keys.over_examples.values(), found.keys.over_layers]
        found.close()
        arrays = [found.now, found.mass, *found.queries, *found.found.values()]
        sizes.append(sum(x.nbytes for x in (*arrays, *tensors)))
    assert sizes[0] == sizes[1]


def test_budgets_are_whole_and_leave_something_out() -> None:
    requests = [Request(0, "", tuple(range(100)), 100), Request(1, "", tuple(range(300)), 300)]
    assert choice(Shape(2, 2, 64), None, None, requests) == Choice(32, (4, 8, 16, 32), (32, 64, 128, 256), 64, 100)
    assert choice(Shape(2, 2, 64), [0.25, 3], 16, requests) == Choice(32, (3, 16), (16,), 16, 100)
    assert choice(Shape(2, 2, 64), None, [9, 64, 80], requests, [None, 9]).k == 80
    assert choice(Shape(2, 2, 64), None, [9, 64, 80], requests, [70, 30]).k == 64
    with pytest.raises(UserError, match="k=64: no layer sees more than 30 tokens, so nothing would be left out"):
        choice(Shape(2, 2, 64), None, 64, requests, [30, 20])
    with pytest.raises(UserError, match="k=100: the shortest prompt has 100 tokens"):
        choice(Shape(2, 2, 64), None, [100, 200], requests)
    with pytest.raises(UserError, match="r=65: at most the model's head size, 64"):
        choice(Shape(2, 2, 64), 65, None, requests)


@pytest.mark.parametrize("word", ["method=h2o", "methods.sparq.r=3", "grid=paper", "compression=8", "-m"])
def test_what_an_analysis_has_no_use_for_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"^{word}: an analysis has no use for it; leave it out"):
        check_used(["model=smollm2-135m", word])


def test_a_key_that_does_not_exist_is_refused_as_in_a_run() -> None:
    command = [sys.executable, "-m", "sparq_eval.analyse", "sample=3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "sparq_eval.analyse: sample=3: there is no key sample; did you mean samples?"


def analysis(found: dict[str, Any], **changes: Any) -> Analysis:
    model = {"name": "tiny/one", "layers": 3, "heads": 2, "groups": 2, "head_size": 8}
    protocol = {"top": 5, "rs": [2, 3], "ks": [3, 8], "k": 8, "positions": 10, "dtype": "float64"}
    facts = {"data": {"source": "mirror"}, "protocol": protocol, "prompts": {"count": 4}, "machine": {"device": "CPU"}}
    told = {"versions": {"torch": "2.9"}, "git": "0" * 40, "command": "analyse", "when": "2024-01-31T12:00:00+00:00"}
    values: dict[str, Any] = {"model": model, "task": "squad", **facts, **told, "statistics": compact(found)}
    return Analysis(**(values | changes))


def test_a_record_is_read_back_and_is_no_foreign_file(both: Any, tmp_path: Path, capsys: Any) -> None:
    made = analysis(both("gqa")[0])
    path = made.save(tmp_path / "records")
    assert path.name == f"analysis-tiny--one-{made.key}.json"
    again = analysis(both("gqa")[0], when="2023-01-31T12:00:00+00:00")
    again.save(tmp_path)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_analyses(tmp_path) == [again, made]
    assert list(folders(tmp_path)) == []
    assert verify(tmp_path) == []
    assert rubbish(tmp_path) == []
    assert capsys.readouterr().err == ""


def test_a_record_that_was_changed_is_named_and_left_out(both: Any, tmp_path: Path, capsys: Any) -> None:
    path = analysis(both("gqa")[0]).save(tmp_path)
    content = json.loads(path.read_bytes())
    content["statistics"]["correlation"]["values"]["sequence"]["excess"] = 0.9
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="it was changed by hand"):
        read_analysis(path)
    assert load_analyses(tmp_path) == []
    assert "it was changed by hand; left out" in capsys.readouterr().err
    [finding] = verify(tmp_path)
    assert finding.path == path
    for name, value in (("model", {"name": "x"}), ("when", "yesterday"), ("statistics", {}), ("task", 3)):
        with pytest.raises(ValueError, match=name):
            analysis(both("gqa")[0], **{name: value})


def published(folder: Path) -> Path:
    """What the paper's tables.csv has of it, with other numbers."""
    rows = ["table,row,column,value,unit,note"]
    rows += [f"Table 1,eta,{axis},{value},,x" for axis, value in zip(("S", "d_h"), (0.21, 0.01), strict=True)]
    rows.append('Fig 4f (RMSE printed in notebook),"alpha RMSE, r=32",tau=1 | coverage,0.135 | 0.037,,x')
    (folder / "tables.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_every_figure_is_drawn_for_each_model_and_task_from_its_newest_record(both: Any, tmp_path: Path) -> None:
    found, _ = both("gqa")
    old, new = analysis(found), analysis(found, when="2025-01-31T12:00:00+00:00")
    other = analysis(found, task="needle/x")
    assert newest([old, other, new]) == [new, other]
    written = draw_analyses([old, new], tmp_path / "out", published(tmp_path))
    names = {f"{name}_tiny--one_squad" for name in ("fig4", "figE1", "figE2")}
    assert {path.name for path in written} == {f"{n}{end}" for n in names for end in (".svg", ".png", ".csv")} | {
        "table1.csv",
        "table1.md",
    }
    assert all(path.stat().st_size for path in written)
    text = (tmp_path / "out/fig4_tiny--one_squad.svg").read_text()
    assert "coverage: " in text and "[0.037]" in text and "tiny/one, squad, 4 prompts" in text
    table = pd.read_csv(tmp_path / "out/table1.csv")
    assert set(table["record"]) == {new.key}
    own = table[table["axis"] == "position"].iloc[0]
    assert own["values"] == pytest.approx(found["correlation"]["values"]["sequence"]["excess"], rel=1e-5)
    assert own["keys"] == pytest.approx(found["correlation"]["keys"]["sequence"]["excess"], rel=1e-5)
    assert own["published: values, Llama 2 7B"] == 0.21


def through_windows(ks: tuple[int, ...]) -> dict[str, Any]:
    """Statistics of a model whose first and last layers see 9 positions."""
    kind = "mqa with soft caps and windows"
    shape = shape_of(CONFIGS[kind])
    found = Gathered(Choice(5, (2, 4), ks, ks[-1], 10), shape, 3)
    observe(Engine(tiny_model(kind), Letters()), tiny_requests([30])[0].prompt, found.see)
    found.close()
    return compact(found.statistics())


def test_agreement_is_drawn_over_the_kurtosis_of_its_own_layer(tmp_path: Path) -> None:
    statistics = through_windows((20,))
    windows = layer_windows(CONFIGS["mqa with soft caps and windows"])
    assert windows == [9, None, 9]
    row = next(row for row in statistics["agreement"] if "heads" in row)
    assert [None in layer for layer in row["heads"]] == [True, False, True]
    kurtosis = statistics["queries"]["kurtosis"]
    found, tails = paired(row["heads"], kurtosis)
    assert np.isfinite(found).all(axis=1).tolist() == [False, True, False]
    assert tails[1] == pytest.approx(np.reshape(kurtosis[1], (found.shape[1], -1)).mean(axis=-1))
    # records that left such layers out do not say which
    assert paired([row["heads"][1]], kurtosis)[0].size == 0
    model = {"name": "tiny/one", "layers": 3, "heads": 1, "groups": 4, "head_size": 8}
    draw_analyses([analysis(statistics, model=model)], tmp_path)
    drawn = pd.read_csv(tmp_path / "figE2_tiny--one_squad.csv")
    assert set(drawn["layer"]) == {1} and drawn["x"].to_list() == pytest.approx(tails[1].tolist())


def test_an_analysis_in_which_nothing_was_left_out_is_drawn_all_the_same(both: Any, tmp_path: Path) -> None:
    made = analysis(both("gqa")[0] | {"agreement": [], "coverage": []})
    draw_analyses([made], tmp_path)
    assert "(f) nothing was left out" in (tmp_path / "fig4_tiny--one_squad.svg").read_text()
    assert "nothing was left out" in (tmp_path / "figE2_tiny--one_squad.svg").read_text()
    assert set(pd.read_csv(tmp_path / "fig4_tiny--one_squad.csv")["panel"]) == {"a", "b", "c", "d"}


def test_figures_have_their_numbers_beside_them(both: Any, tmp_path: Path) -> None:
    found, _ = both("gqa")
    made = analysis(found)
    draw_analyses([made], tmp_path)
    four, one, two = (pd.read_csv(tmp_path / f"{name}_tiny--one_squad.csv") for name in ("fig4", "figE1", "figE2"))
    statistics = made.statistics
    for panel, expected in (("b", statistics["mass"]["heads"]), ("d", statistics["queries"]["kurtosis"])):
        drawn = four[four["panel"] == panel].pivot_table(index="layer", columns="head", values="y")
        assert drawn.to_numpy() == pytest.approx(np.array(expected))
    at_k = {row["r"]: row["mean"] for row in statistics["agreement"] if row["score"] == "query" and row["k"] == 8}
    e = four[(four["panel"] == "e") & (four["line"] == "query")]
    assert dict(zip(e["x"], e["y"], strict=True)) == at_k
    assert set(four.loc[four["panel"] == "f", "line"]) == set(TEMPERATURES)
    assert four[four["panel"] == "a"]["y"].sum() == pytest.approx(1)
    assert len(one[one["panel"] == "b, c"]) == len(two) * CONFIGS["gqa"].num_attention_heads / 2 == 12


def test_figures_show_the_papers_shares_of_the_head_size() -> None:
    rows = [{"r": r, "temperature": "none"} for r in (8, 16, 32, 64)]
    assert coverage_rows(rows, 128) == [rows[2]] and coverage_rows([], 128) == []
    agreement = [{"r": r, "heads": []} for r in (8, 16, 32, 64)] + [{"r": 15}]
    one = analysis({name: {} for name in PARTS} | {"agreement": agreement})
    assert figE2_row(replace(one, model=one.model | {"head_size": 128})) == agreement[1]


def test_each_published_error_is_beside_its_temperature(tmp_path: Path) -> None:
    names = {"tau=1": "none", "sqrt(r)": "sqrt_r", "sqrt(d_h)": "sqrt_d", "coverage": "coverage"}
    cell = '"{}","{}"'.format(" | ".join(names), "0.1 | 0.2 | 0.3 | 0.4")
    (tmp_path / "tables.csv").write_text(f"table,row,column,value\nFig 4f,alpha,{cell}\n")
    assert read_published(tmp_path).rmse == {"none": 0.1, "sqrt_r": 0.2, "sqrt_d": 0.3, "coverage": 0.4}
    (tmp_path / "tables.csv").write_text("table,row,column,value\nFig 4f,alpha,cold,0.1\n")
    with pytest.raises(UserError, match=r"^published=.*: tables.csv has a cell that is not the paper's"):
        read_published(tmp_path)


def test_without_records_nothing_is_drawn_and_without_its_file_the_papers_numbers_are_missed(tmp_path: Path) -> None:
    assert draw_analyses([], tmp_path / "out") == []
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"^published=.*: tables.csv could not be read"):
        draw_analyses([], tmp_path / "out", tmp_path)


def test_what_a_sink_takes_is_no_mass_and_no_part_of_the_coverage() -> None:
    step = step_of(T=1, S=40)
    one = replace(step, q=step.q[:1], k=step.k[:1], v=step.v[:1], visible=Visible(step.visible.valid[:1], 1))
    sunk = replace(one, sinks=torch.full((2, 3), 50.0))
    assert top_mass(one, 40).tolist() == pytest.approx(np.ones((2, 3)))
    assert (top_mass(sunk, 40) < 1e-6).all()
    for with_sinks, without in zip(coverage(sunk, "sqrt_d", 3, 8), coverage(one, "sqrt_d", 3, 8), strict=True):
        assert torch.equal(with_sinks, without)


def test_an_analysis_leaves_a_record_that_says_what_it_was_made_of(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_tasks(tmp_path / "tasks")
    config = composed("model=any", f"model.path={tmp_path}/model", "samples=3", f"results_dir={tmp_path}/out")
    config |= {"include_path": str(tmp_path / "tasks"), "methods": {"sparq": config["methods"]["sparq"]}}
    settings = read_settings(config | {"task": "lm_eval/my_words"})
    (path,) = run(settings, rs=[2, 0.5], ks=[4, 9])
    made = read_analysis(path)
    assert path.parent == tmp_path / "out"
    assert (made.name, made.task, made.prompts["count"]) == ("model", "lm_eval/my_words", 3)
    assert {key: made.model[key] for key in ("layers", "heads", "groups", "head_size")} == {
        "layers": 2,
        "heads": 2,
        "groups": 2,
        "head_size": 8,
    }
    wanted = {"top": 32, "rs": [2, 4], "ks": [4, 9], "k": 9, "positions": made.prompts["shortest"], "dtype": "float32"}
    assert wanted.items() <= made.protocol.items()
    assert 0 < made.protocol["selfcheck"]["eager"] < made.protocol["selfcheck"]["tolerance"]
    assert len(made.model["sha256"]) == 64 and made.versions["torch"]
    assert np.shape(made.statistics["mass"]["heads"]) == (2, 4)
    with pytest.raises(UserError, match="task=lm_eval/my_start: example 0 has no prompt to look at"):
        list(run(read_settings(config | {"task": "lm_eval/my_start"})))
