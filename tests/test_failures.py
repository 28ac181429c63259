"""A setting that goes wrong has a failed record that says why; the others are measured, and the exit status says so."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killed import make, overrides, settings_of

from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import Settings, read_settings
from sparq_eval.results import load

pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


def settings_with(folder: Path, results: Path, **methods: dict[str, Any]) -> Settings:
    settings = settings_of([*overrides(folder, results), "task=lm_eval/my_words", "selfcheck=off"])
    good = {"h2o": {"_target_": "sparq_eval.methods.H2O", "k": [8, 12, 16]}}
    config = {**settings.config, "methods": good | methods, "k": None, "r": None}
    return read_settings(config)


def failures(settings: Settings) -> dict[str, str]:
    [cell] = run(settings)
    return {str(s): entry.failure for s, entry in zip(cell.settings, cell.entries, strict=True) if entry.failure}


def test_a_setting_that_raises_fails_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_with(folder, tmp_path, raises={"_target_": "bad_methods.Raises", "k": [1, 3, 5]})
    assert failures(settings) == {"raises k=3": "IndexError: index 41 is out of bounds for"}
    assert "raises k=3: failed: IndexError" in capsys.readouterr().err
    frames = load(tmp_path)
    done = frames.records[frames.records["samples"] == 5]
    assert len(done) == len(settings.settings) - 1, "all others have all examples"
    assert "raises-" in capsys.readouterr().err, "the report names the one that failed"


def test_settings_that_run_out_of_memory_or_of_numbers_fail_alone(folder: Path, tmp_path: Path) -> None:
    bad = {
        "hungry": {"_target_": "bad_methods.Hungry", "k": [1]},
        "not_finite": {"_target_": "bad_methods.NotFinite", "k": [1]},
    }
    found = failures(settings_with(folder, tmp_path, **bad))
    assert set(found) == {"hungry k=1", "not_finite k=1"}
    assert "out of memory with one prompt" in found["hungry k=1"]
    assert found["not_finite k=1"] == "5 of 5 answers met logits that are not finite"


def test_a_setting_that_failed_is_tried_again_and_its_failure_taken_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bad_methods

    settings = settings_with(folder, tmp_path, raises={"_target_": "bad_methods.Raises", "k": [3]})
    assert failures(settings)
    monkeypatch.setattr(bad_methods.Raises, "attend", bad_methods.Bad.attend)
    assert not failures(settings)
    assert set(load(tmp_path).records["samples"]) == {5}


def test_the_self_check_leaves_out_what_raises_and_checks_the_rest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bad_methods

    monkeypatch.setattr(bad_methods.Hungry, "unlimited", lambda self, shape: self)
    config = settings_with(folder, tmp_path, hungry={"_target_": "bad_methods.Hungry", "k": [1]}).config
    [cell] = run(read_settings({**config, "selfcheck": "on"}))
    [checked] = {str(entry.record()["runs"][0]["selfcheck"]) for entry in cell.entries}
    assert "'not_checked': ['Hungry']" in checked and "'eager': 0.0" not in checked
    assert [bool(entry.failure) for entry in cell.entries].count(True) == 1


def test_a_full_disk_is_not_a_settings_fault(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparq_eval.hf.engine import Engine

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Engine, "answer", full)
    with pytest.raises(OSError, match="No space"):
        run(settings_with(folder, tmp_path))


def test_the_exit_status_says_that_a_setting_failed(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "configs/method"
    config.mkdir(parents=True)
    (config / "raises.yaml").write_text("# @package methods.raises\n_target_: bad_methods.Raises\nk: [1, 3]\n")
    words = [word for word in overrides(folder, tmp_path / "results") if not word.startswith(("method=", "k=", "r="))]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-m", "sparq_eval", "--config-dir", str(config.parent), *words]
    command += ["method=[raises]", "task=lm_eval/my_words"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "1 of 3 settings failed; their records say why"


def test_what_the_launcher_raises_in_mid_answer_is_not_a_settings_fault(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparq_eval.hf.engine import Engine

    # as its handler of signals does, where Slurm has requeued the job before it could
    handler: dict[str, Any] = {"__name__": "submitit.core.job_environment"}
    exec("def handle(*_, **__): raise __import__('subprocess').CalledProcessError(1, 'scontrol requeue')", handler)
    monkeypatch.setattr(Engine, "answer", handler["handle"])
    with pytest.raises(subprocess.CalledProcessError):
        run(settings_with(folder, tmp_path))
    assert not list(tmp_path.rglob("record.json"))
