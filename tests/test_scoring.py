"""Scores come from lm-eval and are the published ones."""

import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from opened import opened

from sparq_eval.harness.task import Data, Task
from sparq_eval.hf.generation import stop_at
from sparq_eval.request import Answer, Traffic

NOTHING = Traffic(0.0, 0.0, 0.0, 0.0)


def answer(index: int, output: str = "", loglikelihood: float | None = None) -> Answer:
    return Answer(index, (), output, NOTHING, loglikelihood=loglikelihood)


@pytest.fixture(scope="module")
def tasks(shared: Path) -> dict[str, Task]:
    names = ("squad", "triviaqa", "cnn_dailymail", "repetition", "wikitext_bpc", "needle")
    return {name: opened(name, Data("mirror", shared / "data/mirror")) for name in names}


def reference(task: Task, index: int) -> Any:
    return task.docs[index]


def test_outputs_score_as_published(tasks: dict[str, Task], shared: Path) -> None:
    metrics = {"squad": "match", "repetition": "match_length_char", "cnn_dailymail": "rougeL", "wikitext_bpc": "bpc"}
    settings = defaultdict(list)
    for line in (shared / "golden/outputs/smollm2-135m_float32.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        settings[row["task"], row["method"], row.get("r"), row.get("reallocate")].append(row)
    assert {task for task, *_ in settings} == set(metrics)
    for (name, *_), rows in settings.items():
        task = tasks[name]
        answers = [
            answer(
                row["index"], loglikelihood=-row["bpc"] * math.log(2) * len(reference(task, row["index"])["reference"])
            )
            if name == "wikitext_bpc"
            else answer(row["index"], row["output"])
            for row in rows
        ]
        scores = task.score(answers)
        for row in rows:
            assert scores[row["index"]] == pytest.approx(float(row[metrics[name]]), abs=1e-9)


def test_scores_follow_the_answers_whatever_their_order(tasks: dict[str, Task]) -> None:
    task = tasks["repetition"]
    said = {index: reference(task, index)["reference"].lstrip()[: index // 10] for index in (70, 0, 2000, 150)}
    answers = [answer(index, text + "#") for index, text in said.items()]
    scores = task.score(answers)
    assert list(scores.items()) == [(70, 7), (0, 0), (2000, 200), (150, 15)]
    for one in answers:
        assert task.score([one]) == {one.index: scores[one.index]}


def test_references_as_answers_have_the_best_scores(tasks: dict[str, Task]) -> None:
    for name, task in tasks.items():
        for index in range(min(20, len(task))):
            references = task.references(index)
            assert bool(references) == (name != "wikitext_bpc"), "of a text to score it is the text itself"
            for text in references:
                best = len(text.lstrip()) if name == "repetition" else 1
                assert task.score([answer(index, text)]) == {index: pytest.approx(best)}, (name, text)


def test_no_answers_have_no_scores(tasks: dict[str, Task]) -> None:
    assert tasks["squad"].score([]) == {}


def test_a_prefix_is_matched_after_normalisation(tasks: dict[str, Task]) -> None:
    task = tasks["squad"]
    right = reference(task, 0)["answers"][0]
    assert right == "steam turbine"
    for output, score in [
        (" steam turbine", 1),
        ('\n "The STEAM turbines, of course', 1),
        ("_a steam turbine.", 1),
        ("steam", 0),
        ("of steam turbine", 0),
        ("", 0),
    ]:
        assert task.score([answer(0, output)]) == {0: score}


def test_a_repetition_counts_to_the_first_difference(tasks: dict[str, Task]) -> None:
    task = tasks["repetition"]
    text = reference(task, 0)["reference"]
    whole = len(text.lstrip())
    for output, score in [
        (text, whole),
        (text.lstrip()[:40], whole),
        ("\n " + text.lstrip()[:40] + "#", 40),
        ("#", 0),
        (text + " and more", whole),
    ]:
        assert task.score([answer(0, output)]) == {0: score}


def test_a_needle_is_matched_from_the_start_and_by_case(tasks: dict[str, Task]) -> None:
    needle = "eat a sandwich and sit in Dolores Park on a sunny day"
    outputs = {f" {needle}.": 1, f"\n{needle}": 1, f'" {needle}': 0, needle.capitalize(): 0, needle[:-1]: 0}
    for output, score in outputs.items():
        assert tasks["needle"].score([answer(0, output)]) == {0: score}


def test_bits_are_per_character_of_the_reference(tasks: dict[str, Task]) -> None:
    task = tasks["wikitext_bpc"]
    characters = len(reference(task, 3)["reference"])
    assert task.score([answer(3, loglikelihood=-characters * math.log(2))])[3] == pytest.approx(1)


def test_what_is_not_a_number_stays_so(tasks: dict[str, Task]) -> None:
    assert math.isnan(tasks["wikitext_bpc"].score([answer(0, loglikelihood=math.nan)])[0])


def test_a_text_scored_without_likelihood_is_a_mistake(tasks: dict[str, Task]) -> None:
    with pytest.raises(ValueError, match="answer 0 has no log-likelihood"):
        tasks["wikitext_bpc"].score([answer(0)])


@pytest.mark.parametrize("name", ["squad", "triviaqa", "needle"])
def test_stopping_early_changes_no_score(name: str, tasks: dict[str, Task]) -> None:
    task = tasks[name]
    (request,) = task.requests(1)
    doc = reference(task, 0)
    right = doc["answers"] if "answers" in doc else [doc["reference"]]
    pieces = [*right, "\n", " ", "the ", "a ", "Question:", ".", '"', "x"]
    random.seed(5)
    outputs = ["".join(random.choices(pieces, k=random.randint(1, 6))) for _ in range(1500)]
    for output in outputs:
        stopped = output[: stop_at(output, request.until)]
        assert task.task.process_results(doc, [output]) == task.task.process_results(doc, [stopped]), output


def test_scoring_says_nothing(tasks: dict[str, Task], capfd: pytest.CaptureFixture[str]) -> None:
    tasks["squad"].score([answer(0, "x"), answer(1, "y")])
    assert capfd.readouterr() == ("", "")
