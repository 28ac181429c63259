"""Runs that are killed at any moment and started again: nothing is lost or there twice, all bytes are the same."""

import random
import time
from pathlib import Path

import pytest
from killed import in_process, killed_at, make, overrides, settings_of, told, whole_run

from sparq_eval.evaluate.run import run
from sparq_eval.evaluate.settings import Settings

pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, object]:
    """What an uninterrupted run leaves."""
    whole_run(settings_of(overrides(folder, folder / "whole")))
    return told(folder / "whole")


def settings_in(folder: Path, results: Path) -> Settings:
    return settings_of(overrides(folder, results))


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "killed in mid-write"])
def test_a_run_killed_at_any_write_goes_on_to_the_same_bytes(
    folder: Path, whole: dict, tmp_path: Path, torn: bool
) -> None:
    moments = [1, 2, 3, 5, 8, 13, 21, 34, 55, 80]
    for moment in moments:
        settings = settings_in(folder, tmp_path / f"at {moment}")
        assert killed_at(settings, moment, torn)
        whole_run(settings)
        assert told(settings.results_dir) == whole, f"killed at write {moment}"


def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(folder: Path, whole: dict, tmp_path: Path) -> None:
    settings, chance = settings_in(folder, tmp_path), random.Random(3)
    for _ in range(12):
        process = in_process(lambda: run(settings) and None)
        time.sleep(chance.uniform(0.2, 1.2))
        process.kill()
        process.join()
    whole_run(settings)
    assert told(tmp_path) == whole
