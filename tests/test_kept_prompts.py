"""Prompts are kept once, come back as they were, and what is damaged of them is named and never shown."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparq_eval.results import Identity, Row, Store
from sparq_eval.results.compare import merge
from sparq_eval.results.prompts import PROMPTS, digest, keep_prompts, load_prompts
from sparq_eval.results.verify import set_aside, verify

TEXTS = [f"What is {n}?\n\N{SNOWMAN} \ud800" for n in range(40)]


@given(st.lists(st.lists(st.text()), max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_is_kept_in_any_order_comes_back_once(tmp_path_factory: pytest.TempPathFactory, parts: list) -> None:
    folder = tmp_path_factory.mktemp("any")
    for texts in parts:
        keep_prompts(folder, texts)
    every = {text for texts in parts for text in texts if text}
    assert load_prompts(folder) == {digest(text): text for text in every}
    assert not every or (folder / PROMPTS).read_bytes().count(b"\n") == len(every)


def test_writers_at_once_keep_each_prompt_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=keep_prompts, args=(tmp_path, TEXTS[n : n + 30])) for n in range(0, 12, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len((tmp_path / PROMPTS).read_bytes().splitlines()) == len(TEXTS) == len(load_prompts(tmp_path))


def test_a_line_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    keep_prompts(tmp_path, TEXTS[:3])
    whole = (tmp_path / PROMPTS).read_bytes()
    (tmp_path / PROMPTS).write_bytes(whole[:-20])
    assert load_prompts(tmp_path).keys() == {digest(text) for text in TEXTS[:2]}
    keep_prompts(tmp_path, TEXTS[:3])
    assert (tmp_path / PROMPTS).read_bytes() == whole


def test_a_flipped_bit_is_found_named_and_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_prompts(tmp_path, TEXTS[:3])
    path = tmp_path / PROMPTS
    path.write_bytes(path.read_bytes().replace(b"What is 1", b"What is 9"))
    assert load_prompts(tmp_path).keys() == {digest(text) for text in (TEXTS[0], TEXTS[2])}
    assert "lines 2 are not prompts as they were written" in capsys.readouterr().err
    (finding,) = verify(tmp_path)
    assert str(path) in str(finding) and set_aside(tmp_path, finding)
    assert not verify(tmp_path)
    keep_prompts(tmp_path, TEXTS[:3])
    assert len(load_prompts(tmp_path)) == 3


def test_merging_takes_the_prompts_along(tmp_path: Path) -> None:
    identity = Identity({"name": "m"}, "t", {}, "dense", {}, {}, {})
    row = Row(0, "a", 5, 1, "out", 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1, 0.0, 0, False, True, 0.1, "c", digest(TEXTS[0]))
    entry = Store(tmp_path / "b").open(identity, metric="m", higher_is_better=True)
    entry.append([row], {})
    keep_prompts(entry.path.parent, TEXTS[:1])
    assert merge(tmp_path / "a", tmp_path / "b") == (1, 0)
    assert load_prompts(tmp_path / "a") == {digest(TEXTS[0]): TEXTS[0]}
    assert (tmp_path / "a/m/t").is_dir()
