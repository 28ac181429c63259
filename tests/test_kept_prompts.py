"""Prompts are kept once, come back as they were, and what is damaged of them is named and never shown."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparq_eval.results import Identity, Row, Store
from sparq_eval.results.merge import Merged, merge
from sparq_eval.results.prompts import PROMPTS, Prompt, keep_prompts, load_prompts
from sparq_eval.results.verify import set_aside, verify

PROMPT = st.builds(Prompt, st.text(), st.lists(st.text(), max_size=3).map(tuple))
EVERY = [Prompt(f"What is {n}?\n\N{SNOWMAN} \ud800", ("one", "\N{SNOWMAN}")[: n % 3]) for n in range(40)]


@given(st.lists(st.lists(PROMPT), max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_is_kept_in_any_order_comes_back_once(tmp_path_factory: pytest.TempPathFactory, parts: list) -> None:
    folder = tmp_path_factory.mktemp("any")
    for prompts in parts:
        keep_prompts(folder, prompts)
    every = {prompt for prompts in parts for prompt in prompts if prompt.text}
    assert load_prompts(folder) == {prompt.name: prompt for prompt in every}
    assert not every or (folder / PROMPTS).read_bytes().count(b"\n") == len(every)


def test_writers_at_once_keep_each_prompt_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=keep_prompts, args=(tmp_path, EVERY[n : n + 30])) for n in range(0, 12, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len((tmp_path / PROMPTS).read_bytes().splitlines()) == len(EVERY) == len(load_prompts(tmp_path))


def test_a_line_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    keep_prompts(tmp_path, EVERY[:3])
    whole = (tmp_path / PROMPTS).read_bytes()
    (tmp_path / PROMPTS).write_bytes(whole[:-20])
    assert load_prompts(tmp_path).keys() == {prompt.name for prompt in EVERY[:2]}
    keep_prompts(tmp_path, EVERY[:3])
    assert (tmp_path / PROMPTS).read_bytes() == whole


def test_a_flipped_bit_is_found_named_and_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_prompts(tmp_path, EVERY[:3])
    path = tmp_path / PROMPTS
    path.write_bytes(path.read_bytes().replace(b"What is 1", b"What is 9"))
    assert load_prompts(tmp_path).keys() == {prompt.name for prompt in (EVERY[0], EVERY[2])}
    assert "lines 2 are not prompts as they were written" in capsys.readouterr().err
    (finding,) = verify(tmp_path)
    assert str(path) in str(finding) and set_aside(tmp_path, finding)
    assert not verify(tmp_path)
    keep_prompts(tmp_path, EVERY[:3])
    assert len(load_prompts(tmp_path)) == 3


def test_merging_takes_the_prompts_along(tmp_path: Path) -> None:
    identity = Identity({"name": "m"}, "t", {}, "dense", {}, {}, {})
    row = Row(0, "a", 5, 1, "out", 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1, 0.0, 0, False, True, 0.1, "c", EVERY[0].name)
    entry = Store(tmp_path / "b").open(identity, metric="m", higher_is_better=True)
    entry.append([row], {})
    keep_prompts(entry.path.parent, EVERY[:1])
    assert merge(tmp_path / "a", tmp_path / "b") == Merged(rows=1, notes=0, files=0, different=0)
    assert load_prompts(tmp_path / "a") == {EVERY[0].name: EVERY[0]}
    assert (tmp_path / "a/m/t").is_dir()


def test_a_prompt_with_other_references_is_another_and_older_lines_are_read(tmp_path: Path) -> None:
    alike = [Prompt("a"), Prompt("a", ("b",)), Prompt("a", ("b", "c")), Prompt("a", ("c", "b"))]
    assert len({prompt.name for prompt in alike}) == 4 and not Prompt("", ("b",)).name
    keep_prompts(tmp_path, alike)
    assert list(load_prompts(tmp_path).values()) == alike
    older = b'{"prompt": "ca978112ca1bbdca", "text": "a"}\n'
    (tmp_path / PROMPTS).write_bytes(older)
    assert load_prompts(tmp_path) == {"ca978112ca1bbdca": Prompt("a")}
    name, _, crc = EVERY[0].line.rpartition(b"crc")
    for line in (
        name + b"crc" + crc.upper().replace(crc[4:12].upper(), b"ABCDEF12"),
        b"[]",
        b"1",
        b'{"text": "a"}',
        older.replace(b'"a"', b"1"),
        older[:-2] + b', "references": "b"}',
    ):
        (tmp_path / PROMPTS).write_bytes(line + b"\n")
        assert not load_prompts(tmp_path)
