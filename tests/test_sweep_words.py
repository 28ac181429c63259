"""The words of a sweep: however they are ordered and spelled, and from wherever they are given, they mean the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import make

from sparq_eval.errors import UserError
from sparq_eval.overrides import check_overrides
from sparq_eval.sweep.__main__ import read_options
from sparq_eval.sweep.cells import Words, cut
from sparq_eval.sweep.manifest import Manifest, frozen, read
from sparq_eval.sweep.queue import register, submissions
from sparq_eval.sweep.status import look

pytestmark = pytest.mark.waits

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """Models and tasks by relative paths, and a slow method that only a config of the user's names."""
    home = tmp_path / "home"
    (home / "configs/method").mkdir(parents=True)
    slow = "# @package methods.slow\n_target_: my_slow.Slow\nk: [1, 2]\n"
    (home / "configs/method/slow.yaml").write_text(slow)
    shutil.copy(HERE / "bad_methods.py", home / "my_slow.py")
    for name in ("m0", "m1", "m2"):
        (home / name).symlink_to(made / "model")
    (home / "tasks").symlink_to(made / "tasks")
    return home


WORDS = (
    *("model=any", "model.path=m0,m1,m2", "include_path=tasks", "task=lm_eval/my_words", "method=slow"),
    *("samples=5", "batch_size=1", "selfcheck=off", "results_dir=results"),
)


def python(cwd: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "SLOW": "0", **more}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def run(cwd: Path, *arguments: str) -> tuple[int, str, str]:
    process = python(cwd, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "spelled",
    [
        ("-m", "--config-dir", "configs", *WORDS),
        ("--config-dir=configs", *WORDS, "--multirun"),
        (*WORDS[:3], "-cd", "configs", "-m", *WORDS[3:]),
        ("-m", *WORDS, "-cd=configs"),
    ],
    ids=["two words", "one word", "in the midst", "at the end"],
)
def test_flags_may_stand_anywhere_and_a_plan_takes_what_a_sweep_takes(
    home: Path, monkeypatch: pytest.MonkeyPatch, spelled: tuple[str, ...]
) -> None:
    monkeypatch.chdir(home)
    check_overrides(spelled)
    planned = Words.of(read_options(["plan", *spelled, "--records-only"]).words)
    assert planned == Words.of(spelled) == Words.of(["--config-dir", str(home / "configs"), *WORDS])
    assert planned == Words.of(spelled, cwd=home) and planned.flags == ["--config-dir", str(home / "configs")]
    monkeypatch.syspath_prepend(home)
    assert [cell.config["methods"]["slow"]["k"] for cell in cut(planned)] == [[1, 2]] * 3


def test_flags_that_mean_nothing_to_a_sweep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unrecognized arguments: --configs"):
        Words.of(["--configs", *WORDS])
    with pytest.raises(UserError, match="mine: a sweep is composed from the config of this package"):
        Words.of(["-cn", "mine", *WORDS])
    with pytest.raises(UserError, match=r"--config-dir=.*/none: must be a folder that is there"):
        cut(Words.of(["--config-dir", str(tmp_path / "none"), *WORDS]))


@pytest.mark.parametrize(
    ("asked", "shown"), [("--help", "== Config =="), ("--cfg=job", "samples: 4"), ("--version", "Hydra 1")]
)
def test_what_asks_to_be_shown_something_is_shown_it_and_nothing_is_begun(
    tmp_path: Path, asked: str, shown: str
) -> None:
    status, out, err = run(tmp_path, "sparq_eval", "-m", asked, "samples=4", "k=8,12")
    assert status == 0 and shown in out, err
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_resumed_from_anywhere_with_the_paths_of_its_submission(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    words = ["--config-dir=configs", "-m", *WORDS]
    begun = python(home, "sparq_eval", *words, "sweep_dir=sweep", HELD=str(home / "m0"))
    until(lambda: list(home.glob("sweep/cells/0000-*/todo.json")))
    kill(begun)
    status, out, err = run(tmp_path / "elsewhere", "sparq_eval.sweep", "resume", str(home / "sweep"))
    assert status == 0 and "3 cells: 3 done" in out, err
    assert f"relative paths begin in {home}, where the sweep was submitted" in err
    assert not list((tmp_path / "elsewhere").iterdir()) and len(list(home.glob("results/m?"))) == 3
    home.rename(tmp_path / "moved")
    status, _, err = run(tmp_path / "elsewhere", "sparq_eval.sweep", "resume", str(tmp_path / "moved/sweep"))
    assert status == 2 and f"{home}, where it was submitted and its relative paths begin, is gone" in err


def test_cells_of_a_launcher_that_outlives_its_parent_are_in_line(home: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    words = ["-m", "--config-dir", "configs", *WORDS, "sweep_dir=sweep"]
    parent = python(home, "sparq_eval", *words, HELD=str(held))
    until(lambda: list(home.glob("sweep/cells/0000-*/todo.json")))
    child = child_of(parent)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for pipe in (parent.stdout, parent.stderr):
        assert pipe is not None
        pipe.close()
    sweep = read(home / "sweep")
    try:
        assert [each.state for each in look(sweep)] == ["running", "waiting", "waiting"]
        assert look(sweep)[1].why == "in line on this machine"
        status, _, err = run(home, "sparq_eval.sweep", "resume", "sweep")
        assert status == 2 and f"process {child} on" in err and "is sending off cells of this sweep" in err
    finally:
        os.kill(child, signal.SIGKILL)
    until(lambda: not look(sweep)[0].live)
    first, *others = look(sweep)
    assert "ended without a word (killed, or out of time or memory)" in first.why
    why = "it was sent off and never began: the process that ran the cells one after another ended before its turn"
    assert [(each.state, each.why) for each in others] == [("failed", why)] * 2
    status, out, err = run(home, "sparq_eval.sweep", "resume", "sweep")
    assert status == 0 and "3 cells: 3 done" in out, err


@pytest.fixture
def frozen_sweep(home: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    words = ["--config-dir", "configs", *WORDS]
    return frozen(home / "sweep", words, cut(Words.of(words)))


def test_damaged_lines_of_what_was_sent_off_keep_their_places(frozen_sweep: Manifest) -> None:
    register(frozen_sweep, [0], "basic")
    with (frozen_sweep.folder / "submissions.jsonl").open("a") as file:
        file.write('{}\n[]\n{"cells": 1, "launcher": "slurm", "at": 0}\n{"cells": ["x"]}\n7\nnonsense\n')
    assert [lot.cells for lot in submissions(frozen_sweep)] == [(0,)] + [()] * 6
    assert register(frozen_sweep, [1], "basic").endswith("-7")
    whys = [each.why.split(":")[0] for each in look(frozen_sweep)]
    assert whys == ["it was sent off and never began"] * 2 + ["not submitted"]


def test_a_reader_that_has_seen_enough_ends_a_status_quietly(frozen_sweep: Manifest) -> None:
    closed, pipe = os.pipe()
    os.close(closed)
    command = [sys.executable, "-m", "sparq_eval.sweep", "status", str(frozen_sweep.folder)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, env=environment, stdout=pipe, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (141, "")


def until(what: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def kill(parent: subprocess.Popen[str]) -> None:
    """The process and what it started."""
    os.kill(child_of(parent), signal.SIGKILL)
    parent.kill()
    parent.communicate()


def child_of(parent: subprocess.Popen[str]) -> int:
    found = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_a_folder_of_a_sweep_may_be_quoted() -> None:
    given = {"sweep_dir='my sweep'": "my sweep", 'sweep_dir="it\'s"': "it's", "sweep_dir=plain": "plain"}
    for word, name in given.items():
        assert Words.of([word]).sweep_dir == Path.cwd() / name
    assert Words.of(["sweep_dir=null"]).sweep_dir is None
    for word in ("sweep_dir=#", "sweep_dir=a,b", "sweep_dir='a"):
        with pytest.raises(UserError, match=r"^sweep_dir=.* cannot be read"):
            Words.of([word])
