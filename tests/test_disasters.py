"""A disk that is full, a permission that is lost, a folder that is gone: a clear sentence, nothing written is lost."""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from killed import in_process, killed_in, make, overrides, settings_of, told, whole_run
from test_store import IDENTITY, RUN, entry, indices_on_disk, record, row

from sparq_eval.errors import UserError
from sparq_eval.evaluate import run as run_module
from sparq_eval.evaluate.plan import Cell
from sparq_eval.evaluate.run import run
from sparq_eval.results import Identity, Store, load
from sparq_eval.results import disk as files
from sparq_eval.results.prompts import PROMPTS, Prompt, keep_prompts, load_prompts
from sparq_eval.results.tidy import remove, rubbish
from sparq_eval.results.verify import set_aside, verify
from sparq_eval.sweep import work as work_module
from sparq_eval.sweep.cells import Words, cut
from sparq_eval.sweep.manifest import frozen
from sparq_eval.sweep.queue import register
from sparq_eval.sweep.status import look
from sparq_eval.sweep.work import work

pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


@ROOT
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_space(folder: Path, disk: Path, tmp_path: Path) -> None:
    whole_run(settings_of(overrides(folder, tmp_path / "whole")))
    settings = settings_of(overrides(folder, disk / "results"))
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\); what is there is kept"):
        run(settings)
    before = load(settings.results_dir).samples
    assert len(before) > 0, "what was written is valid"
    with pytest.raises(UserError, match="No space left"):
        run(settings)
    assert len(load(settings.results_dir).samples) >= len(before)
    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    run(settings)
    assert told(settings.results_dir) == told(tmp_path / "whole")


@ROOT
def test_an_append_on_a_disk_with_any_space_left_is_whole_or_refused(disk: Path) -> None:
    of = entry(disk)
    of.append([row(0)], RUN)
    filler = disk / "filler"
    for space in range(0, 20000, 1500):
        filler.unlink(missing_ok=True)
        free = os.statvfs(disk)
        filler.write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - space))
        try:
            of.append([row(n, output="y" * 400) for n in range(1, 20)], RUN)
        except UserError as error:
            assert "No space left" in str(error)
        there = sorted(of.parsed().indices)
        assert there == list(range(len(there))) and 0 in there
    filler.unlink()
    of.append([row(n, output="y" * 400) for n in range(1, 20)], RUN)
    assert sorted(indices_on_disk(of)) == list(range(20)) and record(of)["summary"]["samples"] == 20


@ROOT
def test_a_permission_that_is_lost_in_mid_run_is_a_clear_sentence(tmp_path: Path) -> None:
    home = Path("/tmp") / f"sparq-eval-{os.getpid()}"  # tmp_path's parents are root's alone
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    try:
        here, there = multiprocessing.get_context("fork").Pipe()

        def write() -> None:
            os.setuid(65534)
            of = entry(home / "results")
            of.append([row(0)], RUN)
            there.send("written")
            there.recv()
            try:
                of.append([row(1)], RUN)
            except UserError as error:
                there.send(str(error))

        process = in_process(write)
        assert here.recv() == "written"
        for path in [*(home / "results").rglob("*")]:
            os.chown(path, 0, 0)
            path.chmod(0o755 if path.is_dir() else 0o644)
        here.send("go")
        assert "could not be written (Permission denied); what is there is kept" in here.recv()
        process.join()
        assert len(load(home / "results").samples) == 1
    finally:
        shutil.rmtree(home)


def test_results_of_a_task_that_is_done_deleted_in_mid_run_are_missed_at_its_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of([*overrides(folder, tmp_path / "results"), "task=[lm_eval/my_words,lm_eval/my_text]"])
    right = run_module.measure

    def measure(cell: Cell, *rest: Any) -> None:
        if cell.task.name == "lm_eval/my_text":
            shutil.rmtree(settings.results_dir)
        right(cell, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "measure", measure)
        with pytest.raises(UserError, match="and 4 more records: 25 rows that were written are gone"):
            run(settings)
    assert len(load(settings.results_dir).samples) == 25, "those of the second task are there"
    run(settings)
    assert len(load(settings.results_dir).samples) == 50


@ROOT
def test_a_sweep_on_a_full_disk_is_said_to_be_that_and_not_killed(
    folder: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*overrides(folder), "task=[lm_eval/my_words,lm_eval/my_text]", "selfcheck=off"]
    sweep = frozen(disk / "sweep", words, cut(Words.of(words)))
    right = work_module.measure

    def fill(*given: Any) -> Any:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 512):
                pass
        return right(*given)

    monkeypatch.setattr(work_module, "measure", fill)
    register(sweep, [0, 1], "basic")
    with pytest.raises(UserError, match="No space left on device"):
        work(sweep.folder, 0)
    with pytest.raises(UserError, match="No space left on device"):
        work(sweep.folder, 1)
    first, second = look(sweep)
    full = f"the disk that {sweep.folder} is on is full"
    assert first.why.endswith(f"ended without a word (there is no space for it: {full})")
    assert second.why == f"it was sent off and never began: {full}"
    (disk / "filler").unlink()
    assert "killed" in look(sweep)[0].why and "full" not in look(sweep)[1].why
    monkeypatch.setattr(work_module, "measure", right)
    work(sweep.folder, 0)
    assert look(sweep)[0].state == "done"


def test_a_results_folder_deleted_in_mid_run_stops_it_with_a_clear_sentence(tmp_path: Path) -> None:
    of = entry(tmp_path / "results")
    of.append([row(0), row(1)], RUN)
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(UserError, match="2 rows that were written are gone: the folder was deleted or changed"):
        of.append([row(2)], RUN)
    again = entry(tmp_path / "results")
    again.append([row(n) for n in range(3)], RUN)
    assert indices_on_disk(again) == [0, 1, 2]


def write_all(root: Path, seed: int) -> None:
    """Every writer has each record to write, in an order and in lots of its own."""
    for turn in range(4):
        for k in range(5):
            of = Store(root).open(settings(k), metric="prefix_match", higher_is_better=True)
            first = (turn + seed + k) % 4 * 5
            of.append([row(n, output="y" * 5000) for n in range(first, first + 5)], RUN | {"started": f"writer {seed}"})


def settings(k: int) -> Identity:
    return replace(IDENTITY, settings={**IDENTITY.settings, "k": k})


def test_eight_writers_and_a_reader_share_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    writers = [in_process(lambda seed=seed: write_all(tmp_path, seed)) for seed in range(8)]  # type: ignore[misc]
    seen = 0
    while any(writer.is_alive() for writer in writers):
        try:
            frames = load(tmp_path)
        except UserError as error:
            assert "no record" in str(error)
            time.sleep(0.01)
            continue
        counts = frames.samples.groupby("key").size()
        assert (counts % 5 == 0).all(), "lots are seen whole"
        assert dict(zip(frames.records["key"], frames.records["samples"], strict=True)) == counts.to_dict()
        assert counts.sum() >= seen
        seen = counts.sum()
    assert all(writer.exitcode == 0 for writer in writers)
    for k in range(5):
        of = Store(tmp_path).open(settings(k), metric="prefix_match", higher_is_better=True)
        assert sorted(indices_on_disk(of)) == list(range(20))
        assert sum(one["samples"] for one in record(of)["runs"]) == 20
    assert "not a record" not in capfd.readouterr().err


def clean(root: Path) -> None:
    for finding in verify(root):
        set_aside(root, finding)


@pytest.mark.parametrize("torn", [False, True])
def test_setting_aside_that_is_killed_at_any_moment_loses_no_good_line(tmp_path: Path, torn: bool) -> None:
    of = entry(tmp_path / "right")
    of.append([row(n) for n in range(8)], RUN)
    keep_prompts(of.path.parent, [Prompt(f"question {n}") for n in range(8)])
    own = of.path.relative_to(tmp_path / "right")
    for file in (of.path / "samples.jsonl", of.path.parent / PROMPTS):
        lines = file.read_bytes().split(b"\n")
        lines[5] = lines[5].replace(b"5", b"6", 1)
        file.write_bytes(b"\n".join(lines))
    killed = moment = 0
    while killed == moment:
        moment += 1
        root = Path(shutil.copytree(tmp_path / "right", tmp_path / f"{moment}"))
        killed += killed_in(lambda root=root: clean(root), moment, torn)  # type: ignore[misc]
        assert entry(root).indices() == {0, 1, 2, 3, 4, 6, 7}
        assert {prompt.text[-1] for prompt in load_prompts(root).values()} == set("0123467")
        for file, aside in (
            (own / "samples.jsonl", own / "samples.torn"),
            (own.parent / PROMPTS, own.parent / "samples.torn"),
        ):
            bad = (tmp_path / "right" / file).read_bytes().split(b"\n")[5]
            there = [(root / name).read_bytes() for name in (file, aside) if (root / name).exists()]
            assert any(bad in content for content in there), "what is bad is in one of the two"
        clean(root)
        assert [finding.what[:20] for finding in verify(root)] == ["1 of 8 rows are gone"]
    assert killed >= 4


def test_whoever_waited_for_a_file_that_was_replaced_goes_on_with_the_new_one(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)
    samples, prompts = of.path / "samples.jsonl", of.path.parent / PROMPTS
    keep_prompts(prompts.parent, [Prompt("a")])
    # threads: a process that is forked here would have the locks too
    with ThreadPoolExecutor() as pool, files.writing(samples) as first, files.writing(prompts) as second:
        waiting = [
            pool.submit(lambda: entry(tmp_path).append([row(1)], RUN)),
            pool.submit(lambda: keep_prompts(prompts.parent, [Prompt("b")])),
        ]
        time.sleep(0.5)
        for path, file in ((samples, first), (prompts, second)):
            file.seek(0)
            files.replace(path, file.read())
    assert [one.exception() for one in waiting] == [None, None]
    assert indices_on_disk(of) == [0, 1] and len(load_prompts(tmp_path)) == 2


def test_rows_that_are_appended_while_others_are_set_aside_are_all_there(tmp_path: Path) -> None:
    of = entry(tmp_path)
    of.append([row(0)], RUN)

    def write() -> None:
        for n in range(1, 60):
            entry(tmp_path).append([row(n)], RUN)

    writer = in_process(write)
    while writer.is_alive():
        with files.writing(of.path / "samples.jsonl") as file:
            file.write(b"no row\n")
        clean(tmp_path)
    assert writer.exitcode == 0 and sorted(indices_on_disk(of)) == list(range(60))


def test_a_folder_that_is_being_written_is_found_as_it_was_written(tmp_path: Path) -> None:
    def write() -> None:
        for k in range(12):
            for n in range(6):
                Store(tmp_path).open(settings(k), metric="m", higher_is_better=True).append([row(n)], RUN)
                keep_prompts(tmp_path / "org--model-1" / "squad", [Prompt(f"{k} {n} " + "y" * 20000)])

    writer, passes, found = in_process(write), 0, set[str]()
    while writer.is_alive():
        found |= set(map(str, verify(tmp_path)))
        passes += 1
    assert writer.exitcode == 0 and not found and passes > 10


def test_what_is_being_written_is_not_tidied_away(tmp_path: Path) -> None:
    def write() -> None:
        for k in range(40):
            of = Store(tmp_path).open(settings(k), metric="m", higher_is_better=True)
            for n in range(4):
                of.append([row(n)], RUN)

    writer, passes = in_process(write), 0
    while writer.is_alive():
        for path, _ in rubbish(tmp_path, failed=True):
            remove(path, failed=True)
        passes += 1
    assert writer.exitcode == 0 and passes > 10 and len(load(tmp_path).samples) == 160


def test_a_folder_whose_lock_is_held_stays_and_one_that_is_tidied_away_is_begun_again(tmp_path: Path) -> None:
    of = entry(tmp_path)
    with files.writing(of.path / "samples.jsonl") as samples:
        assert not remove(of.path)
    assert samples.name and rubbish(tmp_path) == [(of.path, "begun and left before anything was recorded")]
    with ThreadPoolExecutor() as pool, files.writing(of.path / "samples.jsonl"):
        waiting = pool.submit(lambda: of.append([row(0)], RUN))
        time.sleep(0.3)
        shutil.rmtree(of.path)
    assert waiting.exception() is None and indices_on_disk(of) == [0]


def test_prompts_that_were_damaged_and_set_aside_are_kept_again_by_the_same_command(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = settings_of(overrides(folder, tmp_path / "results"))
    whole_run(wanted)
    before = load_prompts(tmp_path / "results")
    for path in (tmp_path / "results").rglob(PROMPTS):
        path.write_bytes(path.read_bytes().replace(b'"text": "', b'"text": "x', 1))
    clean(tmp_path / "results")
    assert 0 < len(load_prompts(tmp_path / "results")) < len(before)
    run(wanted)
    assert "nothing to compute" in capfd.readouterr().err
    assert load_prompts(tmp_path / "results") == before and verify(tmp_path / "results") == []
