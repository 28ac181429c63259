"""A bench that ends early loses nothing that it timed, and its record says what it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fixture import GPU, attention, bench

from sparq_eval.bench.__main__ import main
from sparq_eval.bench.case import Case, steps_of
from sparq_eval.bench.record import UNFINISHED, Growing, asked
from sparq_eval.bench.timing import Timed
from sparq_eval.report.bench.published import read_published
from sparq_eval.report.bench.write import write_benches
from sparq_eval.results.bench import load_benches, read
from sparq_eval.step import Step

COMMAND = ["attention", "--heads", "2", "--head-size", "16", "--r", "4", "--k", "8", "--device", "cpu"]


def hear_ctrl_c() -> None:
    """As in a terminal: what is started in the background may be deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.waits
def test_what_was_timed_is_kept_when_a_bench_is_stopped(tmp_path: Path) -> None:
    sent = (signal.SIGINT, signal.SIGTERM)
    started = [start(tmp_path / one.name) for one in sent]
    for one, process in zip(sent, started, strict=True):
        assert process.stdout
        told = [process.stdout.readline() for _ in range(3)]
        os.kill(process.pid, one)
        rest, said = process.communicate(timeout=60)
        told += rest.splitlines()
        [record] = load_benches(tmp_path / one.name)
        assert len(record.rows) >= len(told) >= 3 and record.rows[0].implementation == "dense torch"
        assert record.command.endswith("64") and str(tmp_path) not in record.command
        assert process.returncode == 128 + one and record.note == f"interrupted after {len(record.rows)} rows"
        assert f"the {len(record.rows)} rows that were timed are in {tmp_path}" in said and "Traceback" not in said


def start(out: Path) -> subprocess.Popen[str]:
    """A bench of 400 small cases, to be stopped in their midst."""
    command = [sys.executable, "-u", "-m", "sparq_eval.bench", *COMMAND]
    command += ["--batch", *["1"] * 20, "--length", *["64"] * 20, f"--out={out}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear_ctrl_c)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """The command in this process."""
    monkeypatch.setattr("sparq_eval.bench.record.copy_bandwidth", lambda device: 1.0)
    monkeypatch.setattr("sparq_eval.bench.record.matmul_rate", lambda device, dtype: 1.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sparq_eval.bench.attention.time_calls", lambda calls, device: Timed(1.0, 1.0, 1.0, 1))

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["bench", *COMMAND, *words, "--out", str(tmp_path)])
        main()

    return run


def test_an_error_in_a_later_case_keeps_what_was_timed(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail_at_32(case: Case, copies: set[str]) -> dict[str | None, Step]:
        if case.S == 32:
            raise OSError("no more of it")
        return steps_of(case, copies)

    monkeypatch.setattr("sparq_eval.bench.sets.steps_of", fail_at_32)
    with pytest.raises(OSError, match="no more of it"):
        run("--cases", "1:16", "1:32")
    [record] = load_benches(tmp_path)
    assert {row.S for row in record.rows} == {16} and len(record.rows) == 5
    assert record.note == "ended by an error (OSError: no more of it) after 5 rows"


def test_a_bench_that_ends_leaves_one_record_without_a_note_and_shows_how_far_it_is(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--cases", "1:16", "--no-torch")
    assert "attention: 4 rows in 0:0" in capsys.readouterr().err
    [path] = tmp_path.iterdir()
    record = read(path)
    assert record.note == "" and '"note": ""' not in path.read_text() and len(record.rows) == 4
    assert record.command == f"python -m sparq_eval.bench {' '.join(COMMAND)} --cases 1:16 --no-torch"


def test_a_record_grows_in_one_file_and_the_report_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(attention(GPU, "float16", few=True))[:6]
    growing = Growing(replace(bench(rows), rows=()), tmp_path)
    for count, row in enumerate(rows, 1):
        growing.add(row)
        [path] = tmp_path.iterdir()
        assert path == growing.path and len(read(path).rows) == count and read(path).note == UNFINISHED
    benches = load_benches(tmp_path)
    write_benches(benches, tmp_path, read_published(None))
    assert f"has not all that was asked for: {UNFINISHED}" in capsys.readouterr().err


def test_where_a_record_goes_is_no_part_of_its_command() -> None:
    for words in ("--out /x/y", "--out=/x/y", "--ou /x/y"):
        assert asked(f"decode --r 8 {words} --k 4".split()) == ["decode", "--r", "8", "--k", "4"]
    assert asked(["attention", "--others", "--no-torch", "--out"]) == ["attention", "--others", "--no-torch"]
