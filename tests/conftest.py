"""What every test may use. No hub: what a test needs is made here or lies in the package cache, or the test skips."""

import os
import random
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

from sparq_eval.errors import UserError

if TYPE_CHECKING:
    from sparq_eval.hf.checkpoint import Checkpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    # Triton reads it when it is imported, which transformers may do before a test of a kernel does
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk, or becoming another user, needs root")


def pytest_report_header() -> str:
    return f"torch {version('torch')}, transformers {version('transformers')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no core waits for another in the end."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    """Real models get all cores that are this process's; a second thread costs tiny ones more than it brings."""
    own = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    torch.set_num_threads(own if request.node.get_closest_marker("real") else 1)


@pytest.fixture
def seed() -> int:
    """Of inputs that are new each time; pytest shows it, as an argument, where a test fails."""
    seed = random.SystemRandom().randrange(2**32)
    torch.manual_seed(seed)
    random.seed(seed)
    return seed


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 100 kB."""
    at = tmp_path / "disk"
    at.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", at], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the data mirror and the golden values, which lies beside the checkout and is not part of it."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden values: {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> "Checkpoint":
    """The default model, fetched once into the package cache."""
    from sparq_eval.hf.checkpoint import open_checkpoint

    config = yaml.safe_load((Path(__file__).parents[1] / "configs/model/smollm2-135m.yaml").read_text(encoding="utf-8"))
    try:
        return open_checkpoint(**config)
    except UserError as error:
        pytest.skip(str(error))
