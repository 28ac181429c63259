"""Prompts: the published ones to the last character, and what is cut from them when they are too long."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from opened import bytes_tokenizer, opened

from sparq_eval.errors import UserError
from sparq_eval.harness.prompt import Writer
from sparq_eval.harness.task import Data, Protocol, Task
from sparq_eval.hf.checkpoint import Checkpoint

FILES = {
    "squad": "squad_1shot",
    "triviaqa": "triviaqa_0shot",
    "cnn_dailymail": "cnn_dailymail_0shot",
    "repetition": "repetition",
}
PLAIN = bytes_tokenizer(bos=False)


def golden(shared: Path, file: str) -> list[dict[str, Any]]:
    lines = (shared / "golden/prompts" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def tasks(shared: Path) -> dict[str, Task]:
    return {name: opened(name, Data("mirror", shared / "data/mirror"), PLAIN) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_prompts_are_the_published_ones_in_the_published_order(name: str, tasks: dict[str, Task], shared: Path) -> None:
    rows = golden(shared, FILES[name])
    requests = tasks[name].requests(len(rows))
    assert len(requests) == len(rows)
    for row, request in zip(rows, requests, strict=True):
        assert digest(PLAIN.decode(request.prompt)) == row["sha256"]
        assert request.id == str(row["id"])


@pytest.mark.real
def test_scored_texts_are_the_published_ones_in_the_published_order(smollm2: Checkpoint, shared: Path) -> None:
    tokenizer = smollm2.tokenizer
    task = opened("wikitext_bpc", Data("mirror", shared / "data/mirror"), tokenizer)
    rows = golden(shared, "wikitext_bpc")
    assert len(task) == len(rows)
    for row, request in zip(rows, task.requests(len(rows)), strict=True):
        assert digest(tokenizer.decode(request.prompt)) == row["prefill_sha256"]
        assert digest(tokenizer.decode(request.forced)) == row["reference_sha256"]
        assert (request.steps, request.context, request.until) == (0, 0, ())


def test_a_reference_too_long_to_be_scored_is_refused() -> None:
    writer = Writer("wikitext_bpc", PLAIN, most=None, by_reference=True, forced=True)
    doc = {"id": "7", "context": "", "reference": "x" * 257}
    with pytest.raises(UserError, match=r"example 7 has 257 tokens with this tokenizer; there is room for 256"):
        writer.write(0, [doc], ["prompt"])


@pytest.mark.real
def test_needle_tokens_are_the_published_ones(smollm2: Checkpoint, shared: Path) -> None:
    rows = golden(shared, "needle_smollm2-135m_8192")
    lengths = tuple(range(896, 8192, 1024))
    data = Data("mirror", shared / "data/mirror")
    task = opened("needle", data, smollm2.tokenizer, needle_lengths=lengths, needle_depths=11)
    requests = task.requests(len(rows) + 1)
    assert [request.id for request in requests] == [row["id"] for row in rows]
    for row, request in zip(rows, requests, strict=True):
        assert sha256(" ".join(map(str, request.prompt)).encode()).hexdigest() == row["token_ids_sha256"]
        assert len(request.prompt) == row["tokens"] == request.prompt_tokens + 1


@pytest.mark.real
def test_prompt_tokens_are_counted_as_published(smollm2: Checkpoint, shared: Path) -> None:
    task = opened("squad", Data("mirror", shared / "data/mirror"), smollm2.tokenizer)
    counts = [request.prompt_tokens for request in task.requests(8)]
    assert counts == [1247, 1374, 1271, 1820, 1733, 1585, 1228, 1495]


def test_prompts_do_not_depend_on_the_stop_rule(tasks: dict[str, Task], shared: Path) -> None:
    for name in ("squad", "triviaqa", "repetition"):
        paper = opened(name, Data("mirror", shared / "data/mirror"), PLAIN, stop="paper").requests(5)
        for ours, theirs in zip(tasks[name].requests(5), paper, strict=True):
            assert ours.prompt == theirs.prompt
            assert theirs.until == ()
            assert ours.until == (() if name == "repetition" else ("\n",))


def test_steps_are_the_examples_own(shared: Path) -> None:
    data = Data("mirror", shared / "data/mirror")
    assert {request.steps for request in opened("triviaqa", data).requests(31)} == {30}
    assert {request.steps for request in opened("repetition", data).requests(5)} == {128}, "a byte is a token here"
    assert {request.steps for request in opened("needle", data).requests(5)} == {5 + 53}
    for name in ("squad", "triviaqa"):
        steps = {request.steps for request in opened(name, data, stop="paper").requests(31)}
        assert len(steps) > 1, "as many as each example's longest answer, and 5"
        assert 5 < min(steps) <= max(steps) <= 30


WRITER = Writer("t", bytes_tokenizer(), most=None, steps=3)
DOC = {"id": "a", "context": "context"}


def test_whole_prompts_keep_their_special_tokens_and_do_not_count_them() -> None:
    (request,) = WRITER.write(4, [DOC], ["context and question"])
    assert WRITER.tokenizer.decode(request.prompt) == "<s>context and question"
    assert (request.index, request.prompt_tokens, request.context, request.truncated) == (4, 20, 8, False)


def test_long_prompts_lose_their_beginning_but_not_their_special_tokens() -> None:
    writer = Writer("t", bytes_tokenizer(), most=16, steps=3)
    (request,) = writer.write(0, [DOC], ["context and question"])
    assert writer.tokenizer.decode(request.prompt) == "<s>xt and question"
    assert (len(request.prompt), request.prompt_tokens, request.context, request.truncated) == (16, 20, 3, True)


def test_a_prompt_that_just_fits_is_not_cut() -> None:
    writer = Writer("t", bytes_tokenizer(), most=21)
    assert writer.write(0, [DOC], ["context and question"]) == [
        Writer("t", bytes_tokenizer(), most=None).write(0, [DOC], ["context and question"])[0]
    ]


def test_a_context_that_is_cut_away_whole_leaves_its_special_token_only() -> None:
    writer = Writer("t", bytes_tokenizer(), most=9)
    (request,) = writer.write(0, [DOC], ["context and question"])
    assert writer.tokenizer.decode(request.prompt) == "<s>question"
    assert request.context == 1


def test_left_means_the_context_less_256(shared: Path) -> None:
    data = Data("mirror", shared / "data/mirror")
    assert all(len(request.prompt) <= 8192 for request in opened("triviaqa", data, truncate="refuse").requests(3))
    whole = opened("triviaqa", data, max_prompt=100).requests(3)
    cut = opened("triviaqa", data, max_prompt=100, truncate="left").requests(3)
    assert [len(request.prompt) for request in cut] == [100] * 3
    assert [a.prompt[-99:] for a in whole] == [b.prompt[-99:] for b in cut]
    assert [a.prompt_tokens for a in whole] == [b.prompt_tokens for b in cut]


def test_needles_are_never_cut(shared: Path) -> None:
    data = Data("mirror", shared / "data/mirror")
    left, whole = (opened("needle", data, truncate=how, max_prompt=9).requests(6) for how in ("left", "refuse"))
    assert left == whole
    assert [request.id for request in whole] == ["50-0", "50-25", "50-50", "100-0", "100-50", "100-100"]


def test_more_essays_than_there_are_cannot_be_asked_for(shared: Path) -> None:
    with pytest.raises(UserError, match=r"needle.lengths=9000000: the essays have \d+ tokens"):
        opened("needle", Data("mirror", shared / "data/mirror"), needle_lengths=(9_000_000,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop": "never"}, "stop=never: must be task or paper"),
        ({"truncate": "right"}, "truncate=right: must be refuse or left"),
        ({"needle_lengths": (0,)}, r"needle.lengths=\[0\]"),
        ({"needle_depths": 0}, "needle.depths=0"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Protocol(**wrong)
