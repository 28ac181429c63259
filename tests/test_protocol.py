"""What the names of the paper's evaluation stand for: its grids, its protocol, and the two forms of what differs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from opened import bytes_tokenizer
from test_methods import step_of
from tiny import CONFIGS as TINY
from tiny import Letters, tiny_model, tiny_requests

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import answer_all, fitted
from sparq_eval.evaluate.plan import lengths_within
from sparq_eval.evaluate.settings import check_pins, read_settings
from sparq_eval.harness.prompt import Writer
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import shape_of
from sparq_eval.methods import H2O, Dense, FlexGen, LMInfinite, Method, Shape, SparQ
from sparq_eval.methods.sparq import approximate
from sparq_eval.overrides import CONFIGS, check_overrides, pins

LLAMA, GQA = Shape(32, 1, 128), Shape(8, 4, 128)


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return config


def grid(model: str, task: str, shape: Shape, *overrides: str) -> list[Method]:
    settings = read_settings(composed("grid=paper", f"model={model}", f"task=[{task}]", *overrides)).settings
    return [setting.resolve(shape).method for setting in settings]


def baselines(*ks: int) -> list[Method]:
    return [*(H2O(k) for k in ks), *(LMInfinite(k) for k in ks), *(FlexGen(k) for k in (2, 8, 32, 128, 256))]


@pytest.mark.parametrize("model", ["llama2-7b", "llama2-13b", "pythia-1.4b", "pythia-2.8b", "pythia-6.9b"])
def test_llama_2_and_pythia_have_the_first_sweep_with_its_lower_r(model: str) -> None:
    sparq = [SparQ(r, k, reallocate=True) for r in (16, 32, 64) for k in (64, 128)] + [SparQ(8, 128, reallocate=True)]
    shape = Shape(32, 1, 80) if model == "pythia-2.8b" else LLAMA
    assert grid(model, "squad", shape) == [Dense(), *sparq, *baselines(128, 192, 256, 384, 512, 768)]


def test_mistral_has_it_without_reallocation() -> None:
    sparq = [SparQ(r, k, reallocate=False) for r in (16, 32, 64) for k in (64, 128)] + [SparQ(8, 128, reallocate=False)]
    assert grid("mistral-7b", "squad", GQA) == [Dense(), *sparq, *baselines(128, 192, 256, 384, 512, 768)]


@pytest.mark.parametrize(("model", "shape"), [("gemma-7b", Shape(16, 1, 256)), ("llama3-8b", GQA)])
def test_gemma_and_llama_3_have_reallocation_on_and_off(model: str, shape: Shape) -> None:
    sparq = [SparQ(r, 128, reallocate=on) for r in (8, 16, 32, 64) for on in (True, False)]
    assert grid(model, "cnn_dailymail", shape) == [Dense(), *sparq, *baselines(192, 256, 384, 512, 768)]


def test_vicunas_settings_grow_with_the_prompt() -> None:
    settings = grid("vicuna-7b-16k", "squad", LLAMA)
    assert settings == [Dense(), SparQ(32, 0.125, reallocate=True), H2O(0.25)]
    lengths = {830: (103, 207), 1590: (198, 397), 3102: (387, 775), 6134: (766, 1533), 12187: (1523, 3046)}
    for S, (sparq, h2o) in lengths.items():
        assert [method.fit(S) for method in settings[1:]] == [SparQ(32, sparq, reallocate=True), H2O(h2o)]


@pytest.mark.parametrize("model", ["llama2-7b-32k", "vicuna-7b-16k", "llama2-7b"])
def test_the_needles_settings_move_a_quarter_and_an_eighth(model: str) -> None:
    settings = [method.fit(4000) for method in grid(model, "needle", LLAMA)]
    sparq = [SparQ(32, 500, reallocate=True), SparQ(16, 250, reallocate=True)]
    assert settings == [Dense(), *sparq, H2O(1000), H2O(500), LMInfinite(1000), LMInfinite(500)]
    short = [method.fit(500) for method in grid(model, "needle", LLAMA)[1:]]
    assert [method.settings["k"] for method in short] == [128] * 6


def test_another_model_has_r_in_proportion_to_its_head() -> None:
    small = Shape(3, 3, 64)
    sparq = [SparQ(r, 128, reallocate=False) for r in (4, 8, 16, 32)]
    assert grid("smollm2-135m", "repetition", small) == [Dense(), *sparq, *baselines(192, 256, 384, 512, 768)]
    assert grid("smollm2-135m", "needle", small)[1].settings["r"] == 16


def test_a_method_is_chosen_from_a_grid() -> None:
    assert grid("gemma-7b", "squad", Shape(16, 1, 256), "method=[flexgen]", "baseline=false") == baselines()[-5:]


def test_each_task_has_its_own_sweep_in_one_run() -> None:
    settings = read_settings(composed("grid=paper", "model=llama2-7b", "task=[squad,repetition,needle]"))
    for task, k in (("squad", 64), ("repetition", 64), ("needle", 0.125)):
        own = [s.method for s in settings.settings if s.tasks is None or task in s.tasks]
        assert own[0] == Dense()
        assert own[1].settings["k"] == k
    assert len({(s.name, s.method) for s in settings.settings}) == len(settings.settings)
    assert list(settings.config["grid"]["sweeps"]) == ["squad", "repetition", "needle"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["k=64"], "k=64: grid=paper brings its own settings"),
        (["local=[8]"], "local=8: grid=paper brings its own settings"),
        (["compression=4"], "compression=4: grid=paper brings its own settings"),
        (
            ["method=[flexgen]", "task=[needle]"],
            "for this model and task=needle, grid=paper has settings of sparq, h2o",
        ),
    ],
)
def test_what_a_grid_brings_cannot_be_given_too(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as refusal:
        read_settings(composed("grid=paper", *overrides))
    assert words in str(refusal.value)


def test_a_change_of_a_methods_config_is_not_lost_in_a_grid() -> None:
    with pytest.raises(UserError, match=r"methods.sparq.reallocate=true: grid=paper brings its own settings"):
        check_overrides(["methods.sparq.reallocate=true", "grid=paper"])


def test_the_papers_protocol_pins_what_it_names() -> None:
    config = composed("protocol=paper")
    check_pins(config, pins("paper"))
    settings = read_settings(config)
    assert (settings.stop, settings.truncate, settings.prompts, settings.accounting) == (
        "paper",
        "left",
        ["whole"],
        "code",
    )
    assert (settings.needle_lengths, settings.needle_depths) == (None, 17)
    assert settings.config["protocol"] == "paper"
    check_pins(composed("stop=paper", "needle.depths=2"), pins("default"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stop=task", "stop=task: protocol=paper pins stop=paper"),
        ("needle.depths=4", "needle.depths=4: protocol=paper pins needle.depths=17"),
        ("accounting=paper", "accounting=paper: protocol=paper pins accounting=code"),
    ],
)
def test_a_value_that_contradicts_the_protocol_is_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_pins(composed("protocol=paper", override), pins("paper"))


def test_needles_are_as_long_as_the_context_has_room_for() -> None:
    assert len(lengths_within(32768)) == len(lengths_within(131072)) == 32
    assert lengths_within(2048) == (896, 1920)
    assert lengths_within(32768)[-1] == 32640


def test_answers_take_five_steps_more_than_the_longest_gold_one() -> None:
    tokenizer = bytes_tokenizer()
    writer = Writer("squad", tokenizer, most=None, steps=30, by_reference=True, margin=5)
    docs = [{"id": str(n), "context": "", "answers": ["x" * length, "y"]} for n, length in enumerate((3, 24, 26))]
    assert [request.steps for request in writer.write(0, docs, ["?"] * 3)] == [8, 29, 30]


METHODS = [SparQ(r=3, k=0.3, reallocate=True), H2O(k=0.25, min_k=6), LMInfinite(k=0.5, sink=2), FlexGen(k=0.1)]
LENGTHS = [21, 41, 21, 22, 33]


def test_a_whole_budget_is_the_same_at_any_length() -> None:
    for method in (Dense(), SparQ(8, 16), H2O(16), LMInfinite(32), FlexGen(8)):
        assert method.fit(7) == method.fit(7000) == method


def test_a_share_is_rounded_down_and_has_a_least() -> None:
    assert [H2O(k=0.25, min_k=6).fit(S).settings for S in (47, 10)] == [{"k": 11, "local": 2}, {"k": 6, "local": 1}]
    assert SparQ(k=0.25, local=20).fit(100).settings["local"] == 20
    assert SparQ(k=0.25, local=20).fit(10).settings["k"] == 20
    assert LMInfinite(k=0.01).fit(100) == LMInfinite(17)
    assert H2O(k=0.25, min_k=6).settings == {"k": 0.25, "local": None, "min_k": 6}


def test_a_least_means_nothing_beside_a_whole_budget() -> None:
    assert H2O(k=16, min_k=128) == H2O(k=16)
    assert "min_k" not in SparQ(k=16).settings


def test_a_share_is_never_attended_with() -> None:
    with pytest.raises(TypeError, match="must be made whole"):
        SparQ(r=3, k=0.5).attend(step_of(T=1, S=40), None)


def test_answers_with_shares_do_not_depend_on_what_shares_their_batch() -> None:
    engine = Engine(tiny_model("mha"), Letters())
    methods = [method.resolve(shape_of(TINY["mha"])) for method in METHODS]
    requests = [replace(request, prompt_tokens=len(request.prompt) - 1) for request in tiny_requests(LENGTHS, steps=6)]
    batches = list(answer_all(engine, requests, methods, 4))
    assert sorted(len(batch.requests) for batch in batches) == [1, 1, 3], (
        "21 and 22 tokens come to the same whole numbers"
    )
    for batch in batches:
        for n, answers in enumerate(batch.answers):
            for request, answer in zip(batch.requests, answers, strict=True):
                [[alone]] = engine.answer([request], [fitted(methods, request)[n]])
                assert answer.tokens == alone.tokens
                assert answer.traffic == alone.traffic


def selection(method: SparQ, groups: int) -> list[set[int]]:
    """Positions attended, for each example and head, read off values that name their position."""
    step = step_of(T=1, S=40)
    step = replace(step, q=step.q[:, :, :groups] * 3)
    ranked = method.rank(approximate(step, 3))
    return [set(row.tolist()) for row in ranked.flatten(0, 2).topk(5).indices]


def test_ranking_by_weights_is_ranking_by_logits_where_no_head_is_shared() -> None:
    assert selection(SparQ(rank_by="weights"), 1) == selection(SparQ(rank_by="logits"), 1)
    assert selection(SparQ(rank_by="weights"), 3) != selection(SparQ(rank_by="logits"), 3)
    scores = approximate(step_of(T=1, S=40), 3)
    torch.testing.assert_close(
        SparQ(rank_by="weights").rank(scores),
        scores.softmax(dim=-1).sum(dim=2).masked_fill(scores[:, :, 0].isinf(), -1),
    )


def test_ranking_by_weights_never_chooses_what_cannot_be_seen() -> None:
    attended, _ = SparQ(r=3, k=5, rank_by="weights").attend(step_of(T=1, S=40), None)
    assert attended.selected.eq(6).all()


def test_a_ranking_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="rank_by=softmax: logits or weights"):
        SparQ(rank_by="softmax")


def test_the_code_and_the_text_count_differently() -> None:
    S, D = 1000, 128
    on, off = SparQ(32, 128, reallocate=True), SparQ(32, 128, reallocate=False)
    first = S * 32 + 2 * 128 * D
    assert [m.transfers(S, LLAMA) - first for m in (on, off)] == [5 * D, 3 * D]
    assert [m.transfers_as_printed(S, LLAMA) - first for m in (on, off)] == [4 * D, 4 * D]
    assert H2O(64).transfers(S, LLAMA) == H2O(64).transfers_as_printed(S, LLAMA) + 1
    for method in (Dense(), LMInfinite(64), FlexGen(64)):
        assert method.transfers(S, LLAMA) == method.transfers_as_printed(S, LLAMA)


def test_the_texts_length_counts_generated_tokens_so_that_dense_moves_its_formula() -> None:
    for requests in (tiny_requests([20, 41], steps=9), tiny_requests([20, 41], forced=[7, 12])):
        for accounting in ("code", "paper"):
            [answers] = Engine(tiny_model("gqa"), Letters(), accounting).answer(requests, [Dense()])
            for answer in answers:
                same = answer.traffic.nominal == pytest.approx(answer.traffic.counted)
                assert same == (accounting == "paper")
