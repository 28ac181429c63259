"""Sweeps on one machine: cells, what they cost, where they stand, two jobs for one cell, the same command again."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed import make, overrides, settings_of, told, whole_run
from rich.console import Console

from sparq_eval.errors import UserError
from sparq_eval.overrides import check_overrides
from sparq_eval.sweep.cells import Cell, Words, cut
from sparq_eval.sweep.code import changed, code_of
from sparq_eval.sweep.estimate import estimate
from sparq_eval.sweep.lease import held, holder
from sparq_eval.sweep.manifest import frozen, read
from sparq_eval.sweep.show import plain, show
from sparq_eval.sweep.status import Standing, look
from sparq_eval.sweep.work import work

pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("tiny"))
    shutil.copytree(made / "model", made / "other")
    return made


@pytest.fixture
def words(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two models on two tasks."""
    monkeypatch.chdir(tmp_path)
    found = [word for word in overrides(folder) if not word.startswith(("model.path=", "task="))]
    return [*found, f"model.path={folder / 'model'},{folder / 'other'}", "task=[lm_eval/my_words,lm_eval/my_text]"]


def python(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_cell_is_one_model_on_one_task_however_they_were_listed(words: list[str]) -> None:
    cells = cut(Words.of(words))
    assert [(cell.model, cell.task) for cell in cells] == [
        (model, task) for model in ("model", "other") for task in ("lm_eval/my_words", "lm_eval/my_text")
    ]
    swept = [
        word.replace("task=[lm_eval/my_words,lm_eval/my_text]", "task=lm_eval/my_words,lm_eval/my_text")
        for word in words
    ]
    assert [cell.digest for cell in cut(Words.of(swept))] == [cell.digest for cell in cells]
    assert all(cell.config["k"] == [8, 12] for cell in cells), "settings stay together"


def test_a_mistake_is_refused_before_anything_is_sent_off(words: list[str]) -> None:
    with pytest.raises(UserError, match="k=0: must be a whole number of at least 1"):
        cut(Words.of([*words, "k=0"]))
    with pytest.raises(UserError, match=r"range\(1,9\).*did you mean|separated by commas|must be"):
        cut(Words.of([*words, "samples=interval(1,9)"]))


def test_the_launchers_are_refused_by_name_where_submitit_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"hydra/launcher=slurm: submitit is not installed here; .*\[cluster\]"):
        check_overrides(["hydra/launcher=slurm"])


def test_the_same_command_is_the_same_sweep_and_another_is_refused_in_its_place(
    words: list[str], tmp_path: Path
) -> None:
    cells = cut(Words.of(words))
    made = frozen(tmp_path / "sweep", words, cells)
    assert frozen(tmp_path / "sweep", words, cut(Words.of(words))).cells == made.cells
    with pytest.raises(UserError, match=r"holds another sweep \(samples=5 there, 4 now\)"):
        frozen(tmp_path / "sweep", words, cut(Words.of([*words, "samples=4"])))


def test_a_manifest_with_a_changed_bit_is_refused(words: list[str], tmp_path: Path) -> None:
    frozen(tmp_path / "sweep", words, cut(Words.of(words)))
    path = tmp_path / "sweep/manifest.json"
    path.write_text(path.read_text().replace('"samples": 5', '"samples": 7'))
    with pytest.raises(UserError, match="cannot be trusted"):
        read(tmp_path / "sweep")


def test_code_that_changed_is_named(words: list[str], tmp_path: Path) -> None:
    made = frozen(tmp_path / "sweep", words, cut(Words.of(words)))
    now = code_of(made.cells, made.folder)
    assert changed(made.code, now) is None
    assert (
        changed(made.code, {**now, "files": {**now["files"], "ops.py": "0"}})
        == "ops.py changed since the sweep was submitted"
    )
    assert "torch changed" in str(changed(made.code, {**now, "versions": {**now["versions"], "torch": "0"}}))


def test_two_jobs_for_one_cell_one_works_and_the_other_leaves(words: list[str], tmp_path: Path) -> None:
    made = frozen(tmp_path / "sweep", words, cut(Words.of(words)))
    both = [
        python("sparq_eval", "-m", "cell=0", f"sweep_dir={tmp_path}/sweep", "hydra.sweep.dir=x", cwd=tmp_path)
        for _ in "12"
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "cell 0000-model-lm_eval--my_words: done" in "".join(said)
    first = look(made)[0]
    assert first.state == "done" and first.rows == first.of == 25
    assert all(each[1] == 5 for each in told(tmp_path / "results").values())


def test_a_job_leaves_a_cell_that_another_holds(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = frozen(tmp_path / "sweep", words, cut(Words.of(words)))
    with held(made.place(made.cells[0])):
        assert holder(made.place(made.cells[0])) is not None
        assert look(made)[0].state == "running"
        work(made.folder, 0)
    assert "works on it: nothing left to do here" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert holder(made.place(made.cells[0])) is None


def test_a_sweep_that_is_killed_goes_on_with_the_same_command(words: list[str], folder: Path, tmp_path: Path) -> None:
    command = ("sparq_eval", "-m", *words, "sweep_dir=sweep")
    parent = python(*command, cwd=tmp_path)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("results/other/**/samples.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True).stdout.split()
    for pid in map(int, children):
        os.kill(pid, signal.SIGKILL)
    parent.kill()
    parent.communicate()
    states = [each.state for each in look(read(tmp_path / "sweep"))]
    assert states[:2] == ["done", "done"] and "failed" in states[2:]
    status = python("sparq_eval.sweep", "status", "sweep", cwd=tmp_path)
    out, _ = status.communicate(timeout=60)
    assert status.returncode == 1 and "ended without a word" in out
    again = python(*command, cwd=tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "4 cells: 4 done" in out
    assert json.loads((tmp_path / "sweep/submissions.jsonl").read_text().splitlines()[-1])["cells"] == [2, 3]
    for model in ("model", "other"):
        tasks = "task=[lm_eval/my_words,lm_eval/my_text]"
        whole_run(settings_of([*overrides(folder, tmp_path / "whole"), f"model.path={folder / model}", tasks]))
    rows = {key: value[2] for key, value in told(tmp_path / "results").items()}
    assert rows == {key: value[2] for key, value in told(tmp_path / "whole").items()}


def test_a_failed_setting_is_in_the_status_with_its_reason(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparq_eval.methods import H2O

    def broken(*_: object) -> None:
        raise ZeroDivisionError("by [nothing]")

    made = frozen(tmp_path / "sweep", words, cut(Words.of([*words, "selfcheck=off"])))
    monkeypatch.setattr(H2O, "attend", broken)
    work(made.folder, 0)
    first = look(made)[0]
    assert first.state == "failed"
    assert first.why.startswith("2 of 5 settings failed: h2o-") and "ZeroDivisionError: by [nothing]" in first.why
    assert "failed" in plain(look(made)) and "[nothing]" in plain(look(made))


def test_the_live_view_follows_until_all_is_at_rest_and_shows_brackets_as_they_are() -> None:
    cell = Cell(3, "m[1]", "squad", {})
    seen = iter(
        [
            [Standing(cell, "running", "job 7_0 on n1", 5, 10, left=65.0), Standing(cell, "waiting", left=100.0)],
            [Standing(cell, "done", rows=10, of=10), Standing(cell, "failed", "ValueError: [red]no[/red]", 2, 10)],
        ]
    )
    out = io.StringIO()
    show(lambda: next(seen), Console(file=out, force_terminal=True, width=120), every=0.0)
    text = out.getvalue()
    assert "1 running, 1 waiting; 2:45 left" in text and "1:05" in text and "m[1]" in text
    assert "1 done, 1 failed" in text and "[red]no[/red]" in text


def test_the_estimate_counts_what_is_missing_and_times_it(words: list[str], tmp_path: Path) -> None:
    costs = estimate(words)
    assert len(costs) == 4
    for cost in costs:
        assert cost.done == 0 and cost.source == "two examples"
        assert cost.seconds is not None and cost.seconds > 0 and cost.memory > 10_000
    first = costs[0]
    assert (first.answers, first.prefills, first.steps) == (25, 5, 25 * 12)
    made = frozen(tmp_path / "sweep", words, cut(Words.of(words)))
    work(made.folder, 0)
    again = estimate([*words, "samples=5"], calibrate=False)
    assert (again[0].done, again[0].prefills, again[0].seconds) == (25, 0, 0.0)
    assert again[2].seconds is None and again[2].source == "nothing known"
