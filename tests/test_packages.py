"""Packages: pip fetches tiny wheels from a folder, so no index and no network is needed."""

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sparq_eval import packages
from sparq_eval.errors import UserError
from sparq_eval.hf.bundle import Bundle, join
from sparq_eval.packages import Package, cache_dir, fetch, file_sha256, known_sha256, read_member


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(tmp_path / "cache"))
    return folder


def publish(index: Path, content: bytes = b"weights", version: str = "1.0") -> Package:
    index.mkdir(exist_ok=True)
    info = f"tiny_model-{version}.dist-info"
    wheel = index / f"tiny_model-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/data/model.bin", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Package("tiny-model", version, file_sha256(wheel))


def wheel_sha256(index: Path) -> str:
    return file_sha256(next(index.iterdir()))


def test_a_wheel_is_fetched_once_and_read_from_the_cache_afterwards(index: Path) -> None:
    package = publish(index)
    wheel = fetch(package)
    assert wheel == cache_dir() / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    (index / wheel.name).unlink()
    assert fetch(package) == wheel
    assert b"".join(read_member(package, "*/data/*.bin")) == b"weights"


@pytest.mark.parametrize("left", ["", "[1]", "{}", '{"path"', "[" * 200_000, "\0" * 90])
def test_a_digest_whose_note_is_damaged_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert known_sha256(file) == expected
    [note] = (cache_dir() / "digests").iterdir()
    right = note.read_text()
    note.write_text(left)
    assert known_sha256(file) == expected and note.read_text() == right


def test_nothing_but_the_wheel_is_left_of_a_fetch(index: Path) -> None:
    wheel = fetch(publish(index))
    assert {path.suffix for path in wheel.parent.iterdir()} == {".whl", ".lock"}


def test_a_wrong_checksum_names_both_and_keeps_the_file(index: Path) -> None:
    package = publish(index)
    wheel = fetch(package)
    wheel.write_bytes(b"something of the user's")
    with pytest.raises(UserError, match=package.sha256) as error:
        fetch(package)
    aside = next(wheel.parent.glob("*.unexpected"))
    assert aside.read_bytes() == b"something of the user's"
    assert file_sha256(aside) in str(error.value) and str(aside) in str(error.value)
    assert file_sha256(fetch(package)) == package.sha256


def test_two_at_once_do_not_harm_each_other(index: Path) -> None:
    package = publish(index)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fetch, [package, package])
    assert first == second and file_sha256(first) == package.sha256


def test_without_the_wheel_one_sentence_says_how_to_get_it(index: Path) -> None:
    with pytest.raises(UserError, match=r"tiny-model==9\.9 is not in .*pip download .*tiny-model==9\.9"):
        fetch(Package("tiny-model", "9.9", "0" * 64))
    assert not list((cache_dir() / "wheels").glob("*.whl"))


def test_without_pip_the_error_says_what_to_install(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = publish(index)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs pip .*ensurepip"):
        fetch(package)


def test_a_bundle_goes_on_where_it_stopped(index: Path, tmp_path: Path) -> None:
    parts = (publish(index, b"wei", "1.0"), publish(tmp_path / "away", b"ghts", "2.0"))
    bundle = Bundle(parts, "*/data/*.bin", 7, hashlib.sha256(b"weights").hexdigest())
    whole = tmp_path / "whole"
    with pytest.raises(UserError, match=r"tiny-model==2\.0 is not in"):
        join("tiny", bundle, whole)
    for wheel in index.iterdir():
        wheel.unlink()  # what arrived before the interruption must not be needed again
    publish(index, b"ghts", "2.0")
    join("tiny", replace(bundle, parts=(parts[0], replace(parts[1], sha256=wheel_sha256(index)))), whole)
    assert whole.read_bytes() == b"weights"


def test_a_bundle_of_other_content_is_refused(index: Path, tmp_path: Path) -> None:
    bundle = Bundle((publish(index),), "*/data/*.bin", 7, "0" * 64)
    with pytest.raises(UserError, match=f"model=tiny: .* 7 bytes with {'0' * 64} are expected"):
        join("tiny", bundle, tmp_path / "whole")


def test_a_pattern_must_match_one_file(index: Path) -> None:
    package = publish(index)
    with pytest.raises(UserError, match=r"'\*\.gguf'"):
        b"".join(read_member(package, "*.gguf"))


def test_pips_announced_sizes_are_read() -> None:
    assert packages._announced(["Collecting x", "  Downloading https://h/x-1-py3-none-any.whl (92.9 MB)\n"]) == 92.9
    assert packages._announced(["Downloading x.whl (512 bytes)"]) == pytest.approx(5.12e-4)
    assert packages._announced(["Processing /index/x.whl"]) == 0.0


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPARQ_EVAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "sparq_eval"
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
