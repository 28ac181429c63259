"""lm-eval both ways: our model on its command line, its tasks in our runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from library import CONTEXT, QUESTIONS, TASKS, write_model, write_tasks
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from omegaconf import OmegaConf
from tiny import naive_logits

from sparq_eval.errors import UserError
from sparq_eval.evaluate.documents import join_answers
from sparq_eval.evaluate.plan import Cell
from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import read_settings
from sparq_eval.harness import library as library_module
from sparq_eval.lm_eval import SparqEval
from sparq_eval.overrides import CONFIGS
from sparq_eval.request import Answer, Certificate, Traffic
from sparq_eval.results.record import Row

KINDS = ["my_choice", "my_words", "my_ending", "my_start", "my_late", "my_text", "my_essay"]
FIRST = {
    "my_choice": "acc",
    "my_words": "exact_match",
    "my_ending": "acc",
    "my_start": "acc",
    "my_text": "bits_per_byte",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in `model`, tasks in `tasks`."""
    folder = tmp_path_factory.mktemp("lm_eval")
    write_model(folder / "model")
    write_tasks(folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def dense(folder: Path) -> SparqEval:
    return SparqEval(str(folder / "model"))


def evaluated(lm: Any, folder: Path, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's rows by task."""
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    loaded = manager.load(names)
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(1234)
    done = evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0)
    assert done is not None
    return done["samples"]


def test_dense_has_the_numbers_of_lm_evals_own_model(folder: Path, dense: SparqEval) -> None:
    """Also where a prompt is cut, a text has no context and a text takes several windows."""
    own = HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=1)
    ours, theirs = evaluated(dense, folder, KINDS), evaluated(own, folder, KINDS)
    for name in KINDS:
        for row, other in zip(ours[name], theirs[name], strict=True):
            assert row["arguments"] == other["arguments"]
            for said, right in zip(row["filtered_resps"], other["filtered_resps"], strict=True):
                assert said == (right if isinstance(right, str) else pytest.approx(right, abs=1e-3)), name
            for metric in row["metrics"]:
                assert row[metric] == pytest.approx(other[metric], abs=1e-4), (name, metric)
    words = [row["filtered_resps"][0] for row in ours["my_words"]]
    assert len(set(words)) > 1 and any(len(word) < 12 for word in words)
    assert max(len(row["doc"]["long"]) for row in ours["my_text"]) > CONTEXT


@pytest.mark.parametrize("arguments", [{"method": "sparq", "r": 2, "k": 5}, {"method": "h2o", "k": 5, "local": 2}])
def test_log_likelihoods_are_the_methods_own(folder: Path, dense: SparqEval, arguments: dict[str, Any]) -> None:
    lm = SparqEval(str(folder / "model"), **arguments)
    pairs = [("A dog is an", " animal of its own"), ("", "once upon a time"), ("Water is hydrogen and ", "rust")]
    instances = [Instance("loglikelihood", {}, pair, 0, ("t", n, 1)) for n, pair in enumerate(pairs)]
    values = [value for value, _ in lm.loglikelihood(instances)]
    requests = [request for n, instance in enumerate(instances) for request in lm.write(instance, n, str(n))]
    (stepwise,) = lm.engine.answer(requests, [lm.setting.method], stepwise=True)
    assert values == pytest.approx([answer.loglikelihood for answer in stepwise], abs=1e-3)
    for value, request in zip(values, requests, strict=True):
        naive = naive_logits(lm.engine.model, lm.setting.method, request, request.forced).log_softmax(dim=-1)
        assert value == pytest.approx(naive.gather(-1, torch.tensor(request.forced)[:, None]).sum().item(), abs=1e-3)
    for value, (other, _) in zip(values, dense.loglikelihood(instances), strict=True):
        assert abs(value - other) > 0.1
    rolling = [Instance("loglikelihood_rolling", {}, ("x" * 10 + "once upon a time" * 20,), 0, ("t", 0, 1))]
    windows = lm.write(rolling[0], 0, "0")
    assert len(windows) > 2
    (parts,) = lm.engine.answer(windows, [lm.setting.method], stepwise=True)
    assert lm.loglikelihood_rolling(rolling)[0] == pytest.approx(
        sum(part.loglikelihood or 0 for part in parts), abs=0.02
    )


def test_lm_evals_command_line_runs_our_model(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparq_eval.lm_eval", "--model", "sparq_eval", "--batch_size", "2"]
    command += ["--model_args", f"pretrained={folder / 'model'},method=sparq,r=2,k=4", "--limit", "3"]
    command += ["--tasks", "my_start,my_text", "--include_path", str(folder / "tasks")]
    command += ["--log_samples", "--output_path", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "|my_start" in done.stdout and "bits_per_byte" in done.stdout
    (results,) = tmp_path.rglob("results_*.json")
    config = json.loads(results.read_text(encoding="utf-8"))["config"]
    assert config["method_settings"].items() >= {"r": 2, "k": 4, "local": 1, "reallocate": False}.items()
    assert config["model_identity"]["source"] == "folder"
    assert len(list(tmp_path.rglob("samples_*.jsonl"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"q": 3}, "model_args q=3: there is no such argument; there are pretrained, method"),
        ({"method": "sparq", "reallocat": True}, "did you mean reallocate"),
        ({"method": "sparqe"}, "method=sparqe: there is no such method; did you mean sparq"),
        ({"method": "sparq", "k": "many"}, "model_args k=many: must be a whole number"),
        ({"method": "sparq", "k": True}, "model_args k=True: must be a whole number"),
        ({"method": "sparq", "k": [8, 16]}, "must be a whole number"),
        ({"method": "sparq", "reallocate": 1}, "must be true or false or null"),
        ({"method": "sparq", "k": 0}, "method sparq: k=0: a whole number of at least 1"),
        ({"method": "sparq", "r": 64}, "r=64: at most the model's head size, 8"),
        ({"dtype": "float8"}, "dtype=float8: must be one of auto, float32"),
        ({"device": "tpu"}, "device=tpu"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number"),
        ({"pretrained": "smolm2-135m"}, "pretrained=smolm2-135m: there is no such model; did you mean smollm2-135m"),
        ({"pretrained": "./nowhere"}, "pretrained=./nowhere is no file, no folder and no hub id"),
        ({"pretrained": None}, "pretrained=<a name of configs/model"),
    ],
)
def test_bad_model_arguments_are_refused_before_weights_are_read(
    folder: Path, arguments: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparq_eval.hf.checkpoint.Checkpoint.load", None)
    with pytest.raises(UserError) as refusal:
        SparqEval.create_from_arg_obj({"pretrained": str(folder / "model"), **arguments}, {"device": "cuda:0"})
    assert words in str(refusal.value)


def test_a_text_ends_with_a_token_that_ends_texts(dense: SparqEval) -> None:
    (request,) = dense.write(Instance("generate_until", {}, ("A dog is", {"max_gen_toks": 9}), 0, ("t", 0, 1)), 0, "0")
    end = dense.tokenizer.eos_token_id
    assert (request.ends, request.until, request.steps) == ((end,), ("</s>",), 9)
    (whole,) = dense.answer_all([request])
    assert len(whole.tokens) == 9
    (cut,) = dense.answer_all([replace(request, ends=(whole.tokens[4],))])
    assert cut.tokens == whole.tokens[: whole.tokens.index(whole.tokens[4]) + 1]


def test_sampling_is_refused(dense: SparqEval) -> None:
    for options in ({"do_sample": True}, {"temperature": 0.5}, {"until": ["x"], "num_beams": 4}):
        with pytest.raises(UserError, match="only greedy"):
            dense.generate_until([Instance("generate_until", {}, ("x", options), 0, ("t", 0, 1))])


def ran(folder: Path, out: Path, *tasks: str, **changes: Any) -> list[Cell]:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        overrides = ["model=any", f"model.path={folder / 'model'}", "method=[sparq,h2o]", "r=2", "k=4"]
        config: Any = OmegaConf.to_container(compose("config", overrides), resolve=True)
    names = {"task": [f"lm_eval/{task}" for task in tasks], "include_path": str(folder / "tasks")}
    return run(read_settings({**config, **names, "results_dir": str(out), "samples": 9, **changes}))


def rows_of(cell: Cell) -> list[list[Row]]:
    """By setting, dense first."""
    return [entry.rows() for entry in cell.entries]


@pytest.fixture(scope="module")
def cells(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    out = tmp_path_factory.mktemp("results")
    return {cell.task.name: cell for cell in ran(folder, out, *FIRST, "my_choice:acc_norm", "my_ending:perplexity")}


def test_every_kind_of_task_is_recorded_under_every_setting(
    folder: Path, cells: dict[str, Cell], dense: SparqEval
) -> None:
    lm_evals = evaluated(dense, folder, list(FIRST))
    for name, metric in FIRST.items():
        cell = cells[f"lm_eval/{name}"]
        assert cell.task.metric == metric
        first, *others = rows_of(cell)
        assert [row.index for row in first] == list(range(5))
        for row, right in zip(first, lm_evals[name], strict=True):
            value = right[metric]
            if metric == "bits_per_byte":
                value = -value[0] / value[1] / torch.tensor(2.0).log().item()
            assert row.score == pytest.approx(value, abs=1e-4)
        for rows in others:
            assert any(
                row.output != other.output or row.score != other.score for row, other in zip(rows, first, strict=True)
            )
            assert all(row.decode_steps and row.sparse_steps for row in rows)
            assert all(row.counted < row.counted_dense for row in rows)


def test_references_are_the_texts_and_options_that_are_right(cells: dict[str, Cell]) -> None:
    right = [(options[place].strip(),) for _, options, place in QUESTIONS]
    for name in FIRST:
        task = cells[f"lm_eval/{name}"].task
        found = [tuple(text.strip() for text in task.references(index)) for index in range(len(task))]
        assert found == (right if name in ("my_choice", "my_words") else [()] * len(task))


def test_an_example_of_several_requests_is_one_row(cells: dict[str, Cell], dense: SparqEval) -> None:
    row = rows_of(cells["lm_eval/my_choice"])[0][0]
    assert row.generated_tokens == len(" London Paris Berlin")
    assert row.decode_steps == row.generated_tokens - 3
    chosen, *likely = row.output.replace(")", "").replace("(", ",").split(",")
    values = [float(value) for value in likely]
    assert chosen.strip() in ("London", "Paris", "Berlin") and len(values) == 3
    assert chosen == [" London ", " Paris ", " Berlin "][values.index(max(values))]
    assert rows_of(cells["lm_eval/my_text"])[0][4].output.endswith("nats in 98 tokens")


def test_another_metric_is_another_record_of_the_same_answers(cells: dict[str, Cell]) -> None:
    by_default, asked = cells["lm_eval/my_choice"], cells["lm_eval/my_choice:acc_norm"]
    assert asked.task.metric == "acc_norm"
    assert asked.entries[0].path != by_default.entries[0].path
    assert [row.output for row in rows_of(asked)[0]] == [row.output for row in rows_of(by_default)[0]]
    worse = rows_of(cells["lm_eval/my_ending:perplexity"])[0]
    assert all(row.score > 1 for row in worse) and not cells["lm_eval/my_ending:perplexity"].task.higher_is_better


def test_the_same_again_computes_nothing_and_more_only_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = ran(folder, tmp_path, "my_choice", samples=2)
    first = rows_of(cell)
    ran(folder, tmp_path, "my_choice", samples=2)
    assert "nothing to compute" in capsys.readouterr().err
    (cell,) = ran(folder, tmp_path, "my_choice:acc", samples=4, batch_size=4)
    assert "18 of 36 answers to compute" in capsys.readouterr().err.replace("\n", " ")
    assert [rows[:2] for rows in rows_of(cell)] == first


def test_answers_do_not_depend_on_the_batches_that_they_came_in(
    folder: Path, tmp_path: Path, cells: dict[str, Cell]
) -> None:
    (cell,) = ran(folder, tmp_path, "my_choice", batch_size=4)
    for rows, others in zip(rows_of(cell), rows_of(cells["lm_eval/my_choice"]), strict=True):
        assert [(row.score, row.decode_steps, row.output) for row in rows] == [
            (row.score, row.decode_steps, row.output) for row in others
        ]


def test_other_data_or_another_definition_is_another_record(
    folder: Path, tmp_path: Path, cells: dict[str, Cell]
) -> None:
    before = cells["lm_eval/my_ending"].task.source
    moved = write_tasks(tmp_path / "moved", "elsewhere.jsonl")
    (same,) = ran(folder, tmp_path, "my_ending", include_path=str(moved), samples=1)
    assert same.task.source == before, "a folder may move"
    changed = write_tasks(tmp_path / "changed", description="Complete: ")
    (other,) = ran(folder, tmp_path, "my_ending", include_path=str(changed), samples=1)
    assert {key for key in before if before[key] != other.task.source[key]} == {"definition"}
    with (moved / "elsewhere.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"question": "x", "choices": ["y"], "answer": 0, "long": "z"}))
    (other,) = ran(folder, tmp_path, "my_ending", include_path=str(moved), samples=1)
    assert {key for key in before if before[key] != other.task.source[key]} == {"sha256"}


def test_a_group_is_all_its_tasks_with_what_it_says_of_them(folder: Path, tmp_path: Path) -> None:
    cells = ran(folder, tmp_path, "my_texts", "my_start", samples=1)
    assert [cell.task.name for cell in cells] == ["lm_eval/my_start", "lm_eval/my_ending"]
    assert len(cells[1].requests[0].prompt) == len("<Go on: The capital of France is")


def test_a_tag_is_all_its_tasks(folder: Path, tmp_path: Path) -> None:
    assert [cell.task.name for cell in ran(folder, tmp_path, "my_both", samples=1)] == [
        "lm_eval/my_choice",
        "lm_eval/my_words",
    ]


def test_long_prompts_are_refused_or_cut_as_lm_eval_does(folder: Path, tmp_path: Path, dense: SparqEval) -> None:
    with pytest.raises(UserError, match=r"task=lm_eval/my_essay: example 2 needs 117 tokens.*truncate=left"):
        ran(folder, tmp_path, "my_essay")
    (cell,) = ran(folder, tmp_path, "my_essay", truncate="left")
    first = rows_of(cell)[0]
    assert [row.output for row in first] == [
        row["resps"][0][0] for row in evaluated(dense, folder, ["my_essay"])["my_essay"]
    ]
    assert [row.truncated for row in first] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("my_words:bleu", {}, "my_words:bleu: that metric exists only over many documents; there are exact_match"),
        ("my_choice:mcc", {}, "that metric exists only over many documents; there are acc, acc_norm"),
        ("my_choice:f2", {}, "it has no such metric; there are acc, acc_norm"),
        ("my_choice:acc:strict", {}, "acc has no such filter; there are none"),
        ("my_scores", {}, r"each of its metrics (bleu) exists only over many documents"),
        ("my_sample", {}, "only greedy decoding is done here"),
        ("my_choice", {"stop": "paper"}, "stop=paper: answers of task=lm_eval/my_choice end as lm-eval's task says"),
        ("my_choice", {"include_path": "/nowhere"}, "include_path=/nowhere: must be a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_read(
    folder: Path, tmp_path: Path, task: str, changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparq_eval.hf.checkpoint.Checkpoint.load", None)
    with pytest.raises(UserError) as refusal:
        ran(folder, tmp_path, task, **changes)
    assert words in str(refusal.value)


def test_an_unknown_task_gets_the_nearest_known_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    monkeypatch.setattr(library_module, "everything", lambda *_: manager)
    with pytest.raises(UserError, match=r"task=lm_eval/my_choise: lm-eval has no such task; did you mean my_choice"):
        ran(folder, tmp_path, "my_choise")


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_one_sentence_says_what_is_missing(
    folder: Path, tmp_path: Path, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = write_tasks(tmp_path / "tasks", dataset_path="nobody/nothing", dataset_kwargs=None)
    monkeypatch.setattr(library_module.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(library_module.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"task=lm_eval/my_words: .*nobody/nothing.*include_path=<folder>") as refusal:
        ran(folder, tmp_path, "my_words", include_path=str(tasks))
    assert "\n" not in str(refusal.value)


def test_a_definition_that_is_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks", test_split="tset")
    with pytest.raises(UserError, match=r"task=lm_eval/my_words: its definition makes no task \(.*tset"):
        ran(folder, tmp_path, "my_words", include_path=str(tasks))


def test_a_file_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    (tasks / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"task=lm_eval/my_words: its data could not be read \(.*data.jsonl"):
        ran(folder, tmp_path, "my_words", include_path=str(tasks))


@pytest.mark.parametrize("hidden", [0, 2])
@pytest.mark.parametrize(
    ("task", "label"),
    [(task, label) for task in ("my_choice", "my_words", "my_ending") for label in (-100, 7)] + [("my_choice", -1)],
)
def test_a_label_that_is_hidden_or_none_names_the_task_before_a_model_is_read(
    folder: Path, tmp_path: Path, task: str, hidden: int, label: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparq_eval.hf.checkpoint.Checkpoint.load", None)
    tasks = write_tasks(tmp_path / "tasks")
    docs = [json.loads(line) for line in (tasks / "data.jsonl").read_text().splitlines()]
    docs[hidden]["answer"] = label
    (tasks / "data.jsonl").write_text("\n".join(map(json.dumps, docs)))
    with pytest.raises(
        UserError, match=rf"^task=lm_eval/{task}: .*cannot be asked \(.*include_path=<folder>"
    ) as refusal:
        ran(folder, tmp_path, task, include_path=str(tasks))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "right"), [("{{choices[answer]}}", True), ("-{{answer + 1}}", False), ("no", False)]
)
def test_a_label_in_words_is_one_of_the_options(
    folder: Path, tmp_path: Path, target: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = write_tasks(tmp_path / "tasks", doc_to_target=target, num_fewshot=0)
    text = (tasks / "my_choice.yaml").read_text().replace("doc_to_target: answer", f"doc_to_target: '{target}'")
    (tasks / "my_choice.yaml").write_text(text)
    if right:
        [cell] = ran(folder, tmp_path, "my_choice", include_path=str(tasks))
        assert cell.task.references(0) == (" Paris",)
        return
    monkeypatch.setattr("sparq_eval.hf.checkpoint.Checkpoint.load", None)
    with pytest.raises(UserError, match=r"^task=lm_eval/my_choice: .*cannot be asked \(.*none of its 3 options"):
        ran(folder, tmp_path, "my_choice", include_path=str(tasks))


def test_traffic_of_several_requests_is_the_mean_over_their_steps() -> None:
    nan = float("nan")
    parts = [
        Answer(0, (1, 2, 3), "a", Traffic(10, 20, 8, 16), Certificate(2, 6, 2.0, 3), loglikelihood=-1.0, greedy=True),
        Answer(0, (1, 2), "b", Traffic(40, 50, 20, 40), Certificate(1, 3, 0.0, 0), loglikelihood=-2.0, part=1),
        Answer(0, (1,), "c", Traffic(70, 80, nan, nan), loglikelihood=-3.0, greedy=True, part=2),
    ]
    whole = join_answers(parts, "a")
    assert whole.traffic == Traffic(20, 30, 12, 24)
    assert whole.certificate == Certificate(3, 9, 2.0, 3)
    assert len(whole.tokens) == 6
    still = join_answers(parts[2:] * 2, "c").traffic
    assert (still.nominal, still.nominal_dense) == (70, 80) and still.counted != still.counted


def test_the_tasks_cover_every_kind() -> None:
    assert {task["output_type"] for task in TASKS.values()} == {
        "multiple_choice",
        "generate_until",
        "loglikelihood",
        "loglikelihood_rolling",
    }
